package witness

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A candidate that no record names gets a vote if its node proves to be a full one, which came
// while the witness was away, and not if it is a witness (I13).
func TestVoteForAnUnknownCandidate(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	w.tick(w.config.ElectionTicks) // its leader is silent
	full, other := newFakeMember(t, 5), newFakeMember(t, 6)
	other.id.Witness = true
	v := transport.Vote{Term: 3, LastIndex: 10, LastTerm: 1}
	if r, err := other.vote(w, v); err != nil || r.Outcome != transport.VoteIgnored ||
		!strings.Contains(r.Why, "not known here") {
		t.Errorf("another witness: got %+v, %v, want it ignored, and why", r, err)
	}
	if r, err := full.vote(w, v); err != nil || r.Outcome != transport.VoteGranted {
		t.Errorf("a full node: got %+v, %v, want the vote", r, err)
	}
}

// The stream of a node that is removed ends.
func TestStreamOfARemovedNodeEnds(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	removed := newFakeMember(t, 2)
	removed.send(w, removed.message(raftpb.MsgHeartbeatResp, 2))
	snap := testSnapshot(20, 1)
	snap.Metadata.ConfState = &raftpb.ConfState{Voters: []uint64{1, 3}}
	snap.Data = m.members(w.node()).Without(2).Encode()
	x := m.message(raftpb.MsgSnap, 2)
	x.Snapshot = snap
	m.exchange(w, x, raftpb.MsgAppResp)
	removed.await("end of the stream", func() bool {
		return slices.ContainsFunc(removed.peers.Stats(), func(s transport.PeerStats) bool {
			return s.Peer == w.node() &&
				!s.Connected && s.Err != nil
		})
	})
	if stats := removed.peers.Stats(); !strings.Contains(stats[0].Err.Error(), nexusraft.ErrFenced.Error()) {
		t.Errorf("it ended with %v, want ErrFenced", stats[0].Err)
	}
}
