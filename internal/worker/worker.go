package worker

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/internal/leading"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/watchdog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Options are what a Worker needs of its node, which may share all of it with other goroutines. Fields without
// a comment are as in node.Config; the node has set their defaults.
type Options struct {
	Path string // of the data directory, for errors
	Dir  *datadir.Dir

	Peering  *peering.Peering
	Peers    *transport.Peers // what the zones send leaves by them
	Replicas *replicas.Table  // has what others may know of the zones; the worker alone changes it
	Events   *events.Local    // is told what happens to the zones
	Access   *authz.Guard     // is told of changes of the root zone's records; says what clients may do
	Forwards *forward.Calls   // end when their leader does, by the ticks of the zones
	Leads    *leading.Leads

	// Placed is told by the leader of a zone that is under way to a placement what it has come to. It does not block.
	Placed func(Placed)

	ZonesChanged *events.Notifier   // is told when a zone was made or deleted, or a replica made or dropped here
	Watchdog     *watchdog.Watchdog // is told of the writes; of this worker's alone
	Sending      *snapshot.Jobs     // that send snapshots
	Snapshots    *snapshot.Progress // of those that come in and go out

	StateMachine nexusraft.StateMachine
	Machines     map[string]nexusraft.StateMachine

	TickInterval   time.Duration
	ElectionTicks  int
	HeartbeatTicks int
	HoldTicks      int
	CompactEntries int
	CompactBytes   int64
	Clock          func() time.Time
	Logger         *slog.Logger
}

func (o *Options) electionTimeout() time.Duration {
	return time.Duration(o.ElectionTicks) * o.TickInterval
}

// Worker is the way to the zones of a member that one goroutine owns. Its methods may be called from many
// goroutines; Run is called once.
//
// What waits ends with an ErrClosed when Run returns. A context bounds the waiting, not what was handed
// over. A zone that is not here is ErrZoneNotFound, or ErrOverloaded while the node has not opened its zones;
// one that has stopped on this node is ErrClosed.
type Worker struct{ w *worker }

// New returns a worker without zones. Nothing runs yet.
func New(o Options) *Worker { return &Worker{newWorker(o)} }

// Run works until stop is closed, which is no error, or it can't go on, which is: its disk has failed, raft has
// panicked, or this node was removed from the cluster. Then it has answered everything that waited.
func (x *Worker) Run(stop <-chan struct{}) error { return x.w.run(stop) }

// Inbox returns the way for what peers send, and for what the worker's goroutine is to run.
func (x *Worker) Inbox() *driver.Inbox { return x.w.inbox }

// OpenZones opens the zones of which the data directory has replicas, in Run's goroutine, and returns when they
// are open. It is called once. A zone whose log, state or state machine is not good for that stops on
// this node, and is no error.
func (x *Worker) OpenZones() error {
	done := make(chan error, 1)
	err := x.w.inbox.Call(func(err error) {
		if err == nil {
			err = x.w.openAll()
		}
		done <- err
	})
	if err != nil {
		return err
	}
	return <-done
}

// worker has the zones: its goroutine, run, alone touches what is below lost. It is the host of its loop, and
// the disk and the sender of its driver, which makes the rounds.
type worker struct {
	o         Options
	loop      *driver.Worker
	inbox     *driver.Inbox // the loop's
	proposals propose.Queue
	lost      sync.Map // by node: the worker is to hear that messages to it were lost

	zones     map[nexusraft.ZoneID]*group
	active    driver.Active      // those of them that may have work
	neighbors *driver.Neighbors  // other nodes, and which of the zones sleep because of that
	members   []nexusraft.Member // the root zone's, with the addresses that they have now, as of the last tick
	peers     []nexusraft.NodeID // the other nodes among them
	driver    *driver.Driver
	hosting   toHost          // which zones there are to be
	out       raftwire.Outbox // to the node's peers
	proposing []*propose.Call // taken from proposals, and not given to their zones yet
	full      error           // the disk is; as of the last drain, see node.Node.Room

	batch     *storage.Batch // what the zones have staged
	switching []*group       // those whose state changes its tree by it
}

// inboxBounds are of what waits for the worker, besides proposals.
var inboxBounds = driver.Bounds{Messages: 16 << 10, MessageBytes: 64 << 20, Calls: 16 << 10}

func newWorker(o Options) *worker {
	w := &worker{o: o, zones: make(map[nexusraft.ZoneID]*group)}
	w.loop, w.driver = driver.NewWorker(w, inboxBounds, o.Logger), driver.New(w, w, maxPartBytes)
	w.inbox = w.loop.Inbox()
	silent := zone.SilentTicks(o.ElectionTicks, o.HeartbeatTicks, o.HoldTicks)
	w.neighbors = driver.NewNeighbors(o.Peering.Self().Incarnation, silent)
	w.out = raftwire.Outbox{Network: o.Peers, Inbox: w.inbox, Logger: o.Logger}
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
	w.batch = w.o.Dir.Store.NewBatch()
	defer w.batch.Close()
	w.batch.UseReserve() // what makes a log grow was refused before raft had it
	ticker := time.NewTicker(w.o.TickInterval)
	defer ticker.Stop()
	return w.loop.Run(ticker.C, stop)
}

// Group implements driver.Host.
func (w *worker) Group(id nexusraft.ZoneID) (*driver.Group, error) {
	if g := w.group(id); g != nil {
		return g.group, nil
	}
	return nil, w.o.Replicas.Absent(id)
}

// Room implements driver.Host.
func (w *worker) Room() bool {
	w.full = w.o.Dir.Store.Room()
	return w.full == nil
}

// Propose implements driver.Host: what waits for one zone is handed to raft at once. What it has
// not come to when raft panics is still in w.proposing, so that Stop can answer it.
func (w *worker) Propose() {
	var more bool
	if w.proposing, more = w.proposals.Take(); more {
		w.inbox.Wake()
	}
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
	propose.Refuse(ps, w.o.Replicas.Absent(id))
}

// Tick implements driver.Host. Zones that sleep are not looked at.
func (w *worker) Tick(heard map[nexusraft.NodeID]zone.Signal) {
	w.followRoot()
	w.out.Signal(w.peers, w.neighbors.Own(), w.o.Peering.Minor)
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
	same := func(a, b nexusraft.Member) bool { return w.current(a) == b }
	if slices.EqualFunc(now, w.members, same) {
		return
	}
	w.members, w.peers = w.members[:0], w.peers[:0]
	for _, m := range now {
		w.members = append(w.members, w.current(m))
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
		w.o.Replicas.Lock()
		defer w.o.Replicas.Unlock()
	}
	w.o.Watchdog.Begin(sync)
	err := w.batch.Commit(sync)
	w.o.Watchdog.End()
	if err != nil {
		return fmt.Errorf("write to %s: %w", w.o.Path, err)
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
	w.o.Replicas.Fail(g.id, err)
	w.o.Events.ZoneStopped(g.id, err.Error())
	delete(w.zones, g.id)
	g.stop(fmt.Errorf("%w: %w", nexusraft.ErrClosed, err))
	w.o.Forwards.Tick(g.id, 0, 1) // as for one that was deleted
	w.neighbors.Forget(g.group)
	w.neighbors.Change()
}
