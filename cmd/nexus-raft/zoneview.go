package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// zoneView is what a survey tells of one zone.
type zoneView struct {
	cluster    nexusraft.ClusterID
	zone       nexusraft.ZoneID
	leader     *nexusraft.ZoneStatus // the leader's own view; nil if no leader answers
	named      nexusraft.ReplicaID   // without that: the leader that the newest answers name, 0 if none
	membership nexusraft.Membership
	rows       []row // members, learners, witnesses; each by name
}

// row is one replica of a zone.
type row struct {
	nexusraft.Member
	node *nexusraft.NodeStatus    // what its node says of itself; nil if it does not answer
	own  *nexusraft.ZoneStatus    // what its node says of the zone; nil if nothing
	seen *nexusraft.ReplicaStatus // what the leader says of it; nil if no leader answers
	err  error                    // why its node does not answer, if it was asked
	heir nexusraft.NodeID         // another node that answers at its address, 0 if none
}

// title names a replica for people, in as few words as will do.
func (r row) title() string {
	if r.Name != "" {
		return printable(r.Name)
	}
	return r.Node.String()
}

// silent reports whether the leader does not hear the replica; without a leader, whether
// it does not answer here.
func (r row) silent() bool {
	if r.seen != nil {
		return !r.seen.Active
	}
	return r.own == nil
}

// problem is what its node says is wrong with it.
func (r row) problem() string {
	if r.node == nil {
		return ""
	}
	return r.node.Problem
}

// leads reports whether the replica is the leader that answers.
func (v zoneView) leads(r row) bool { return v.leader != nil && v.leader.Replica == r.Replica }

// lag is how many entries of the leader's log the replica is not known to have; ok is false
// if no leader answers, or if it knows nothing yet of what the replica has.
func (v zoneView) lag(r row) (n nexusraft.Index, ok bool) {
	if r.seen == nil || r.seen.Match == 0 {
		return 0, false
	}
	return v.leader.LastIndex - min(v.leader.LastIndex, r.seen.Match), true
}

// behind is the lag in words.
func (v zoneView) behind(r row) string {
	n, ok := v.lag(r)
	if !ok {
		return "has nothing of the log yet, as far as its leader knows"
	}
	return fmt.Sprintf("is %d entries behind", n)
}

// row returns the row of a replica.
func (v zoneView) row(id nexusraft.ReplicaID) (row, bool) {
	i := slices.IndexFunc(v.rows, func(r row) bool { return r.Replica == id })
	if i < 0 {
		return row{}, false
	}
	return v.rows[i], true
}

// zoneViews returns a view of each zone that the answers tell of, and the answers that
// belong to no zone's row.
func zoneViews(answers []client.Answer) (views []zoneView, others []client.Answer) {
	type key struct {
		cluster nexusraft.ClusterID
		zone    nexusraft.ZoneID
	}
	var keys []key
	for _, a := range answers {
		for _, z := range a.Status.Zones {
			if k := (key{a.Status.Cluster, z.Zone}); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	for _, k := range keys {
		views = append(views, newZoneView(k.cluster, k.zone, answers))
	}
	for _, a := range answers {
		if !hasRow(views, a) {
			others = append(others, a)
		}
	}
	return views, others
}

// hasRow reports whether some row is about the node that answered, or about the address
// where none did.
func hasRow(views []zoneView, a client.Answer) bool {
	return slices.ContainsFunc(views, func(v zoneView) bool {
		return slices.ContainsFunc(v.rows, func(r row) bool {
			return a.Err != nil && r.Address == a.Address || a.Err == nil && r.Node == a.Status.Node
		})
	})
}

func newZoneView(cluster nexusraft.ClusterID, zone nexusraft.ZoneID, answers []client.Answer) zoneView {
	v := zoneView{cluster: cluster, zone: zone}
	var views []nexusraft.ZoneStatus
	for _, a := range answers {
		for _, z := range a.Status.Zones {
			if a.Status.Cluster == cluster && z.Zone == zone {
				views = append(views, z)
			}
		}
	}
	if i := nexusraft.LeaderView(views); i >= 0 {
		v.leader, v.membership = &views[i], views[i].Membership
	} else {
		newest := slices.MaxFunc(views, func(a, b nexusraft.ZoneStatus) int {
			return cmp.Or(cmp.Compare(a.Term, b.Term), cmp.Compare(a.Applied, b.Applied))
		})
		v.named, v.membership = newest.Leader, newest.Membership
	}
	for _, m := range v.membership.Members {
		v.rows = append(v.rows, v.newRow(m, answers))
	}
	order := []nexusraft.Role{nexusraft.RoleMember, nexusraft.RoleLearner, nexusraft.RoleWitness}
	slices.SortFunc(v.rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Role), slices.Index(order, b.Role)),
			strings.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	return v
}

func (v zoneView) newRow(m nexusraft.Member, answers []client.Answer) row {
	r := row{Member: m}
	for i, a := range answers {
		switch {
		case a.Err != nil && a.Address == m.Address:
			r.err = a.Err
		case a.Err == nil && a.Address == m.Address && a.Status.Node != m.Node:
			r.heir = a.Status.Node
		case a.Err == nil && r.node == nil && a.Status.Cluster == v.cluster && a.Status.Node == m.Node:
			r.node = &answers[i].Status
			if z := slices.IndexFunc(a.Status.Zones, func(z nexusraft.ZoneStatus) bool { return z.Zone == v.zone }); z >= 0 {
				r.own = &answers[i].Status.Zones[z]
			}
		}
	}
	if v.leader != nil {
		i := slices.IndexFunc(v.leader.Replicas, func(s nexusraft.ReplicaStatus) bool { return s.Replica == m.Replica })
		if i >= 0 {
			r.seen = &v.leader.Replicas[i]
		}
	}
	return r
}
