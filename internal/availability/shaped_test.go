package availability

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var (
	n4 = nexusraft.Member{Replica: 4, Node: 0xa4, Name: "n4", Address: "h4:1", Role: nexusraft.RoleMember}
	n5 = nexusraft.Member{Replica: 5, Node: 0xa5, Name: "n5", Address: "h5:1", Role: nexusraft.RoleMember}
)

// shaped is a zone that has a shape, which these replicas are of.
func shaped(members, witnesses int, replicas ...nexusraft.Member) *situation {
	s := newSituation(replicas...)
	for i := range s.answers {
		z := &s.answers[i].Status.Zones[0]
		z.Zone, z.Shape = 2, nexusraft.Shape{Members: members, Witnesses: witnesses}
	}
	return s
}

func (s *situation) moves() *situation {
	for i := range s.answers {
		s.answers[i].Status.Zones[0].Moving = true
	}
	return s
}

func (s *situation) die(all ...int) *situation {
	for _, i := range all {
		s.dies(i)
	}
	return s
}

func startAgain(n int, node string) string {
	return fmt.Sprintf("\ndo: start n%d again (h%d:1); if its disk is lost, another node takes its place, if one is "+
		"there: nexus-raft zone reshape 2 --off 00000000000000%s --endpoints h1:1", n, n, node)
}

const startWitness = "\ndo: start w1 again (hw:1); if its disk is lost, another node takes its place, if one is " +
	"there: nexus-raft zone reshape 2 --off 00000000000000c1 --endpoints h1:1"

// What zones of each shape can lose, and what is to be done, with all nodes and without some.
func TestAssessShapes(t *testing.T) {
	single := func() *situation { return shaped(1, 0, n1) }
	trio := func() *situation { return shaped(2, 1, n1, n2, w1) }
	three := func() *situation { return shaped(3, 0, n1, n2, n3) }
	four := func() *situation { return shaped(4, 1, n1, n2, n3, n4, w1) }
	five := func() *situation { return shaped(5, 0, n1, n2, n3, n4, n5) }
	degraded := nexusraft.Degraded
	for name, tc := range map[string]struct {
		s    *situation
		want string
	}{
		"1": {single(), "can NOT lose n1: it is the only member, and has the only copy\n" +
			"do: give the zone a larger shape if it is to survive the loss of a node: nexus-raft zone reshape 2 --members 2 " +
			"--witnesses 1 --endpoints h1:1"},
		"2+1": {trio(), "can lose any one of n1, n2, w1"},
		"2+1, a member is down": {
			trio().die(1).gate(degraded), "can NOT lose n1, w1: n2 is silent" + startAgain(2, "a2"),
		},
		"2+1, the witness is down": {trio().die(2), "can NOT lose n1, n2: w1 is silent" + startWitness},
		"2+1, degraded": {trio().gate(degraded).behind(1, 40), "can lose n2\ncan NOT lose n1, w1: n2 is 40 entries behind, " +
			"and the zone is degraded\ndo: wait: the zone is degraded, and will be in sync by itself once its members have " +
			"the same log"},
		"3":                     {three(), "can lose any one of n1, n2, n3"},
		"3, one is down":        {three().die(2), "can NOT lose n1, n2: n3 is silent" + startAgain(3, "a3")},
		"4+1":                   {four(), "can lose any one of n1, n2, n3, n4, w1"},
		"4+1, a member is down": {four().die(3), "can lose n1 or n2 or n3 or w1" + startAgain(4, "a4")},
		"4+1, a member is down, and another one behind": {
			four().die(3).gate(degraded).behind(2, 40), "can lose n3\n" +
				"can NOT lose n1: n4 is silent, w1 may be ahead of the members, and the zone is degraded\n" +
				"can NOT lose n2, w1: n3 is 40 entries behind, and the zone is degraded, n4 is silent" + startAgain(4, "a4"),
		},
		"4+1, two members are down": {
			four().die(2, 3).gate(degraded), "can NOT lose n1: n3 is silent, n4 is silent, w1 may be ahead of the members, " +
				"and the zone is degraded\ncan NOT lose n2, w1: n3 is silent, n4 is silent" + startAgain(3, "a3") +
				startAgain(4, "a4"),
		},
		"4+1, the witness is down": {four().die(4), "can lose n1 or n2 or n3 or n4" + startWitness},
		"4+1, a member and the witness are down": {
			four().die(3, 4), "can NOT lose n1, n2, n3: n4 is silent, w1 is silent" + startAgain(4, "a4") + startWitness,
		},
		"4+1, degraded, one member behind": {
			four().gate(degraded).behind(1, 40), "can lose any one of n1, n2, n3, n4, w1\ndo: wait: the zone is degraded, and " +
				"will be in sync by itself once its members have the same log",
		},
		"4+1, degraded, two members behind": {
			four().gate(degraded).behind(1, 40).behind(2, 30), "can lose n1 or n2 or n3\n" +
				"can NOT lose n4, w1: n2 is 40 entries behind, and the zone is degraded, n3 is 30 entries behind, and the zone " +
				"is degraded\ndo: wait: the zone is degraded, and will be in sync by itself once its members have the same log",
		},
		"5":              {five(), "can lose any one of n1, n2, n3, n4, n5"},
		"5, one is down": {five().die(4), "can lose n1 or n2 or n3 or n4" + startAgain(5, "a5")},
		"5, two are down": {five().die(3, 4), "can NOT lose n1, n2, n3: n4 is silent, n5 is silent" + startAgain(4, "a4") +
			startAgain(5, "a5")},
		"a member is missing": {shaped(3, 0, n1, n2), "can NOT lose n1, n2: 1 of 2 voters would be left, and 2 are needed\n" +
			"do: 2 of the 3 members of its shape are there; a node that joins takes a place: nexus-raft serve --data-dir DIR " +
			"--name NAME --listen HOST:PORT --join h1:1; and so does one that the zone was told to leave, once the shape is " +
			"asked for again: nexus-raft zone reshape 2 --members 3 --witnesses 0 --endpoints h1:1"},
		"the witness is missing": {shaped(2, 1, n1, n2), "can NOT lose n1, n2: 1 of 2 voters would be left, and 2 are " +
			"needed\ndo: the shape 2+1 has a witness, and the zone has none; one that joins takes the place: nexus-witness " +
			"--data-dir DIR --name NAME --listen HOST:PORT --join h1:1"},
		"under way": {shaped(3, 0, n1, n2, w1).moves(), "can lose any one of n1, n2, w1\n" +
			"do: wait: the zone is under way to its shape, 3; how far: nexus-raft zone show 2"},
		"under way, a member comes": {shaped(3, 0, n1, n2, w1, learner(n3)).moves().behind(3, 30), "can lose any one of " +
			"n1, n2, w1\ndo: wait: n3 is 30 entries behind, and becomes a member once all that are to come have caught up"},
		"under way, the member to come is down": {shaped(3, 0, n1, n2, w1, learner(n3)).moves().die(3), "can lose any one " +
			"of n1, n2, w1\ndo: start n3 again (h3:1), which is to become a member, or have another node take its place: " +
			"nexus-raft zone reshape 2 --off 00000000000000a3 --instead --endpoints h1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			zones, _ := Zones(tc.s.answers)
			if d := cmp.Diff(tc.want, strings.Join(Assess(zones[0]).Lines(), "\n")); d != "" {
				t.Errorf("report (-want +got):\n%s", d)
			}
		})
	}
}
