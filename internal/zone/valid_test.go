package zone

import (
	"testing"

	"go.etcd.io/raft/v3"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone/gate"
)

// TestValid: each contradiction is found, and nothing is found where there is none.
func TestValid(t *testing.T) {
	leading := func() *Replica {
		r := &Replica{
			applied: 10, last: 12, reach: 12, hard: hardState{term: 2, commit: 11}, state: raft.StateLeader,
			gate: gate.New(6, 1),
		}
		r.gate.Begin(2, 9)
		r.proposals.paired = []pairing{{proposal(1), 2, 11, 1}, {proposal(2), 2, 12, 1}}
		return r
	}
	if err := Valid(leading()); err != nil {
		t.Errorf("nothing is wrong, and it says: %v", err)
	}
	for name, spoil := range map[string]func(*Replica){
		"a round is open":           func(r *Replica) { r.inRound = true },
		"applied, not committed":    func(r *Replica) { r.applied = 12 },
		"committed beyond the log":  func(r *Replica) { r.hard.commit = 13 },
		"reaches beyond the log":    func(r *Replica) { r.reach = 13 },
		"a witness leads":           func(r *Replica) { r.cfg.Witness = true },
		"a gate of another term":    func(r *Replica) { r.hard.term = 3 },
		"a gate of a follower":      func(r *Replica) { r.state = raft.StateFollower },
		"terms beyond the budget":   func(r *Replica) { r.terms.spent = maxWitnessBudget + 1 },
		"a pairing that is applied": func(r *Replica) { r.proposals.paired[0].index = 10 },
		"what the gate says":        func(r *Replica) { r.gate.Begin(2, 0) },
	} {
		r := leading()
		spoil(r)
		if err := Valid(r); err == nil {
			t.Errorf("%s: nothing is found", name)
		}
	}
	stopped := leading()
	stopped.inRound, stopped.lost = true, nexusraft.ErrCorrupt
	if err := Valid(stopped); err != nil {
		t.Errorf("a replica that must stop: %v", err)
	}
}
