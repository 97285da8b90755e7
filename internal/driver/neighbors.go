package driver

import (
	"fmt"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Neighbors is what a worker knows of other nodes by their signals, and which of its groups sleep
// because of that. A tick costs nothing for those (zone/sleep.go says why they may sleep, and what
// has to wake them); only when a node falls silent, is back or says something else are they all
// looked at. It is for the worker's goroutine.
type Neighbors struct {
	own   *OwnSignal
	seen  uint64 // Changes of own for which this worker's groups were woken
	limit int    // ticks of silence after which a node is not heard
	ticks int    // so far

	nodes  map[nexusraft.NodeID]*neighbor
	awake  []*Group // each at its place: Group.listed and Group.place
	asleep []*Group
}

// neighbor is another node.
type neighbor struct {
	signal  zone.Signal
	silence int  // ticks; limit at most: it is not heard
	calm    int  // ticks since signal was taken; limit at most
	listed  bool // as of the last tick, among those from which signals are taken
}

// OwnSignal is what a node says of itself, for the zones of all its workers. Its methods may be called from many
// goroutines.
type OwnSignal struct {
	incarnation nexusraft.Incarnation
	changes     atomic.Uint64
}

// NewOwnSignal returns that of a node in an incarnation.
func NewOwnSignal(of nexusraft.Incarnation) *OwnSignal { return &OwnSignal{incarnation: of} }

// Now returns the signal as it is now.
func (o *OwnSignal) Now() zone.Signal {
	return zone.Signal{Incarnation: o.incarnation, Changes: o.changes.Load()}
}

// NewNeighbors returns those of a node's only worker, none of which is heard yet; see NewNeighborsOf.
func NewNeighbors(own nexusraft.Incarnation, limit int) *Neighbors {
	return NewNeighborsOf(NewOwnSignal(own), limit)
}

// NewNeighborsOf returns those of one of a node's workers, which have the node's own signal together. A node is
// not heard once it has been silent for limit ticks; see zone.SilentTicks.
func NewNeighborsOf(own *OwnSignal, limit int) *Neighbors {
	return &Neighbors{own: own, limit: limit, nodes: make(map[nexusraft.NodeID]*neighbor)}
}

// Own implements zone.Signals.
func (n *Neighbors) Own() zone.Signal { return n.own.Now() }

// Of implements zone.Signals.
func (n *Neighbors) Of(id nexusraft.NodeID) (s zone.Signal, ok bool) {
	x := n.nodes[id]
	if x == nil || x.silence >= n.limit {
		return s, false
	}
	return x.signal, true
}

// Heard implements zone.Signals.
func (n *Neighbors) Heard(id nexusraft.NodeID) (s zone.Signal, ok bool) {
	if x := n.nodes[id]; x != nil && x.silence == 0 {
		return x.signal, true
	}
	return s, false
}

// Awake are the groups that are ticked. They must not be changed while it is iterated over.
func (n *Neighbors) Awake(yield func(*Group) bool) {
	for _, g := range n.awake {
		if !yield(g) {
			return
		}
	}
}

// Note follows whether a group sleeps. It is called for a new group, and after each turn that it
// was part of.
func (n *Neighbors) Note(g *Group) {
	asleep := g.replica.Asleep()
	if g.stepped {
		g.slept, g.stepped = n.ticks, false
	}
	if !g.stopped && g.listed != nil && asleep == (g.listed == &n.asleep) {
		return
	}
	n.Forget(g)
	if g.stopped {
		return
	}
	g.listed = &n.awake
	if asleep {
		g.listed = &n.asleep
	}
	g.slept, g.place = n.ticks, len(*g.listed)
	*g.listed = append(*g.listed, g)
}

// Forget gives up a group that is no more.
func (n *Neighbors) Forget(g *Group) {
	if g.listed == nil {
		return
	}
	list := *g.listed
	last := len(list) - 1
	list[g.place] = list[last]
	list[g.place].place = g.place
	list[last] = nil
	*g.listed, g.listed = list[:last], nil
}

// Wake wakes a group that sleeps.
func (n *Neighbors) Wake(g *Group) {
	g.replica.Stir()
	n.Note(g)
}

// WakeIf wakes the groups that sleep for which it holds.
func (n *Neighbors) WakeIf(holds func(*Group) bool) {
	for i := len(n.asleep) - 1; i >= 0; i-- { // Wake puts the last one, which was asked, in its place
		if g := n.asleep[i]; holds(g) {
			n.Wake(g)
		}
	}
}

// Change has the other nodes wake what rests on this one: it no longer has a replica that they may
// rely on, or may have missed what a leader of theirs has said. The zones that sleep here and lead
// wake, too, so that the others hear of them.
func (n *Neighbors) Change() {
	n.own.changes.Add(1)
	n.follow()
}

// follow does Change's part for this worker's groups, also where another worker has called that.
func (n *Neighbors) follow() {
	now := n.own.changes.Load()
	if now == n.seen {
		return
	}
	n.seen = now
	leads := func(g *Group) bool { _, self := g.replica.Leader(); return self }
	n.WakeIf(leads)
	for _, g := range n.awake { // one that has fallen asleep in the turn under way is noted after it
		if g.replica.Asleep() && leads(g) {
			g.replica.Stir()
		}
	}
}

// Tick takes the signals of the listed nodes that have come in since the last one, wakes the groups
// that are to wake by them, and calls tick for each one that is awake: more often than once for one
// that has slept while a node it rests on was silent. tick must not call Neighbors.
func (n *Neighbors) Tick(
	listed []nexusraft.NodeID, heard map[nexusraft.NodeID]zone.Signal, tick func(*Group),
) {
	n.ticks++
	n.follow()
	for _, x := range n.nodes {
		x.listed = false
	}
	for _, id := range listed {
		if n.nodes[id] == nil {
			n.nodes[id] = &neighbor{silence: n.limit}
		}
		n.nodes[id].listed = true
		s, ok := heard[id]
		n.hear(id, s, ok, tick)
	}
	for id, x := range n.nodes {
		if !x.listed { // it was removed from the cluster
			n.hear(id, zone.Signal{}, false, tick)
			delete(n.nodes, id)
		}
	}
	for _, g := range n.awake {
		tick(g)
	}
}

// hear notes a node's signal, or that none has come since the last tick.
func (n *Neighbors) hear(id nexusraft.NodeID, s zone.Signal, ok bool, tick func(*Group)) {
	x := n.nodes[id]
	missed, was := x.silence, x.silence < n.limit
	switch {
	case ok:
		x.silence = 0
	case !x.listed:
		x.silence = n.limit
	default:
		x.silence = min(x.silence+1, n.limit)
	}
	is := x.silence < n.limit
	if x.calm = min(x.calm+1, n.limit); was && ok && s.Incarnation == x.signal.Incarnation && x.calm < n.limit {
		s = x.signal // a node that says something else all the time, as a bad witness may, wakes nobody by that
	}
	if was == is && (!ok || s == x.signal) {
		return
	}
	if ok {
		x.signal, x.calm = s, 0
	}
	if !was {
		missed = 0 // the zones that sleep have gone to sleep without it
	}
	if led := n.wake(id, missed, tick); led && !is {
		n.Change()
	}
}

// wake wakes the groups that rest on a node, gives them the ticks that they have missed, besides
// the one under way, and reports whether the node led any of them. None gets more than have passed since it fell
// asleep, or since a message came: what it has promised its leader is counted in ticks.
func (n *Neighbors) wake(id nexusraft.NodeID, missed int, tick func(*Group)) (led bool) {
	n.WakeIf(func(g *Group) bool {
		if !g.replica.RestsOn(id) {
			return false
		}
		_, self := g.replica.Leader()
		led = led || !self
		slept := 0
		if !g.stepped {
			slept = n.ticks - 1 - g.slept
		}
		g.replica.Stir()
		for range min(missed, slept) {
			tick(g)
		}
		return true
	})
	return led
}

// CheckNeighbors returns what is wrong with the groups' places; nil if nothing is. It is for tests.
func CheckNeighbors(n *Neighbors) error {
	for _, list := range []*[]*Group{&n.awake, &n.asleep} {
		for i, g := range *list {
			if g.place != i || g.listed != list {
				return fmt.Errorf("zone %v: at place %d, said to be at %d", g.zone, i, g.place)
			}
		}
	}
	return nil
}
