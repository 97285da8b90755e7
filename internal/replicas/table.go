package replicas

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/storage"
)

// Known is what is known of one replica.
type Known struct {
	Machine nexusraft.StateMachine
	State   *storage.Tree
	Members nexusraft.Membership
	Term    *atomic.Uint64
	Led     *atomic.Bool // it knows a leader
	Fresh   *driver.Freshness
	Lease   *driver.Lease
	Events  *events.Notifier // of new ones, and when the zone has stopped
	Applied *events.Notifier // of commands that it has applied, a snapshot's state, and when the zone has stopped

	failed error // the zone has stopped on this node
	left   bool  // because it is on others now
}

// notify wakes all that wait for something of the replica: it has ended.
func (k Known) notify() {
	k.Events.Notify()
	k.Applied.Notify()
}

// Neighbours learns which nodes share a zone with this one, and which no longer do.
type Neighbours interface {
	Connect(nexusraft.Membership)
	Removed(nexusraft.NodeID)
}

// Table has the node's replicas. Its methods may be called from many goroutines.
type Table struct {
	store *storage.Store
	peers Neighbours
	ready <-chan struct{} // closed when the node has opened its zones

	// mu guards zones. A holder for reading may take a storage snapshot of a state tree that is current;
	// the worker holds it while it switches trees.
	mu        sync.RWMutex
	zones     map[nexusraft.ZoneID]Known
	elsewhere map[nexusraft.ZoneID][]*nexusraft.NotLeaderError // zones without a replica here, and whom to ask

	turn atomic.Uint32 // who of those is named next, so that one that is down does not stand in the way
}

// NewTable returns a table without replicas, of states in a store.
func NewTable(store *storage.Store, peers Neighbours, ready <-chan struct{}) *Table {
	return &Table{
		store: store, peers: peers, ready: ready, zones: make(map[nexusraft.ZoneID]Known),
		elsewhere: make(map[nexusraft.ZoneID][]*nexusraft.NotLeaderError),
	}
}

// Lock keeps readers away while a state changes its tree; PublishLocked says to which one.
func (t *Table) Lock() { t.mu.Lock() }

// Unlock ends Lock.
func (t *Table) Unlock() { t.mu.Unlock() }

// Publish makes a replica's tree and records known to readers.
func (t *Table) Publish(id nexusraft.ZoneID, k Known) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.PublishLocked(id, k)
}

// PublishLocked is Publish between Lock and Unlock.
func (t *Table) PublishLocked(id nexusraft.ZoneID, k Known) {
	before := t.zones[id].Members
	t.zones[id] = k
	t.peers.Connect(k.Members)
	t.forget(before)
}

// forget says which nodes of former records share no zone with this one any more; mu is held.
func (t *Table) forget(before nexusraft.Membership) {
	for _, m := range before.Members {
		if !t.isPeer(m.Node) {
			t.peers.Removed(m.Node)
		}
	}
}

// isPeer reports whether a node has a replica in a zone of this node; mu is held.
func (t *Table) isPeer(id nexusraft.NodeID) bool {
	for _, k := range t.zones {
		if _, ok := k.Members.Node(id); ok {
			return true
		}
	}
	return false
}

// Fail says that a zone has stopped on this node, and why.
func (t *Table) Fail(id nexusraft.ZoneID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.zones[id]
	k.failed = fmt.Errorf("%w: zone %v has stopped on this node: %w", nexusraft.ErrClosed, id, err)
	t.zones[id] = k
	k.notify()
}

// Leave says that a zone has left this node, and whom to ask for it. Its replica is stopped, and there is no problem.
func (t *Table) Leave(id nexusraft.ZoneID, ask *nexusraft.NotLeaderError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.zones[id]
	k.failed, k.left = ask, true
	t.zones[id] = k
	k.notify()
}

// Elsewhere says whom to ask for a zone that has no replica here; none: there is no such zone.
func (t *Table) Elsewhere(id nexusraft.ZoneID, ask []*nexusraft.NotLeaderError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(ask) == 0 {
		delete(t.elsewhere, id)
		return
	}
	t.elsewhere[id] = ask
}

// ForgetElsewhere is Elsewhere with none for all zones of which mine says so.
func (t *Table) ForgetElsewhere(mine func(nexusraft.ZoneID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.elsewhere, func(id nexusraft.ZoneID, _ []*nexusraft.NotLeaderError) bool { return mine(id) })
}

// Withdraw makes a replica unknown, and reports whether it was known.
func (t *Table) Withdraw(id nexusraft.ZoneID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.zones[id]
	if !ok {
		return false
	}
	delete(t.zones, id)
	t.forget(k.Members)
	k.notify()
	return true
}

// View returns what is known of a replica. There is none with ErrZoneNotFound, with ErrNotLeader where the zone is on
// other nodes, and with ErrOverloaded while the node has not opened its zones; with ErrClosed it has stopped.
func (t *Table) View(id nexusraft.ZoneID) (Known, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.view(id)
}

func (t *Table) view(id nexusraft.ZoneID) (Known, error) {
	k, ok := t.zones[id]
	if ok {
		return k, k.failed
	}
	if ask := t.elsewhere[id]; len(ask) > 0 {
		return k, ask[int(t.turn.Add(1))%len(ask)]
	}
	return k, t.missing(id)
}

// missing says why a zone is not here: before the node is ready that passes by itself.
func (t *Table) missing(id nexusraft.ZoneID) error {
	select {
	case <-t.ready:
		return fmt.Errorf("%w: zone %v", nexusraft.ErrZoneNotFound, id)
	default:
		return fmt.Errorf("%w: the node is starting, and has not opened its zones yet", nexusraft.ErrOverloaded)
	}
}

// Absent says why the worker does not have a zone: it is not here, or it has stopped.
func (t *Table) Absent(id nexusraft.ZoneID) error {
	if k, err := t.View(id); k.failed != nil || errors.Is(err, nexusraft.ErrNotLeader) {
		return err
	}
	return t.missing(id)
}

// Stopped reports whether a zone has stopped on this node.
func (t *Table) Stopped(id nexusraft.ZoneID) bool {
	k, _ := t.View(id)
	return k.failed != nil && !k.left
}

// Problem says which zone has stopped and why, "" if none has.
func (t *Table) Problem() string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(t.zones)) {
		if k := t.zones[id]; k.failed != nil && !k.left {
			return k.failed.Error()
		}
	}
	return ""
}

// Read runs fn over all that a zone keeps, as this replica has it when Read is called.
func (t *Table) Read(id nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	snap, state, err := t.snapshot(id)
	if err != nil {
		return err
	}
	defer snap.Close()
	return fn(snap.Reader(state))
}

func (t *Table) snapshot(id nexusraft.ZoneID) (*storage.Snapshot, *storage.Tree, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	k, err := t.view(id)
	if err != nil {
		return nil, nil, err
	}
	return t.store.NewSnapshot(), k.State, nil
}

// Zones returns the zones that this node has a replica of, by ID.
func (t *Table) Zones() []nexusraft.ZoneID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Sorted(maps.Keys(t.zones))
}

// Has reports whether this node has a replica of a zone, though it may not run.
func (t *Table) Has(id nexusraft.ZoneID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.zones[id]
	return ok
}

// Members returns a zone's records as they are here; none if there is no replica.
func (t *Table) Members(id nexusraft.ZoneID) nexusraft.Membership {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.zones[id].Members
}

// ZonesWith returns the zones, the root zone left out, that have a replica on a node, as far as this
// node knows.
func (t *Table) ZonesWith(node nexusraft.NodeID) (ids []nexusraft.ZoneID) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for id, k := range t.zones {
		if _, in := k.Members.Node(node); in && id != nexusraft.RootZone {
			ids = append(ids, id)
		}
	}
	return ids
}
