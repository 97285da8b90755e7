package driver

import (
	"slices"
	"testing"
)

// When many groups lose their leader in one moment, so many stand for election at once as may, the others
// wait, and each has its turn once others are done.
func TestElectionsTakeTurns(t *testing.T) {
	const groups, most = 20, 3
	b := newBench(t, 1<<20)
	for range groups {
		b.group(3)
	}
	e := NewElections(most)
	elected := make(map[*Group]bool)
	for tick := range 40 * groups { // raft's time is random, and below 12 ticks
		e.Begin(slices.Values(b.groups))
		for _, g := range b.groups {
			if !elected[g] {
				e.Tick(g, g.Tick)
			}
		}
		b.turns()
		var electing []*Group
		for _, g := range b.groups {
			if g.Replica().Electing() && !elected[g] {
				electing = append(electing, g)
			}
		}
		if len(electing) > most {
			t.Fatalf("%d groups stand for election at tick %d, want %d at most", len(electing), tick, most)
		}
		if tick%7 == 0 && len(electing) > 0 { // one of them is done, as if it were gone
			elected[electing[0]] = true
			b.groups = slices.DeleteFunc(b.groups, func(g *Group) bool { return g == electing[0] })
		}
	}
	if len(elected) != groups {
		t.Errorf("%d of %d groups had their turn", len(elected), groups)
	}
}

// A leader is ticked however many stand for election, and so is a candidate.
func TestElectionsLeaveLeadersAlone(t *testing.T) {
	b, leader := leading(t, 1<<20)
	candidate := b.group(3)
	b.group(3) // a follower
	if err := candidate.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	e := NewElections(1)
	e.Begin(slices.Values(b.groups))
	var ticked []*Group
	for _, g := range b.groups {
		e.Tick(g, func() { ticked = append(ticked, g) })
	}
	if !slices.Equal(ticked, []*Group{leader, candidate}) {
		t.Errorf("%d groups were ticked, want the leader and the candidate", len(ticked))
	}
}
