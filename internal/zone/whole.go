package zone

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Lacks says what a zone lacks to be whole, so that it can lose any one node, by its leader's status; nil
// if nothing.
func Lacks(s nexusraft.ZoneStatus) error {
	members, witnesses := s.Membership.Count(nexusraft.RoleMember), s.Membership.Count(nexusraft.RoleWitness)
	if members < 2 || members+witnesses < 3 {
		return fmt.Errorf("it has %d members and %d witnesses", members, witnesses)
	}
	for _, r := range s.Replicas {
		if r.Role != nexusraft.RoleLearner && r.Replica != s.Replica && !r.Active {
			return fmt.Errorf("its leader does not hear %v", r.Member)
		}
	}
	if witnesses > 0 && s.Sync != nexusraft.InSync {
		return fmt.Errorf("it is %s", s.Sync)
	}
	return nil
}
