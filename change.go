package nexusraft

import "fmt"

// MembershipChange is one change of a zone's replicas, as an operator asks for it. Nodes
// are named, since a node has at most one replica in a zone. Set Remove, or Promote, or
// both Replace and With.
type MembershipChange struct {
	Remove  NodeID // its replica leaves the zone, for ever
	Promote NodeID // a learner, which becomes a member even beyond the zone's declared shape
	Replace NodeID // a member whose place
	With    NodeID // this learner takes, in one joint change
}

// Validate returns ErrRefused unless the change is exactly one of the three.
func (c MembershipChange) Validate() error {
	kinds := 0
	for _, asked := range []bool{c.Remove != 0, c.Promote != 0, c.Replace != 0 || c.With != 0} {
		if asked {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("%w: a change of members is one of remove, promote and replace", ErrRefused)
	case (c.Replace == 0) != (c.With == 0):
		return fmt.Errorf("%w: a replacement names the member that goes and the learner that takes its place", ErrRefused)
	case c.Replace != 0 && c.Replace == c.With:
		return fmt.Errorf("%w: node %v can't replace itself", ErrRefused, c.Replace)
	}
	return nil
}

func (c MembershipChange) String() string {
	switch {
	case c.Remove != 0:
		return fmt.Sprintf("remove %v", c.Remove)
	case c.Promote != 0:
		return fmt.Sprintf("promote %v", c.Promote)
	}
	return fmt.Sprintf("replace %v by %v", c.Replace, c.With)
}
