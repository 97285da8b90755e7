package zone

import (
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// PlanJoin returns the record under which a node that asks to join is to be admitted, or has been:
// isIn. node is what it says of itself, and the replica that it is to become; current returns a record with
// the address that its node has now. Nothing is proposed.
//
// Errors: ErrNotLeader. ErrFenced for a node that was removed, or whose disk was copied or rolled back.
// ErrRefused with the reason, or NotYet.
func PlanJoin(
	r *Replica, node nexusraft.Member, current func(nexusraft.Member) nexusraft.Member,
) (m nexusraft.Member, isIn bool, err error) {
	if !r.leads() {
		return m, false, nexusraft.ErrNotLeader
	}
	if m, isIn = r.members.Node(node.Node); isIn {
		return m, true, admittedAgain(m, node.Role)
	}
	if err := r.checkJoin(node, current); err != nil {
		return m, false, err
	}
	m = node
	if m.Role != nexusraft.RoleWitness {
		m.Role = nexusraft.RoleLearner
	}
	return m, false, nil
}

// admittedAgain says why a node that has a record can't have its admission once more. A
// member has had it: it was promoted for what its replica has acknowledged. If it asks, its
// disk was copied or rolled back, and its replica's word would no longer hold (I5).
func admittedAgain(m nexusraft.Member, want nexusraft.Role) error {
	if m.Role == nexusraft.RoleMember {
		return fmt.Errorf("%w: node %v is a member and asks to join: its data directory was copied or rolled back",
			nexusraft.ErrFenced, m.Node)
	}
	if (m.Role == nexusraft.RoleWitness) != (want == nexusraft.RoleWitness) {
		return fmt.Errorf("%w: node %v is in the zone as a %s", nexusraft.ErrRefused, m.Node, m.Role)
	}
	return nil
}

// checkJoin refuses a node that has no record.
func (r *Replica) checkJoin(node nexusraft.Member, current func(nexusraft.Member) nexusraft.Member) error {
	members := r.members
	if members.IsRemovedNode(node.Node) {
		return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, node.Node)
	}
	for _, x := range r.replicas() {
		if node.Name == "" || x.Name != node.Name {
			continue
		}
		// A node whose disk was lost comes back as a new one with its old name.
		if address := current(x.Member).Address; x.Active && address != node.Address {
			return fmt.Errorf("%w: the name %q belongs to node %v, which is active at %s; give --name another one",
				nexusraft.ErrRefused, x.Name, x.Node, address)
		}
	}
	if node.Role != nexusraft.RoleWitness {
		return nil
	}
	if have := members.Count(nexusraft.RoleWitness); have >= members.Shape.Witnesses {
		return tooManyWitnesses(members)
	}
	return needsWitness(members.Count(nexusraft.RoleMember))
}

// needsWitness refuses a witness beside an odd number of members: one more voter would raise the
// quorum, and the zone could lose no more nodes than without it.
func needsWitness(full int) error {
	switch {
	case full < 2:
		return NotYet("a witness is admitted after the second member")
	case full%2 == 1:
		return fmt.Errorf("%w: the zone has %d members, which can lose as many of them with a witness as without; it needs "+
			"none",
			nexusraft.ErrRefused, full)
	}
	return nil
}

func tooManyWitnesses(members nexusraft.Membership) error {
	have := members.Count(nexusraft.RoleWitness)
	i := slices.IndexFunc(members.Members, func(m nexusraft.Member) bool { return m.Role == nexusraft.RoleWitness })
	if i < 0 {
		return fmt.Errorf("%w: the zone is meant to have no witness", nexusraft.ErrRefused)
	}
	m := members.Members[i]
	return fmt.Errorf("%w: the zone has its %d of %d witnesses already, %v at %s; if its disk was lost: nexus-raft "+
		"member remove %v, then start this one again",
		nexusraft.ErrRefused, have, members.Shape.Witnesses, m, m.Address, m.Node)
}
