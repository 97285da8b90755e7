package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// worker has the node's zones: its goroutine, run, alone touches what is below proposals. It is the host
// of its loop, and the disk and the sender of its driver, which makes the rounds.
type worker struct {
	node      *Node
	loop      *driver.Worker
	inbox     *driver.Inbox // the loop's
	proposals propose.Queue

	zones     map[nexusraft.ZoneID]*group
	active    driver.Active      // those of them that may have work
	neighbors *driver.Neighbors  // other nodes, and which of the zones sleep because of that
	members   []nexusraft.Member // the root zone's, with the addresses that they have now, as of the last tick
	peers     []nexusraft.NodeID // the other nodes among them
	driver    *driver.Driver
	hosting   toHost          // which zones there are to be
	out       raftwire.Outbox // to the node's peers
	proposing []*propose.Call // taken from proposals, and not given to their zones yet
	full      error           // the disk is; as of the last drain, see Node.Room

	batch     *storage.Batch // what the zones have staged
	switching []*group       // those whose state changes its tree by it
}

// inboxBounds are of what waits for the worker, besides proposals.
var inboxBounds = driver.Bounds{Messages: 16 << 10, MessageBytes: 64 << 20, Calls: 16 << 10}

func newWorker(n *Node) *worker {
	w := &worker{node: n, zones: make(map[nexusraft.ZoneID]*group)}
	w.loop, w.driver = driver.NewWorker(w, inboxBounds, n.logger), driver.New(w, w, maxPartBytes)
	w.inbox = w.loop.Inbox()
	c := n.config
	silent := zone.SilentTicks(c.ElectionTicks, c.HeartbeatTicks, c.HoldTicks)
	w.neighbors = driver.NewNeighbors(n.self().Incarnation, silent)
	w.out = raftwire.Outbox{Inbox: w.inbox, Logger: n.logger}
	return w
}

// put has the worker propose; the answer comes to p. It may be called from any goroutine.
func (w *worker) put(p *propose.Call) error {
	err := w.proposals.Put(p)
	w.inbox.Wake()
	return err
}

// add has the worker host a zone.
func (w *worker) add(g *group) {
	w.zones[g.id] = g
	w.neighbors.Note(g.group)
	w.active.Add(g.group)
}

// group returns a zone for something that may give it work; nil if there is none.
func (w *worker) group(id nexusraft.ZoneID) *group {
	g := w.zones[id]
	if g != nil {
		w.active.Add(g.group)
	}
	return g
}

// all yields every zone that does not sleep, as group does.
func (w *worker) all(yield func(*group) bool) {
	for x := range w.neighbors.Awake {
		if !yield(w.group(x.Zone())) {
			return
		}
	}
}

// run works until stop is closed, which is no error, or the disk fails, which is.
func (w *worker) run(stop <-chan struct{}) error {
	w.batch = w.node.dir.Store.NewBatch()
	defer w.batch.Close()
	w.batch.UseReserve() // what makes a log grow was refused before raft had it
	ticker := time.NewTicker(w.node.config.TickInterval)
	defer ticker.Stop()
	return w.loop.Run(ticker.C, stop)
}

// Group implements driver.Host.
func (w *worker) Group(id nexusraft.ZoneID) (*driver.Group, error) {
	if g := w.group(id); g != nil {
		return g.group, nil
	}
	return nil, w.node.replicas.Absent(id)
}

// Room implements driver.Host.
func (w *worker) Room() bool {
	w.full = w.node.Room()
	return w.full == nil
}

// Propose implements driver.Host: all that waits for one zone is handed to raft at once. What it has
// not come to when raft panics is still in w.proposing, so that Stop can answer it.
func (w *worker) Propose() {
	w.proposing = w.proposals.Take()
	ps := w.proposing
	slices.SortStableFunc(ps, func(a, b *propose.Call) int { return cmp.Compare(a.Zone, b.Zone) })
	for len(ps) > 0 {
		n := 1
		for n < len(ps) && ps[n].Zone == ps[0].Zone {
			n++
		}
		w.propose(ps[0].Zone, ps[:n])
		ps = ps[n:]
	}
	w.proposing = nil
}

func (w *worker) propose(id nexusraft.ZoneID, ps []*propose.Call) {
	if g := w.group(id); g != nil {
		g.propose(ps)
		return
	}
	propose.Refuse(ps, w.node.replicas.Absent(id))
}

// Tick implements driver.Host. Zones that sleep are not looked at.
func (w *worker) Tick(heard map[nexusraft.NodeID]zone.Signal) {
	w.followRoot()
	w.out.Signal(w.peers, w.neighbors.Own(), w.node.peering.Minor)
	w.neighbors.Tick(w.peers, heard, func(x *driver.Group) {
		if g := w.zones[x.Zone()]; g != nil {
			g.tick()
		}
		if x.HasWork() {
			w.active.Add(x)
		}
	})
}

// followRoot wakes the zones that this node leads when the root zone's records have changed, or a
// node's address: their own records follow those.
func (w *worker) followRoot() {
	root := w.zones[nexusraft.RootZone]
	if root == nil {
		return
	}
	now := root.replica.Membership().Members
	same := func(a, b nexusraft.Member) bool { return w.node.current(a) == b }
	if slices.EqualFunc(now, w.members, same) {
		return
	}
	w.members, w.peers = w.members[:0], w.peers[:0]
	for _, m := range now {
		w.members = append(w.members, w.node.current(m))
		if m.Replica != root.self {
			w.peers = append(w.peers, m.Node)
		}
	}
	w.neighbors.WakeIf(isLed)
}

// isLed reports whether a zone is led by this node.
func isLed(g *driver.Group) bool {
	_, self := g.Replica().Leader()
	return self
}

// Stop implements driver.Host.
func (w *worker) Stop(err error) {
	propose.Refuse(w.proposing, err)
	propose.Refuse(w.proposals.Close(), err)
	for _, g := range w.zones {
		g.stop(err)
	}
}

// maxPartBytes is about how many bytes of effects and answers are in memory before they are
// written: commands of some bytes may make megabytes each, of what is there, and a round has
// thousands of them.
const maxPartBytes = 8 << 20

// Turn implements driver.Host.
func (w *worker) Turn() (busy bool, err error) {
	busy, err = w.active.Turn(w.driver, func(x *driver.Group) {
		w.neighbors.Note(x)
		if g := w.zones[x.Zone()]; g != nil {
			g.endReceived(snapshot.ErrIgnored) // raft takes a snapshot up in the round after it was stepped, or never
		}
	})
	if err != nil {
		return false, err
	}
	more, err := w.host()
	return busy || more, err
}

// Commit implements driver.Disk: it writes the batch. An empty one writes nothing and tells of a
// store that has died since, of another one's write. While a zone's state changes its tree no
// reader may look.
func (w *worker) Commit(_ []*driver.Group, sync bool) error {
	if len(w.switching) > 0 {
		w.node.replicas.Lock()
		defer w.node.replicas.Unlock()
	}
	w.node.watchdog.Begin(sync)
	err := w.batch.Commit(sync)
	w.node.watchdog.End()
	if err != nil {
		return fmt.Errorf("write to %s: %w", w.node.config.Dir, err)
	}
	for _, g := range w.switching {
		g.switched()
	}
	w.switching = w.switching[:0]
	w.batch.Reset()
	return nil
}

// ids returns those of the zones that run.
func (w *worker) ids() []nexusraft.ZoneID { return slices.Collect(maps.Keys(w.zones)) }

// status returns that of a zone, if it runs.
func (w *worker) status(id nexusraft.ZoneID) (s nexusraft.ZoneStatus, ok bool) {
	g := w.zones[id]
	if g == nil {
		return s, false
	}
	return g.status(), true
}

// fail stops one zone on this node: its state machine can't go on.
func (w *worker) fail(g *group, err error) {
	g.logger.Error("zone stopped on this node", "term", g.term.Load(), "index", g.log.Applied(), "err", err)
	w.node.replicas.Fail(g.id, err)
	w.node.events.ZoneStopped(g.id, err.Error())
	delete(w.zones, g.id)
	g.stop(fmt.Errorf("%w: %w", nexusraft.ErrClosed, err))
	w.node.forwards.Tick(g.id, 0, 1) // as for one that was deleted
	w.neighbors.Forget(g.group)
	w.neighbors.Change()
}
