package zone

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Lacks says what a zone lacks to be whole, by its leader's status; nil if nothing. It is whole when it can lose any
// one node, or, with a shape, when it has all replicas of that and can lose as much as the shape allows.
func Lacks(s nexusraft.ZoneStatus) error {
	has := nexusraft.Shape{
		Members: s.Membership.Count(nexusraft.RoleMember), Witnesses: s.Membership.Count(nexusraft.RoleWitness),
	}
	switch {
	case s.Shape == nexusraft.Shape{} && (has.Members < 2 || has.Members+has.Witnesses < 3):
		return fmt.Errorf("it has %d members and %d witnesses", has.Members, has.Witnesses)
	case s.Shape != nexusraft.Shape{} && has != s.Shape:
		return fmt.Errorf("it has %d members and %d witnesses, and its shape is %v", has.Members, has.Witnesses, s.Shape)
	}
	for _, r := range s.Replicas {
		if r.Role != nexusraft.RoleLearner && r.Replica != s.Replica && !r.Active {
			return fmt.Errorf("its leader does not hear %v", r.Member)
		}
	}
	if has.Witnesses > 0 && s.Sync != nexusraft.InSync {
		return fmt.Errorf("it is %s", s.Sync)
	}
	return nil
}
