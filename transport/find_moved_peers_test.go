package transport

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func statusOf(id Identity, members ...nexusraft.Member) *fakeNode {
	return &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) {
		return nexusraft.NodeStatus{Cluster: id.Cluster, Node: id.Node, Zones: []nexusraft.ZoneStatus{
			{Zone: nexusraft.RootZone, Membership: nexusraft.Membership{Members: members}},
		}}, nil
	}}
}

// Find tells of the nodes of its own cluster and whom they know, waits for one that comes
// up late, and takes neither itself nor a stranger for a peer.
func TestFind(t *testing.T) {
	stranger := identityB
	stranger.Cluster++
	late, stop := serve(t, identityB, &fakeNode{})
	stop()
	self, _ := serve(t, identityA, statusOf(identityA))
	other, _ := serve(t, stranger, statusOf(stranger))

	p := peersOf(t, identityA, PeersOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(map[string]bool)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Find(ctx, []string{late, self, other}, func(n nexusraft.NodeID, addr string) {
			if got[n.String()+" "+addr] = true; len(got) == 2 {
				cancel()
			}
		})
	}()
	serveAt(t, late, NewServer(as(identityB), Handlers{Peer: statusOf(identityB,
		nexusraft.Member{Replica: 1, Node: nodeA, Address: "a:9", Role: nexusraft.RoleMember},
		nexusraft.Member{Replica: 2, Node: nodeB, Address: "b:9", Role: nexusraft.RoleMember},
		nexusraft.Member{Replica: 3, Node: 0xd, Address: "d:9", Role: nexusraft.RoleWitness},
	)}))
	await(t, "Find ends", done)
	want := map[string]bool{nodeB.String() + " " + late: true, nexusraft.NodeID(0xd).String() + " d:9": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
}

// While every peer is connected nobody is asked; and Find ends with its context.
func TestFindRests(t *testing.T) {
	asked := make(chan struct{}, 1)
	addr, _ := serve(t, identityB, &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) {
		asked <- struct{}{}
		return nexusraft.NodeStatus{}, errNotFaked
	}})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	ctx, cancel := context.WithTimeout(t.Context(), findPause/2)
	defer cancel()
	p.Find(ctx, []string{addr}, func(nexusraft.NodeID, string) { t.Error("somebody was found") })
	if len(asked) > 0 {
		t.Error("a peer was asked though all are connected")
	}
}

// A vote of a peer that is not accepted any more does not count.
func TestRefusedPeersVoteDoesNotCount(t *testing.T) {
	var refusing atomic.Bool
	addr, _ := serve(t, identityB, &fakeNode{
		vote: func(_ context.Context, _ nexusraft.NodeID, votes []Vote) ([]VoteResult, error) {
			return []VoteResult{{Zone: votes[0].Zone, From: votes[0].To, To: votes[0].From, Outcome: VoteGranted}}, nil
		},
	})
	p := peersOf(t, identityA, PeersOptions{Accept: func(Identity) error {
		if refusing.Load() {
			return errNotFaked
		}
		return nil
	}})
	connect(t, p, addr)
	refusing.Store(true)
	ended := make(chan error, 1)
	p.RequestVote(nodeB, []Vote{{Zone: 1, From: 1, To: 2, Term: 3}}, func(_ []VoteResult, err error) { ended <- err })
	if err := await(t, "the vote call ends", ended); err == nil {
		t.Error("the vote of a peer that was not accepted counts")
	}
}

// Who answers at a hint as a peer that is connected elsewhere may be a copy of it, and is left
// alone.
func TestFindLeavesWhoIsConnected(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, identityB, &fakeNode{})
	asked := make(chan struct{}, 100)
	answer := statusOf(identityB)
	copied, _ := serve(t, identityB, &fakeNode{status: func(ctx context.Context) (nexusraft.NodeStatus, error) {
		asked <- struct{}{}
		return answer.status(ctx)
	}})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	p.SetAddress(0xd, "127.0.0.1:1") // nobody is there, so Find goes on
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Find(ctx, []string{copied}, func(n nexusraft.NodeID, addr string) { t.Errorf("found %v at %s", n, addr) })
	}()
	for range 2 { // the second time it has judged the first answer
		await(t, "Find asks", asked)
	}
	cancel()
	await(t, "Find ends", done)
}
