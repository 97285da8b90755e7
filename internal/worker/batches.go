package worker

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// batches reports whether a leader may put several commands into one entry: whether each node that has a copy of
// the zone's state reads such entries. The cluster's version says that for good: all nodes have said so before
// it rose, and a node that does not is not let in any more, or ends at its first such entry (I16). Where an
// earlier program was put back on a node all the same, and has said so since, leaders make none: it goes on
// while it meets nothing new.
func (g *group) batches() bool {
	if g.w.version < system.BatchVersion {
		return false
	}
	for _, m := range g.replica.Membership().Members {
		if m.Role == nexusraft.RoleWitness { // it is sent no commands
			continue
		}
		if minor, said := g.w.o.Peering.Minor(m.Node); said && minor < system.BatchVersion {
			return false
		}
	}
	return true
}
