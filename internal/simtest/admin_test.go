package simtest

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// admin brings the zone to its shape, as a node does: the second member comes as a
// learner, is promoted when it has caught up, and then the witness is admitted.
type admin struct {
	s    *sim
	done bool
}

func (a *admin) step() {
	if a.done || a.s.now%(3*tickSteps) != 0 {
		return
	}
	if n := a.s.leader(); n != nil && !n.witness {
		n.later(a.advise)
	}
}

// advise proposes the next change, if there is one. Whether it commits shows in the
// membership; until then it is proposed again.
func (a *admin) advise(n *node) {
	members := n.r.Membership()
	second, third := a.s.nodes[1], a.s.witness()
	known, ok := members.Replica(second.replica)
	var change zone.ConfChange
	switch promotable := zone.Promotable(n.r); {
	case !ok:
		learner := second.record()
		learner.Role = nexusraft.RoleLearner
		change.Set = []nexusraft.Member{learner}
	case known.Role == nexusraft.RoleLearner && len(promotable) == 0:
		return
	case known.Role == nexusraft.RoleLearner:
		change.Set = []nexusraft.Member{second.record()}
	case members.Count(nexusraft.RoleWitness) == 0:
		change.Set = []nexusraft.Member{third.record()}
	default:
		a.done = true
		return
	}
	change.Time = n.clock()
	err := driver.ProposeConfChange(n.group, change, nil)
	a.s.eventf("%s proposes %s as %s: %v", n.name, change.Set[0].Name, change.Set[0].Role, err)
}
