package availability

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const (
	maxTables = 8  // so many zones have a table each; of more the root zone has one
	maxGroups = 16 // so many groups have a line; those that are left have one together
)

// group is zones of one cluster that are in the same state.
type group struct {
	groupState
	zones []Zone
}

// groupState is what a line about a group says, but for the count and the example.
type groupState struct {
	cluster                          nexusraft.ClusterID
	leader, sync, members, witnesses string
	safe                             bool // any one of the voters can be lost
}

func (v Zone) groupState() groupState {
	g := groupState{cluster: v.Cluster, leader: "NONE ANSWERS", sync: "-", safe: Assess(v).Any}
	var members, witnesses []string
	for _, r := range v.Replicas {
		text := r.title()
		if r.Role == nexusraft.RoleLearner {
			text += " (learner)"
		}
		if r.Silent() {
			text += " SILENT"
		}
		if v.Leads(r) {
			g.leader = r.title()
		}
		if r.Role == nexusraft.RoleWitness {
			witnesses = append(witnesses, text)
		} else {
			members = append(members, text)
		}
	}
	if v.Leader != nil {
		g.sync = cmp.Or(string(v.Leader.Sync), "-")
	}
	g.members, g.witnesses = strings.Join(members, ", "), cmp.Or(strings.Join(witnesses, ", "), "-")
	return g
}

// groups puts zones into groups: those that can't lose any one node first, then the largest.
func groups(zones []Zone) (list []group) {
	index := make(map[groupState]int)
	for _, v := range zones {
		s := v.groupState()
		i, known := index[s]
		if !known {
			i = len(list)
			index[s], list = i, append(list, group{groupState: s})
		}
		list[i].zones = append(list[i].zones, v)
	}
	slices.SortStableFunc(list, func(a, b group) int {
		switch {
		case a.safe == b.safe:
			return cmp.Compare(len(b.zones), len(a.zones))
		case b.safe:
			return -1
		}
		return 1
	})
	return list
}

func yesOrNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "NO"
}

// printGroups writes a line for each group of zones.
func printGroups(w io.Writer, zones []Zone) error {
	fmt.Fprintf(w, "%d zones by their state; --zone NAME shows one of them and what to do, --all each:\n", len(zones))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ZONES\tLEADER\tSYNC\tMEMBERS\tWITNESSES\tCAN LOSE ANY ONE\tFOR EXAMPLE")
	list := groups(zones)
	for _, g := range list[:min(len(list), maxGroups)] {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", len(g.zones), g.leader, g.sync, g.members, g.witnesses,
			yesOrNo(g.safe), g.zones[0].title())
	}
	if len(list) > maxGroups {
		left := 0
		for _, g := range list[maxGroups:] {
			left += len(g.zones)
		}
		fmt.Fprintf(t, "%d\tin %d more states\n", left, len(list)-maxGroups)
	}
	return t.Flush()
}
