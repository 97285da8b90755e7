package availability

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Zone is what the answers of nodes tell of one zone.
type Zone struct {
	Cluster    nexusraft.ClusterID
	Zone       nexusraft.ZoneID
	Name       string                // of the zone; "" if it is not known: nodes answer with IDs
	Leader     *nexusraft.ZoneStatus // the leader's own answer; nil if no leader answers
	Membership nexusraft.Membership
	Replicas   []Replica // members, learners, witnesses; each by name

	shape  nexusraft.Shape // none of a zone with a replica on each node
	moving bool
	named  nexusraft.ReplicaID // without an answer of the leader: the one that the newest answers name, 0 if none
}

// Replica is what the answers tell of one replica of a zone.
type Replica struct {
	nexusraft.Member
	node      *nexusraft.NodeStatus    // what its node says of itself; nil if it does not answer
	own       *nexusraft.ZoneStatus    // what its node says of the zone; nil if nothing
	seen      *nexusraft.ReplicaStatus // what the leader says of it; nil if no leader answers
	err       error                    // why its node does not answer, if it was asked
	successor nexusraft.NodeID         // another node that answers at its address, 0 if none
}

func (v Zone) isRoot() bool { return v.Zone == nexusraft.RootZone }

// title names a zone for people.
func (v Zone) title() string {
	if v.Name == "" {
		return v.Zone.String()
	}
	return fmt.Sprintf("%s (%v)", nexusraft.Printable(v.Name), v.Zone)
}

// title names a replica for people, in as few words as will do.
func (r Replica) title() string {
	if r.Name != "" {
		return nexusraft.Printable(r.Name)
	}
	return r.Node.String()
}

// where is its address for people.
func (r Replica) where() string { return nexusraft.Printable(r.Address) }

// Silent reports whether the leader does not hear the replica; without a leader, whether
// it does not answer here.
func (r Replica) Silent() bool {
	if r.seen != nil {
		return !r.seen.Active
	}
	return r.own == nil
}

// lapsed reports whether its node answers with a certificate that has expired.
func (r Replica) lapsed() bool {
	return r.err != nil && strings.Contains(r.err.Error(), "the certificate of nexus-raft://") &&
		strings.Contains(r.err.Error(), " expired ")
}

// problem is what its node says is wrong with it.
func (r Replica) problem() string {
	if r.node == nil {
		return ""
	}
	return r.node.Problem
}

// Leads reports whether the replica is the leader that answers.
func (v Zone) Leads(r Replica) bool { return v.Leader != nil && v.Leader.Replica == r.Replica }

// Lag is how many entries of the leader's log the replica is not known to have; ok is false
// if no leader answers, or if it knows nothing yet of what the replica has.
func (v Zone) Lag(r Replica) (n nexusraft.Index, ok bool) {
	if r.seen == nil || r.seen.Match == 0 {
		return 0, false
	}
	return v.Leader.LastIndex - min(v.Leader.LastIndex, r.seen.Match), true
}

// behind is the lag in words.
func (v Zone) behind(r Replica) string {
	n, ok := v.Lag(r)
	if !ok {
		return "has nothing of the log yet, as far as its leader knows"
	}
	return fmt.Sprintf("is %d entries behind", n)
}

// replica returns what the answers tell of a replica.
func (v Zone) replica(id nexusraft.ReplicaID) (Replica, bool) {
	i := slices.IndexFunc(v.Replicas, func(r Replica) bool { return r.Replica == id })
	if i < 0 {
		return Replica{}, false
	}
	return v.Replicas[i], true
}

// zoneKey names a zone among those of several clusters, which come in the order of the answers.
type zoneKey struct {
	cluster nexusraft.ClusterID
	zone    nexusraft.ZoneID
}

// view is what one answer says of a zone.
type view struct {
	answer int
	status *nexusraft.ZoneStatus
}

// Zones returns each zone that the answers tell of, by cluster and ID, and the answers of nodes that are in
// none of them. It takes time in proportion to the answers, which may have thousands of zones.
func Zones(answers []client.Answer) (zones []Zone, others []client.Answer) {
	var clusters []nexusraft.ClusterID
	views := make(map[zoneKey][]view)
	for i, a := range answers {
		if a.Err == nil && !slices.Contains(clusters, a.Status.Cluster) {
			clusters = append(clusters, a.Status.Cluster)
		}
		for z := range a.Status.Zones {
			k := zoneKey{a.Status.Cluster, a.Status.Zones[z].Zone}
			views[k] = append(views[k], view{i, &a.Status.Zones[z]})
		}
	}
	keys := slices.SortedFunc(maps.Keys(views), func(a, b zoneKey) int {
		return cmp.Or(cmp.Compare(slices.Index(clusters, a.cluster), slices.Index(clusters, b.cluster)),
			cmp.Compare(a.zone, b.zone))
	})
	for _, k := range keys {
		zones = append(zones, newZone(k, views[k], answers))
	}
	for _, a := range answers {
		if !hasReplica(zones, a) {
			others = append(others, a)
		}
	}
	return zones, others
}

// hasReplica reports whether a zone has a replica on the node that answered, or at the address where
// none did.
func hasReplica(zones []Zone, a client.Answer) bool {
	return slices.ContainsFunc(zones, func(v Zone) bool {
		return slices.ContainsFunc(v.Replicas, func(r Replica) bool {
			return a.Err != nil && r.Address == a.Address || a.Err == nil && r.Node == a.Status.Node
		})
	})
}

func newZone(k zoneKey, views []view, answers []client.Answer) Zone {
	v := Zone{Cluster: k.cluster, Zone: k.zone}
	if v.isRoot() {
		v.Name = nexusraft.RootZoneName
	}
	said := make([]nexusraft.ZoneStatus, len(views))
	for i, x := range views {
		said[i] = *x.status
	}
	if i := nexusraft.LeaderView(said); i >= 0 {
		v.Leader, v.Membership = &said[i], said[i].Membership
		v.shape, v.moving = said[i].Shape, said[i].Moving
	} else {
		newest := slices.MaxFunc(said, func(a, b nexusraft.ZoneStatus) int {
			return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Applied, b.Applied))
		})
		v.named, v.Membership = newest.Leader, newest.Membership
	}
	for _, m := range v.Membership.Members {
		v.Replicas = append(v.Replicas, v.newReplica(m, views, answers))
	}
	order := []nexusraft.Role{nexusraft.RoleMember, nexusraft.RoleLearner, nexusraft.RoleWitness}
	slices.SortFunc(v.Replicas, func(a, b Replica) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Role), slices.Index(order, b.Role)),
			strings.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	return v
}

func (v Zone) newReplica(m nexusraft.Member, views []view, answers []client.Answer) Replica {
	r := Replica{Member: m}
	for i, a := range answers {
		switch {
		case a.Err != nil && a.Address == m.Address:
			r.err = a.Err
		case a.Err == nil && a.Address == m.Address && a.Status.Node != m.Node:
			r.successor = a.Status.Node
		case a.Err == nil && r.node == nil && a.Status.Cluster == v.Cluster && a.Status.Node == m.Node:
			r.node = &answers[i].Status
			if x := slices.IndexFunc(views, func(x view) bool { return x.answer == i }); x >= 0 {
				r.own = views[x].status
			}
		}
	}
	if v.Leader != nil {
		i := slices.IndexFunc(v.Leader.Replicas, func(s nexusraft.ReplicaStatus) bool { return s.Replica == m.Replica })
		if i >= 0 {
			r.seen = &v.Leader.Replicas[i]
		}
	}
	return r
}

// Unsettled reports whether the zone may look different in a moment: no leader answers, or the
// leader hears a replica that does not answer here, or the other way round, or a link is broken.
func (v Zone) Unsettled() bool {
	return v.Leader == nil || len(v.brokenLinks()) > 0 ||
		slices.ContainsFunc(v.Replicas, func(r Replica) bool { return (r.own == nil) != r.Silent() })
}

// ByLeader returns a zone of which only the leader was asked.
func ByLeader(zone nexusraft.ZoneStatus) Zone {
	zones, _ := Zones([]client.Answer{{Status: nexusraft.NodeStatus{Zones: []nexusraft.ZoneStatus{zone}}}})
	return zones[0]
}
