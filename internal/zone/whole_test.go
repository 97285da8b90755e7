package zone

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A zone is whole with all replicas of its shape, which its leader hears, and with a witness in sync.
func TestLacksByShape(t *testing.T) {
	shape := func(members, witnesses int) nexusraft.Shape {
		return nexusraft.Shape{Members: members, Witnesses: witnesses}
	}
	for name, tc := range map[string]struct {
		shape nexusraft.Shape
		roles []nexusraft.Role
		down  int // of the last ones
		sync  nexusraft.SyncState
		whole bool
	}{
		"each node, 1":            {shape(0, 0), []nexusraft.Role{member}, 0, nexusraft.Degraded, false},
		"each node, 2":            {shape(0, 0), []nexusraft.Role{member, member}, 0, nexusraft.InSync, false},
		"each node, 2+1":          {shape(0, 0), []nexusraft.Role{member, member, watcher}, 0, nexusraft.InSync, true},
		"each node, 3":            {shape(0, 0), []nexusraft.Role{member, member, member}, 0, nexusraft.Degraded, true},
		"1":                       {shape(1, 0), []nexusraft.Role{member}, 0, nexusraft.Degraded, true},
		"1, of 2+1":               {shape(2, 1), []nexusraft.Role{member}, 0, nexusraft.Degraded, false},
		"2+1":                     {shape(2, 1), []nexusraft.Role{member, member, watcher}, 0, nexusraft.InSync, true},
		"2+1, degraded":           {shape(2, 1), []nexusraft.Role{member, member, watcher}, 0, nexusraft.Degraded, false},
		"2+1, the witness silent": {shape(2, 1), []nexusraft.Role{member, member, watcher}, 1, nexusraft.InSync, false},
		"2+1, of 3":               {shape(3, 0), []nexusraft.Role{member, member, watcher}, 0, nexusraft.InSync, false},
		"3":                       {shape(3, 0), []nexusraft.Role{member, member, member}, 0, nexusraft.Degraded, true},
		"3 and a learner": {
			shape(3, 0), []nexusraft.Role{member, member, member, learner}, 1, nexusraft.InSync, true,
		},
		"3, of 4+1": {shape(4, 1), []nexusraft.Role{member, member, member}, 0, nexusraft.InSync, false},
		"4+1": {
			shape(4, 1), []nexusraft.Role{member, member, member, member, watcher}, 0, nexusraft.InSync, true,
		},
		"4 of 4+1": {shape(4, 1), []nexusraft.Role{member, member, member, member}, 0, nexusraft.InSync, false},
		"5": {
			shape(5, 0), []nexusraft.Role{member, member, member, member, member}, 0, nexusraft.Degraded, true,
		},
		"5, one silent": {
			shape(5, 0), []nexusraft.Role{member, member, member, member, member}, 1, nexusraft.Degraded, false,
		},
	} {
		s := nexusraft.ZoneStatus{Replica: 1, Membership: zoneOf(tc.roles...), Shape: tc.shape, Sync: tc.sync}
		for i, m := range s.Membership.Members {
			s.Replicas = append(s.Replicas, nexusraft.ReplicaStatus{Member: m, Active: i < len(tc.roles)-tc.down})
		}
		if err := Lacks(s); (err == nil) != tc.whole {
			t.Errorf("%s: got %v, want it whole: %v", name, err, tc.whole)
		}
	}
}
