package zone

import (
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Approach is what a zone's leader is to do next so that the zone gets to a placement: nothing, while something is
// under way or a replica has to catch up, or one of these.
type Approach struct {
	Change   *ConfChange
	Transfer nexusraft.ReplicaID   // it is to lead, as this replica is to go
	Removed  []nexusraft.ReplicaID // these are of the placement and were removed from the zone before: it needs others
	Reached  bool                  // the zone has the replicas of the placement and no others
}

// PlanApproach returns the next step to a placement, which may have members and witnesses.
//
// New members are made learners, one after the other, and catch up. Then one joint change makes the zone what it is to
// be: with all steps of that taken in one, there is no moment in which it can lose fewer nodes than before or after. A
// leader that is to go stays for that, hands over, and is taken out by its successor.
func PlanApproach(r *Replica, to []nexusraft.Member) Approach {
	if !r.TermApplied() { // or its configuration may be an old one
		return Approach{}
	}
	return r.planner().approach(to)
}

func (s planner) approach(to []nexusraft.Member) (a Approach) {
	if s.joint || len(to) == 0 {
		return a
	}
	for _, m := range to {
		if s.members.IsRemoved(m.Replica) {
			a.Removed = append(a.Removed, m.Replica)
		}
	}
	if len(a.Removed) > 0 {
		return a
	}
	for _, m := range to {
		now, in := s.members.Node(m.Node)
		if in && now.Replica != m.Replica { // the node has dropped that one
			return s.without(now)
		}
		if !in && m.Role == nexusraft.RoleMember {
			m.Role = nexusraft.RoleLearner
			return Approach{Change: &ConfChange{Set: []nexusraft.Member{m}}}
		}
	}
	return s.switchTo(to)
}

// without takes a replica out that its node has dropped, so that the node's other one may come: not by the same change,
// as a node has one replica at a time. Where the witnesses would be too many then, as in 2+1, they go, too, and come
// back as other replicas.
func (s planner) without(m nexusraft.Member) Approach {
	c, next := ConfChange{Remove: []nexusraft.ReplicaID{m.Replica}}, s.members.Without(m.Replica)
	if 2*next.Count(nexusraft.RoleWitness) >= voters(next) {
		for _, x := range s.members.Members {
			if x.Role == nexusraft.RoleWitness {
				c.Remove, next = append(c.Remove, x.Replica), next.Without(x.Replica)
			}
		}
	}
	if m.Replica == s.self || s.works(next) != nil {
		return Approach{}
	}
	return Approach{Change: &c}
}

// switchTo returns the step once each member to come is a learner at least.
func (s planner) switchTo(to []nexusraft.Member) Approach {
	c, next := s.difference(to)
	leaves := slices.Index(c.Remove, s.self)
	switch {
	case len(c.Set)+len(c.Remove) == 0:
		return Approach{Reached: true}
	case leaves >= 0 && len(c.Set)+len(c.Remove) == 1:
		return s.handOver(to)
	case leaves >= 0:
		self, _ := s.members.Replica(s.self)
		c.Remove, next = slices.Delete(c.Remove, leaves, leaves+1), next.With(self)
	}
	if !s.ready(to) || s.works(next) != nil {
		return Approach{}
	}
	return Approach{Change: &c}
}

// difference returns the change that makes the zone what it is to be, and what that is.
func (s planner) difference(to []nexusraft.Member) (c ConfChange, next nexusraft.Membership) {
	next = s.members
	for _, m := range s.members.Members {
		if !slices.ContainsFunc(to, func(x nexusraft.Member) bool { return x.Replica == m.Replica }) {
			c.Remove, next = append(c.Remove, m.Replica), next.Without(m.Replica)
		}
	}
	for _, m := range to {
		now, in := s.members.Replica(m.Replica)
		if in && now.Role == m.Role {
			continue
		}
		if in {
			m.Name, m.Address = now.Name, now.Address // which are newer
		}
		c.Set, next = append(c.Set, m), next.With(m)
	}
	return c, next
}

// ready reports whether the members to come have caught up. One that is one already, and is silent, is waited for
// by works alone.
func (s planner) ready(to []nexusraft.Member) bool {
	for _, m := range to {
		now, in := s.members.Replica(m.Replica)
		if m.Role != nexusraft.RoleMember || in && now.Role == nexusraft.RoleMember && !s.seen[m.Replica].active {
			continue
		}
		if !s.caughtUp(m) {
			return false
		}
	}
	return true
}

// handOver has a member that stays lead.
func (s planner) handOver(to []nexusraft.Member) (a Approach) {
	for _, m := range to {
		now, in := s.members.Replica(m.Replica)
		better := a.Transfer == 0 || s.seen[m.Replica].match > s.seen[a.Transfer].match
		if in && now.Role == nexusraft.RoleMember && s.caughtUp(m) && better {
			a.Transfer = m.Replica
		}
	}
	return a
}

// Preferred returns a node's replica if that is not this one, is a member and could lead at once, on the leader.
func Preferred(r *Replica, node nexusraft.NodeID) (replica nexusraft.ReplicaID, ok bool) {
	if !r.leads() || r.Joint() {
		return 0, false
	}
	return r.planner().preferred(node)
}

func (s planner) preferred(node nexusraft.NodeID) (replica nexusraft.ReplicaID, ok bool) {
	m, in := s.members.Node(node)
	ok = in && m.Role == nexusraft.RoleMember && m.Replica != s.self && s.caughtUp(m)
	return m.Replica, ok
}
