package availability

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A zone with a shape has replicas on some of the cluster's nodes. They are changed by its record in the root zone,
// which nexus-raft zone reshape changes, and not one by one.

// shaped reports whether the zone has a shape; false if no node that answers knows.
func (v Zone) shaped() bool { return v.shape != nexusraft.Shape{} }

// reshape is a whole command line that changes the zone's record.
func (v Zone) reshape(format string, args ...any) string {
	return fmt.Sprintf("nexus-raft zone reshape %v ", v.Zone) + fmt.Sprintf(format, args...) +
		" --endpoints " + v.leaderAddress()
}

// comer says what becomes of a learner, which is to be a member.
func (v Zone) comer(r Replica) string {
	if r.Silent() {
		return fmt.Sprintf("start %s again (%s), which is to become a member, or have another node take its place: %s",
			r.title(), r.where(), v.reshape("--off %v --instead", r.Node))
	}
	return fmt.Sprintf("wait: %s %s, and becomes a member once all that are to come have caught up", r.title(),
		v.behind(r))
}

// emptyPlaces says what to do about replicas that the shape has and the zone lacks, or that no shape of one has.
func (v Zone) emptyPlaces() []string {
	members, witnesses := v.Membership.Count(nexusraft.RoleMember), v.Membership.Count(nexusraft.RoleWitness)
	switch {
	case v.moving && len(v.Learners()) == 0:
		return []string{fmt.Sprintf("wait: the zone is under way to its shape, %v; how far: nexus-raft zone show %v",
			v.shape, v.Zone)}
	case v.moving:
		return nil
	case members < v.shape.Members:
		return []string{fmt.Sprintf("%d of the %d members of its shape are there; a node that joins takes a place: "+
			"nexus-raft serve --data-dir DIR --name NAME --listen HOST:PORT --join %s; and so does one that the zone was told "+
			"to leave, once the shape is asked for again: %s", members, v.shape.Members, v.leaderAddress(),
			v.reshape("--members %d --witnesses %d", v.shape.Members, v.shape.Witnesses))}
	case witnesses < v.shape.Witnesses:
		return []string{fmt.Sprintf("the shape %v has a witness, and the zone has none; one that joins takes the place: "+
			"nexus-witness --data-dir DIR --name NAME --listen HOST:PORT --join %s", v.shape, v.leaderAddress())}
	case v.shape.Members == 1:
		return []string{"give the zone a larger shape if it is to survive the loss of a node: " +
			v.reshape("--members 2 --witnesses 1")}
	}
	return nil
}
