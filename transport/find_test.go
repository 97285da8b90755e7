package transport

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func statusOf(id Identity) *fakeNode {
	return &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) {
		return nexusraft.NodeStatus{Cluster: id.Cluster, Node: id.Node}, nil
	}}
}

// Find tells of the nodes of its own cluster, waits for one that comes up late, and takes
// neither itself nor a stranger for a peer.
func TestFind(t *testing.T) {
	stranger := identityB
	stranger.Cluster++
	late, stop := serve(t, identityB, statusOf(identityB))
	stop()
	self, _ := serve(t, identityA, statusOf(identityA))
	other, _ := serve(t, stranger, statusOf(stranger))

	p := peersOf(t, identityA, PeersOptions{})
	found, done := make(chan string, 4), make(chan struct{})
	go func() {
		defer close(done)
		p.Find(t.Context(), []string{late, self, other}, func(n nexusraft.NodeID, addr string) { found <- n.String() + " " + addr })
	}()
	serveAt(t, late, NewServer(as(identityB), statusOf(identityB), nil))
	if diff := cmp.Diff(nodeB.String()+" "+late, await(t, "node B is found", found)); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	await(t, "Find ends", done)
	if len(found) > 0 {
		t.Errorf("found %q, too", <-found)
	}
}

func TestFindEndsWithItsContext(t *testing.T) {
	addr, stop := serve(t, identityB, &fakeNode{})
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	p := peersOf(t, identityA, PeersOptions{})
	go func() {
		defer close(done)
		p.Find(ctx, []string{addr}, func(nexusraft.NodeID, string) { t.Error("found somebody") })
	}()
	cancel()
	await(t, "Find ends", done)
}

// A vote of a peer that is not accepted any more does not count.
func TestRefusedPeersVoteDoesNotCount(t *testing.T) {
	accept := make(chan error, 2)
	addr, _ := serve(t, identityB, &fakeNode{
		vote: func(_ context.Context, _ nexusraft.NodeID, votes []Vote) ([]VoteResult, error) {
			return []VoteResult{{Zone: votes[0].Zone, From: votes[0].To, To: votes[0].From, Outcome: VoteGranted}}, nil
		},
	})
	p := peersOf(t, identityA, PeersOptions{Accept: func(Identity) error { return <-accept }})
	accept <- nil // the stream
	connect(t, p, addr)
	accept <- errNotFaked // the vote
	ended := make(chan error, 1)
	p.RequestVote(nodeB, []Vote{{Zone: 1, From: 1, To: 2, Term: 3}}, func(_ []VoteResult, err error) { ended <- err })
	if err := await(t, "the vote call ends", ended); err == nil {
		t.Error("the vote of a peer that was not accepted counts")
	}
}
