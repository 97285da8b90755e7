package driver

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// A node's signal is taken while the node is listed, and holds until it has been silent for as long
// as the limit.
func TestNeighborsAreHeard(t *testing.T) {
	n := NewNeighbors(1, 3)
	listed, said := []nexusraft.NodeID{7}, zone.Signal{Incarnation: 4, Changes: 2}
	tick := func(heard map[nexusraft.NodeID]zone.Signal) (zone.Signal, bool) {
		n.Tick(listed, heard, nil)
		return n.Of(7)
	}
	if _, ok := n.Of(7); ok {
		t.Error("a node is heard that has said nothing")
	}
	all := map[nexusraft.NodeID]zone.Signal{7: said, 8: said}
	for range 2 {
		if s, ok := tick(all); !ok || s != said {
			t.Errorf("heard: %v, %v", s, ok)
		}
	}
	if _, ok := n.Of(8); ok {
		t.Error("a node is heard that is not listed")
	}
	for i := range 4 {
		if s, ok := tick(nil); ok != (i < 2) || ok && s != said {
			t.Errorf("silent for %d ticks: %v, %v", i+1, s, ok)
		}
	}
	tick(all)
	listed = nil
	if _, ok := tick(all); ok || len(n.nodes) != 0 {
		t.Errorf("a node that is listed no more is heard: %v, of %d", ok, len(n.nodes))
	}
}

// A node that says something else with each tick, as a bad witness may, is believed once in as many ticks as
// it may be silent for; its restart at once.
func TestSignalThatChangesAllTheTime(t *testing.T) {
	const limit, ticks = 4, 40
	n, taken := NewNeighbors(1, limit), make(map[uint64]bool)
	say := func(s zone.Signal) zone.Signal {
		n.Tick([]nexusraft.NodeID{7}, map[nexusraft.NodeID]zone.Signal{7: s}, nil)
		heard, ok := n.Of(7)
		if !ok {
			t.Fatal("the node is not heard")
		}
		return heard
	}
	for i := range uint64(ticks) {
		taken[say(zone.Signal{Incarnation: 1, Changes: i}).Changes] = true
	}
	if len(taken) != ticks/limit {
		t.Errorf("%d of %d changes were taken, want %d", len(taken), ticks, ticks/limit)
	}
	last := zone.Signal{Incarnation: 1, Changes: 99}
	for range limit {
		say(last)
	}
	if got := say(last); got != last {
		t.Errorf("what it says in the end: got %v, want %v", got, last)
	}
	if restarted := (zone.Signal{Incarnation: 2}); say(restarted) != restarted {
		t.Error("a restart is not taken at once")
	}
}

// An inbox keeps the last signal of each node however full it is, of a bounded number of nodes,
// until the next tick.
func TestInboxKeepsSignals(t *testing.T) {
	b := newInbox(NewBacklog(Bounds{}, 1))
	for i := range nexusraft.NodeID(2 * nexusraft.MaxMembers) {
		for k := range uint64(3) {
			b.Hear(i+1, zone.Signal{Incarnation: 1, Changes: k})
		}
	}
	heard := b.heard(map[nexusraft.NodeID]zone.Signal{99: {}})
	if _, old := heard[99]; old || len(heard) != nexusraft.MaxMembers || heard[1].Changes != 2 {
		t.Errorf("signals of %d nodes, of the first %v", len(heard), heard[1])
	}
	if again := b.heard(heard); len(again) != 0 {
		t.Errorf("%d signals come twice", len(again))
	}
}
