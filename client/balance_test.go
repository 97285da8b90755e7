package client

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// drawZones are zones with leaders among some nodes, the root zone first.
func drawZones(t *rapid.T) (zones []ledZone) {
	nodes := rapid.IntRange(1, 6).Draw(t, "nodes")
	for i := range rapid.IntRange(1, 30).Draw(t, "zones") {
		z := ledZone{info: nexusraft.ZoneInfo{ID: nexusraft.ZoneID(i + 1), Name: fmt.Sprintf("zone-%d", i)}}
		for node := range nodes {
			if i == 0 || rapid.Bool().Draw(t, "may") {
				z.may = append(z.may, nexusraft.NodeID(node+1))
			}
		}
		if len(z.may) == 0 {
			z.may = []nexusraft.NodeID{1}
		}
		z.leader.Node = rapid.SampledFrom(z.may).Draw(t, "leader")
		z.info.Preferred = nexusraft.NodeID(rapid.IntRange(0, 2*nodes).Draw(t, "preferred"))
		zones = append(zones, z)
	}
	return zones
}

func may(z ledZone, node nexusraft.NodeID) bool {
	for _, x := range z.may {
		if x == node {
			return true
		}
	}
	return false
}

// Each zone is led by a member of it, by the preferred one if that may; and no node leads two zones more than another
// that could take one of them.
func TestLeadersAreSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := drawZones(t)
		leads := spread(zones)
		load := make(map[nexusraft.NodeID]int)
		for _, node := range leads {
			load[node]++
		}
		for i, z := range zones {
			switch {
			case !may(z, leads[i]):
				t.Fatalf("zone %v of %v is led by %v", z.info.ID, z.may, leads[i])
			case i == 0 && leads[i] != z.leader.Node:
				t.Fatalf("the root zone is moved to %v", leads[i])
			case i > 0 && may(z, z.info.Preferred) && leads[i] != z.info.Preferred:
				t.Fatalf("zone %v prefers %v and is led by %v", z.info.ID, z.info.Preferred, leads[i])
			case i == 0 || may(z, z.info.Preferred):
				continue
			}
			for _, other := range z.may {
				if load[leads[i]]-load[other] >= 2 {
					t.Fatalf("%v leads %d zones, and %v, which could lead zone %v, only %d", leads[i], load[leads[i]], other,
						z.info.ID, load[other])
				}
			}
		}
	})
}

// A leadership goes by way of others where no zone is on both nodes, and nothing moves that is even.
func TestLeadersAreSpreadByWayOfOthers(t *testing.T) {
	zone := func(id nexusraft.ZoneID, may ...nexusraft.NodeID) ledZone {
		return ledZone{info: nexusraft.ZoneInfo{ID: id}, leader: nexusraft.Member{Node: may[0]}, may: may}
	}
	zones := []ledZone{
		zone(2, 1, 2), zone(3, 1, 2), zone(4, 1, 2), zone(5, 2, 3), zone(6, 2, 3), zone(7, 3, 2),
	}
	load := make(map[nexusraft.NodeID]int)
	for i, node := range spread(zones) {
		load[node]++
		zones[i].leader.Node = node
	}
	if load[1] != 2 || load[2] != 2 || load[3] != 2 {
		t.Errorf("got %v, want two each", load)
	}
	for i, node := range spread(zones) {
		if node != zones[i].leader.Node {
			t.Errorf("zone %v is moved though all is even", zones[i].info.ID)
		}
	}
}
