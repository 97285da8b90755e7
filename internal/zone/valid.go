package zone

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone/gate"
)

// Valid returns what is wrong with the replica between two rounds, nil if nothing is. It is for
// tests, and for builds with the tag "invariants". It does not look at a replica that must stop.
func Valid(r *Replica) error {
	switch term := r.gate.Term(); {
	case r.lost != nil:
		return nil
	case r.inRound:
		return errors.New("a round is open")
	case r.applied > r.hard.commit || r.hard.commit > r.last:
		return fmt.Errorf("applied up to %d, committed %d, the log ends at %d", r.applied, r.hard.commit, r.last)
	case r.reach > r.last:
		return fmt.Errorf("the log ends at %d and reaches %d at least", r.last, r.reach)
	case r.cfg.Witness && r.state != raft.StateFollower:
		return fmt.Errorf("a witness is %v (I11)", r.state)
	case term != 0 && (term != r.hard.term || r.state != raft.StateLeader):
		return fmt.Errorf("a gate of term %d, as %v of term %d", term, r.state, r.hard.term)
	case r.sleep.asleep && !r.atRest():
		return fmt.Errorf("asleep: applied up to %d, committed %d, the log ends at %d", r.applied, r.hard.commit, r.last)
	case r.terms.spent > maxWitnessBudget:
		return fmt.Errorf("witnesses have moved it %d terms ahead", r.terms.spent)
	}
	return errors.Join(r.proposals.valid(r.applied), gate.Valid(&r.gate))
}

// valid returns what is wrong with the pairings of a replica that has applied so much.
func (p *proposals) valid(applied nexusraft.Index) error {
	for _, x := range p.paired {
		if x.index <= applied {
			return fmt.Errorf("proposal %d waits for entry %d, and %d is applied", x.id.Sequence, x.index, applied)
		}
	}
	return nil
}
