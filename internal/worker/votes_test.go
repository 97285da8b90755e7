package worker

import (
	"strings"
	"testing"

	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/transport"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A request that is refused, here of another node in the candidate's name, answers for itself and
// takes nobody's place.
func TestRefusedVoteTakesNoPlace(t *testing.T) {
	_, h := admittedWorker(t)
	ask := func(from nexusraft.NodeID) *raftwire.Waiter {
		v := transport.Vote{
			Zone: nexusraft.RootZone, From: leaderReplica, To: selfReplica, Term: 2, LastIndex: 9,
			LastTerm: 1,
		}
		slot := raftwire.NewWaiter(v)
		_ = h.group.Step(from, slot.Message(), slot) // the answer says so, too
		return slot
	}
	honest, forged := ask(leaderNode), ask(leaderNode+1)
	select {
	case r := <-honest.Done():
		t.Errorf("the honest request has got the answer %+v already", r)
	default:
	}
	select {
	case r := <-forged.Done():
		if r.Outcome != transport.VoteIgnored || !strings.Contains(r.Why, "belongs to node") {
			t.Errorf("got %+v, want it ignored, and why", r)
		}
	default:
		t.Error("the forged request waits for an answer")
	}
}
