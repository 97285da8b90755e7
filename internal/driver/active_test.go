package driver

import (
	"errors"
	"slices"
	"testing"
)

// activeBench is a bench whose rounds are made by way of an Active. It counts each group's parts.
type activeBench struct {
	*bench
	active  Active
	commits [][]*Group // what each Commit wrote
	rounds  int
	during  func([]*Group) // called in Commit
}

func newActiveBench(t *testing.T, groups int) *activeBench {
	b := &activeBench{bench: newBench(t, 1<<20)}
	b.d = New(b, b.bench, 1<<20)
	for range groups {
		b.lead(t, b.group(1))
	}
	b.commits = nil
	return b
}

// lead has a group elect itself, and be idle then.
func (b *activeBench) lead(t *testing.T, g *Group) {
	t.Helper()
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.active.Add(g)
	for b.turn(t, nil) {
		continue
	}
}

func (b *activeBench) turn(t *testing.T, done func(*Group)) bool {
	t.Helper()
	busy, err := b.active.Turn(b.d, done)
	if err != nil {
		t.Fatal(err)
	}
	if b.rounds++; b.rounds > 100 {
		t.Fatal("the worker is busy without end")
	}
	return busy
}

func (b *activeBench) Commit(groups []*Group, sync bool) error {
	b.commits = append(b.commits, slices.Clone(groups))
	if b.during != nil {
		b.during(groups)
	}
	return b.bench.Commit(groups, sync)
}

// A group is asked once in a turn, however often it was added, and afterwards while it has work, not longer.
func TestActiveGroupIsAskedOnce(t *testing.T) {
	b := newActiveBench(t, 3)
	g := b.groups[1]
	b.propose(g, "x")
	for range 5 {
		b.active.Add(g)
	}
	var asked []*Group
	note := func(g *Group) { asked = append(asked, g) }
	turns := 1
	for ; b.turn(t, note); turns++ {
		b.active.Add(g)
	}
	if turns != len(asked) || len(asked) < 2 || slices.Contains(asked, b.groups[0]) {
		t.Errorf("%d turns have asked %d groups, want this one alone, once in each of two or more", turns, len(asked))
	}
	for _, groups := range b.commits {
		if !slices.Equal(groups, []*Group{g}) {
			t.Errorf("%d groups were written together, want this one alone", len(groups))
		}
	}
	asked, b.commits = nil, nil
	if b.turn(t, note) || len(asked) != 0 {
		t.Errorf("with nothing to do %d groups were asked", len(asked))
	}
}

// A group without work that was added costs a look: no round, and it does not stay.
func TestActiveGroupWithoutWork(t *testing.T) {
	b := newActiveBench(t, 2)
	b.told = nil
	b.active.Add(b.groups[0])
	asked := 0
	if b.turn(t, func(*Group) { asked++ }) || asked != 1 {
		t.Errorf("%d groups were asked, and some have more to do", asked)
	}
	b.expect("commit of 0, sync false")
	if b.turn(t, func(*Group) { asked++ }); asked != 1 {
		t.Error("a group without work is asked again")
	}
}

// Work that comes during a turn, to a group that is in it or not, before or after it in the order, is
// done by the next turn.
func TestGroupsAddedDuringATurn(t *testing.T) {
	for _, when := range []string{"written", "done"} {
		t.Run(when, func(t *testing.T) {
			b := newActiveBench(t, 3)
			give := func() {
				for i, g := range b.groups {
					b.propose(g, string(rune('a'+i)))
					b.active.Add(g)
				}
			}
			var asked []*Group
			note := func(g *Group) {
				if asked = append(asked, g); when == "done" && len(asked) == 2 { // of two
					give()
				}
			}
			b.active.Add(b.groups[0])
			b.active.Add(b.groups[2])
			if when == "written" {
				b.during = func([]*Group) { b.during = nil; give() }
			}
			if !b.turn(t, note) || !slices.Equal(asked, []*Group{b.groups[0], b.groups[2]}) {
				t.Fatalf("%d groups were asked in the first turn, want the first and the third", len(asked))
			}
			asked = nil
			b.turn(t, note)
			for _, g := range b.groups {
				if n := count(asked, g); n != 1 {
					t.Errorf("zone %v was asked %d times in the next turn, want once", g.Zone(), n)
				}
			}
			for b.turn(t, nil) {
				continue
			}
			for i, g := range b.groups {
				if !g.proposals.empty() || g.HasWork() {
					t.Errorf("zone %v: proposal %c was not done", g.Zone(), 'a'+i)
				}
			}
		})
	}
}

// A group that has failed, or was stopped by its host in a turn, is not asked again.
func TestStoppedGroupLeavesActive(t *testing.T) {
	b := newActiveBench(t, 3)
	failed, dropped := b.groups[0], b.groups[1]
	b.fails[failed.Zone()] = &GroupError{errors.New("it panicked")}
	for _, g := range b.groups[:2] {
		b.propose(g, "x")
		b.active.Add(g)
	}
	for b.turn(t, func(g *Group) {
		if g == dropped {
			b.propose(g, "y") // raft would have work
			g.Stop(errors.New("it was deleted"))
		}
	}) {
		continue
	}
	b.active.Add(failed) // as a message does that came meanwhile
	b.active.Add(dropped)
	if b.commits = nil; b.turn(t, nil) || len(b.commits) != 1 || len(b.commits[0]) != 0 {
		t.Errorf("groups that were stopped are busy, or were written: %v", b.commits)
	}
	if b.turn(t, func(g *Group) { t.Errorf("zone %v is asked again", g.Zone()) }) {
		t.Error("nothing is left, and the worker is busy")
	}
	if err := Valid(failed); err != nil || !failed.stopped {
		t.Errorf("the group that failed: stopped %t, %v", failed.stopped, err)
	}
}

func count(groups []*Group, g *Group) (n int) {
	for _, x := range groups {
		if x == g {
			n++
		}
	}
	return n
}
