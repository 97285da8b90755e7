package availability

import (
	"fmt"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// minorSaid is the first minor version of the protocol whose nodes say which one they speak.
const minorSaid = 4

// versionLines says which nodes of a cluster speak lower versions of the protocol than others do, or than
// the cluster has: a line for each cluster where that is so.
func versionLines(zones []Zone) (lines []string) {
	clusters := make(map[nexusraft.ClusterID][]Replica) // each node that answers, once
	var order []nexusraft.ClusterID
	for _, v := range zones {
		if !slices.Contains(order, v.Cluster) {
			order = append(order, v.Cluster)
		}
		for _, r := range v.Replicas {
			known := func(x Replica) bool { return x.Node == r.Node }
			if r.node != nil && !slices.ContainsFunc(clusters[v.Cluster], known) {
				clusters[v.Cluster] = append(clusters[v.Cluster], r)
			}
		}
	}
	for _, c := range order {
		if line := versionLine(clusters[c]); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// versionLine is versionLines for the nodes of one cluster; "" if there is nothing to say.
func versionLine(nodes []Replica) string {
	byMinor := make(map[uint32][]string)
	var minors []uint32
	var cluster uint32
	for _, r := range nodes {
		minor := r.node.Minor
		if byMinor[minor] == nil {
			minors = append(minors, minor)
		}
		byMinor[minor] = append(byMinor[minor], r.title())
		cluster = max(cluster, r.node.ClusterVersion)
	}
	slices.Sort(minors)
	said := func(minors []uint32) string {
		var parts []string
		for _, minor := range minors {
			verb := "speaks"
			if len(byMinor[minor]) > 1 {
				verb = "speak"
			}
			version := fmt.Sprintf("version %d", minor)
			if minor == 0 {
				version = fmt.Sprintf("a version before %d", minorSaid)
			}
			parts = append(parts, fmt.Sprintf("%s %s %s", strings.Join(byMinor[minor], ", "), verb, version))
		}
		return strings.Join(parts, ", ")
	}
	lower := minors[:max(0, len(minors)-1)]
	if cluster >= minorSaid {
		lower = slices.DeleteFunc(slices.Clone(minors), func(minor uint32) bool { return minor >= cluster })
	}
	switch {
	case len(lower) > 0 && cluster >= minorSaid:
		return fmt.Sprintf("%s, and the cluster has version %d: install the newest release there", said(lower), cluster)
	case len(minors) > 1:
		return said(minors) + ": finish the update"
	}
	return ""
}
