package availability

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// manyZones adds zones to the root zone of a cluster that n1 leads: as the root zone is, but that change
// may change what each node says of it.
func manyZones(count int, change func(zone nexusraft.ZoneID, said []*nexusraft.ZoneStatus)) *situation {
	s := newSituation(n1, n2, w1)
	for id := nexusraft.ZoneID(2); id < nexusraft.ZoneID(count+2); id++ {
		var said []*nexusraft.ZoneStatus
		for i := range s.answers {
			z := s.answers[i].Status.Zones[0]
			z.Zone, z.Replicas = id, append([]nexusraft.ReplicaStatus(nil), z.Replicas...)
			said = append(said, &z)
		}
		if change != nil {
			change(id, said)
		}
		for i, z := range said {
			s.answers[i].Status.Zones = append(s.answers[i].Status.Zones, *z)
		}
	}
	return s
}

// Thousands of zones are a few lines, those with trouble first; the root zone keeps its table.
func TestManyZonesAreGroups(t *testing.T) {
	s := manyZones(3000, func(zone nexusraft.ZoneID, said []*nexusraft.ZoneStatus) {
		switch {
		case zone == 7: // n2 leads it
			said[0].State, said[0].Leader, said[0].Sync = nexusraft.Follower, 2, ""
			said[1].State, said[1].Leader, said[1].Sync = nexusraft.Leader, 2, nexusraft.InSync
			said[1].Replicas = said[0].Replicas
		case zone%1000 == 9:
			said[0].Sync, said[0].Replicas[1].Active = nexusraft.Degraded, false
		case zone == 8:
			said[0].State = nexusraft.Follower
		}
	})
	zones, others := Zones(s.answers)
	if len(zones) != 3001 || len(others) != 0 {
		t.Fatalf("got %d zones and %d others", len(zones), len(others))
	}
	for i := range zones {
		if zones[i].Zone == 9 {
			zones[i].Name = "orders\x1b[2J"
		}
	}
	var out bytes.Buffer
	if err := Print(&out, zones, others, false); err != nil {
		t.Fatal(err)
	}
	root, rest, _ := strings.Cut(out.String(), "\n\n")
	if !strings.HasPrefix(root, "zone root (1) of cluster 0000000000000007: in sync\nNAME ") ||
		!strings.HasSuffix(root, "\ncan lose any one of n1, n2, w1") {
		t.Errorf("the root zone: got\n%s", root)
	}
	want := `3000 zones by their state; --zone NAME shows one of them and what to do, --all each:
ZONES  LEADER        SYNC      MEMBERS        WITNESSES  CAN LOSE ANY ONE  FOR EXAMPLE
3      n1            degraded  n1, n2 SILENT  w1         NO                "orders\x1b[2J" (9)
1      NONE ANSWERS  -         n1, n2         w1         NO                8
2995   n1            in sync   n1, n2         w1         yes               2
1      n2            in sync   n1, n2         w1         yes               7
`
	if d := cmp.Diff(want, rest); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	out.Reset()
	if err := Print(&out, zones, others, true); err != nil || strings.Count(out.String(), "\nNAME ") != 3001 {
		t.Errorf("each: got %v and %d tables, want one for each zone", err, strings.Count(out.String(), "\nNAME "))
	}
}

// Up to 8 zones have a table each.
func TestFewZonesAreTables(t *testing.T) {
	for count, tables := range map[int]int{7: 8, 8: 1} {
		zones, others := Zones(manyZones(count, nil).answers)
		var out bytes.Buffer
		if err := Print(&out, zones, others, false); err != nil || strings.Count(out.String(), "\nNAME ") != tables {
			t.Errorf("%d zones besides the root zone: got %v and\n%s\nwant %d tables", count, err, &out, tables)
		}
	}
}

// A node that runs and has not made its replica of a zone yet is waited for; nobody is told to remove it.
func TestNodeWithoutAReplica(t *testing.T) {
	for name, leaderless := range map[string]bool{"with a leader": false, "without": true} {
		s := manyZones(1, func(_ nexusraft.ZoneID, said []*nexusraft.ZoneStatus) {
			said[0].Replicas[2].Active = false
			if leaderless {
				said[0].State, said[0].Leader, said[1].Leader = nexusraft.Follower, 0, 0
			}
		})
		s.answers[2].Status.Zones = s.answers[2].Status.Zones[:1]
		zones, others := Zones(s.answers)
		var out bytes.Buffer
		err := Print(&out, zones[1:], others, false)
		if text := out.String(); err != nil || strings.Contains(text, "remove") || strings.Contains(text, "start w1") ||
			!strings.Contains(text, "healthy; has no replica of the zone\n") ||
			!strings.Contains(text, "do: wait: w1 (hw:1) runs, and makes its replica") {
			t.Errorf("%s: got %v and\n%s", name, err, text)
		}
	}
}

// However many states there are, they fill no screen.
func TestManyStates(t *testing.T) {
	zones, others := Zones(manyZones(500, func(zone nexusraft.ZoneID, said []*nexusraft.ZoneStatus) {
		m := said[0].Membership.Members[1]
		m.Name = fmt.Sprint("x", zone%40)
		said[0].Membership = said[0].Membership.With(m)
	}).answers)
	var out bytes.Buffer
	if err := Print(&out, zones, others, false); err != nil || strings.Count(out.String(), "\n") > 30 ||
		!strings.Contains(out.String(), "in 24 more states") {
		t.Errorf("got %v and\n%s", err, &out)
	}
}
