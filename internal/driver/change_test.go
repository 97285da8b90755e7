package driver

import "testing"

// A leader that has fallen asleep in the turn in which another zone stops is woken, though it is not noted yet that
// it sleeps: otherwise the others, which are told that something has changed here, would hear nothing of its zone.
func TestChangeWakesWhatFellAsleepInTheTurn(t *testing.T) {
	b := newBench(t, 1<<20)
	n := NewNeighbors(1, 3)
	b.signals = n
	g := b.group(1)
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	n.Note(g)
	for ticks := 0; !g.Replica().Asleep(); ticks++ {
		if ticks == 1000 {
			t.Fatal("the leader does not fall asleep")
		}
		n.Tick(nil, nil, (*Group).Tick)
		b.turns()
	}
	before := n.Own().Changes
	n.Change()
	if g.Replica().Asleep() || n.Own().Changes != before+1 {
		t.Errorf("the leader sleeps: %t, after %d changes", g.Replica().Asleep(), n.Own().Changes-before)
	}
	n.Note(g) // as after the turn
	if err := CheckNeighbors(n); err != nil || len(n.asleep) != 0 || len(n.awake) != 1 {
		t.Errorf("%d zones sleep, %d are awake: %v", len(n.asleep), len(n.awake), err)
	}
}
