package raftwire

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/transport"
)

// asked is a Network that counts the zones for whose votes a peer was asked, in each call.
type asked struct {
	Network
	calls []int
	zones map[nexusraft.ZoneID]bool
}

func (a *asked) RequestVote(_ nexusraft.NodeID, votes []transport.Vote, _ func([]transport.VoteResult, error)) {
	a.calls = append(a.calls, len(votes))
	for _, v := range votes {
		a.zones[v.Zone] = true
	}
}

// The votes of more zones than one call takes go out in several: none is lost.
func TestVotesOfManyZones(t *testing.T) {
	const zones = 2*transport.MaxVotes + 1
	requests := make([]driver.VoteRequest, zones)
	for i := range requests {
		requests[i] = driver.VoteRequest{
			Zone:    nexusraft.ZoneID(i + 1),
			Message: &raftpb.Message{Type: raftpb.MsgPreVote.Enum()},
		}
	}
	a := &asked{zones: make(map[nexusraft.ZoneID]bool)}
	(&Outbox{Network: a}).RequestVotes(7, requests)
	if len(a.zones) != zones || len(a.calls) != 3 {
		t.Errorf("calls %v for %d zones, want 3 for %d", a.calls, len(a.zones), zones)
	}
	for _, n := range a.calls {
		if n > transport.MaxVotes {
			t.Errorf("a call of %d votes, limit %d", n, transport.MaxVotes)
		}
	}
}
