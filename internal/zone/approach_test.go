package zone

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// target is a placement: records of these replicas, which are full but for the last witnesses.
func target(witnesses int, ids ...uint64) (to []nexusraft.Member) {
	for i, id := range ids {
		role := member
		if i >= len(ids)-witnesses {
			role = watcher
		}
		to = append(to, record(id, role))
	}
	return to
}

func between(s planner) planner {
	s.joint = true
	return s
}

func set(ms ...nexusraft.Member) Approach { return Approach{Change: &ConfChange{Set: ms}} }

func TestApproachTakesOneStep(t *testing.T) {
	two := zoneOf(member, member, watcher)
	three := zoneOf(member, member, member)
	for name, tc := range map[string]struct {
		s    planner
		to   []nexusraft.Member
		want Approach
	}{
		"it is there":               {standing(two), target(1, 1, 2, 3), Approach{Reached: true}},
		"a member is to come":       {standing(two), target(0, 1, 2, 4), set(record(4, learner))},
		"it catches up":             {standing(two.With(record(4, learner))).behind(4), target(0, 1, 2, 4), Approach{}},
		"it is silent":              {standing(two.With(record(4, learner)), 4), target(0, 1, 2, 4), Approach{}},
		"between two":               {between(standing(two)), target(0, 1), Approach{}},
		"no placement":              {standing(two), nil, Approach{}},
		"the witness goes":          {standing(two), target(0, 1), Approach{Change: &ConfChange{Remove: ids(2, 3)}}},
		"a witness is to come":      {standing(zoneOf(member, member)), target(1, 1, 2, 3), set(record(3, watcher))},
		"2+1 without its follower":  {standing(zoneOf(member, member), 2), target(1, 1, 2, 3), Approach{}},
		"the leader is to go":       {standing(three), target(0, 2, 3), Approach{Transfer: 2}},
		"it stays for the change":   {standing(three), target(0, 2), Approach{Change: &ConfChange{Remove: ids(3)}}},
		"nobody to hand over to":    {standing(three).behind(2).behind(3), target(0, 2, 3), Approach{}},
		"a silent member is to go":  {standing(three, 3), target(0, 1), Approach{Change: &ConfChange{Remove: ids(2, 3)}}},
		"a silent member stays":     {standing(three, 3), target(0, 1, 3), Approach{}}, // of the two both are needed
		"no quorum":                 {standing(three, 2, 3), target(0, 1), Approach{}},
		"an earlier replica's node": {standing(three), target(0, 1, 2, 13), Approach{Change: &ConfChange{Remove: ids(3)}}},
		"2+1, of which the witness can't stay without it": {
			standing(two, 2), target(1, 1, 12, 3), Approach{Change: &ConfChange{Remove: ids(2, 3)}},
		},
		"nor without a quorum": {standing(two, 2, 3), target(1, 1, 12, 3), Approach{}},
		"removed before": {
			standing(two.With(record(4, learner)).Without(4)), target(0, 1, 2, 4), Approach{Removed: ids(4)},
		},
		"all at once": {
			standing(two.With(record(4, learner))), target(0, 1, 2, 4),
			Approach{Change: &ConfChange{Set: target(0, 4), Remove: ids(3)}},
		},
	} {
		for i, m := range tc.to {
			if m.Replica > 10 { // a new replica of an earlier one's node
				tc.to[i].Node = nodeOf(uint64(m.Replica) - 10)
			}
		}
		if diff := cmp.Diff(tc.want, tc.s.approach(tc.to)); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", name, diff)
		}
	}
}

func ids(all ...nexusraft.ReplicaID) []nexusraft.ReplicaID { return all }

// From each shape a zone gets to each other, on the same nodes and on others, and on the way its witnesses are always
// fewer than half of its voters and each change is one that may be.
func TestApproachReachesEachShape(t *testing.T) {
	shapes := [][]nexusraft.Member{
		target(0, 1), target(1, 1, 2, 9), target(0, 1, 2, 3), target(1, 1, 2, 3, 4, 9), target(0, 1, 2, 3, 4, 5),
		target(0, 6), target(1, 6, 7, 9), target(0, 6, 7, 8), target(1, 6, 7, 8, 5, 9), target(0, 4, 5, 6, 7, 8),
	}
	for _, from := range shapes {
		for _, to := range shapes {
			now := nexusraft.Membership{}
			for _, m := range from {
				now = now.With(m)
			}
			walk(t, now, to)
		}
	}
}

// walk takes the steps from a membership to a placement, in which nobody falls behind.
func walk(t *testing.T, now nexusraft.Membership, to []nexusraft.Member) {
	t.Helper()
	self := now.Members[0].Replica
	for range 20 {
		s := standing(now)
		s.self = self
		next := s.approach(to)
		switch {
		case next.Reached:
			return
		case next.Transfer != 0:
			self = next.Transfer
			continue
		case next.Change == nil:
			t.Fatalf("%v to %v: no step", now.Members, to)
		case slices.Contains(next.Change.Remove, self):
			t.Fatalf("%v to %v: the leader takes itself out", now.Members, to)
		}
		for _, m := range next.Change.Set {
			now = now.With(m)
		}
		for _, id := range next.Change.Remove {
			now = now.Without(id)
		}
		if w := now.Count(watcher); 2*w >= voters(now) && w > 0 {
			t.Fatalf("%v to %v: half of the voters are witnesses", now.Members, to)
		}
	}
	t.Fatalf("%v to %v: it has not got there", now.Members, to)
}

func TestPreferredCouldLead(t *testing.T) {
	for name, tc := range map[string]struct {
		s    planner
		node uint64
		want bool
	}{
		"it could":     {standing(zoneOf(member, member)), 2, true},
		"it leads":     {standing(zoneOf(member, member)), 1, false},
		"silent":       {standing(zoneOf(member, member), 2), 2, false},
		"behind":       {standing(zoneOf(member, member)).behind(2), 2, false},
		"a witness":    {standing(zoneOf(member, member, watcher)), 3, false},
		"a learner":    {standing(zoneOf(member, learner)), 2, false},
		"no such node": {standing(zoneOf(member, member)), 7, false},
	} {
		if _, got := tc.s.preferred(nodeOf(tc.node)); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
