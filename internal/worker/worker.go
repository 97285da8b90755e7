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
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/watchdog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Options are what workers need of their node, which share all of it with other goroutines. Fields without
// a comment are as in node.Config; the node has set their defaults.
type Options struct {
	Workers int // how many; 0: one

	Path string // of the data directory, for errors
	Dir  *datadir.Dir

	Peering  *peering.Peering
	Peers    *transport.Peers // what the zones send leaves by them
	Replicas *replicas.Table  // has what others may know of the zones; its workers alone change it
	Events   *events.Local    // is told what happens to the zones
	Access   *authz.Guard     // is told of changes of the root zone's records; says what clients may do
	Forwards *forward.Calls   // end when their leader does, by the ticks of the zones
	Leads    *leading.Leads

	// Placed is told by the leader of a zone that is under way to a placement what it has come to. It does not block.
	Placed func(Placed)

	// Records takes over what commands have made of the zones' records, once it is written, in their order; whole: what
	// was made of them is not known, as the state was replaced. It does not block.
	Records func(whole bool, changes []*system.ZoneChange)

	ZonesChanged *events.Notifier   // is told when a zone was made or deleted, or a replica made or dropped here
	Watchdog     *watchdog.Watchdog // is told of the writes
	Sending      *snapshot.Jobs     // that send snapshots
	Snapshots    *snapshot.Progress // of those that come in and go out

	StateMachine nexusraft.StateMachine
	Machines     map[string]nexusraft.StateMachine

	TickInterval   time.Duration
	ElectionTicks  int
	HeartbeatTicks int
	HoldTicks      int
	MaxClockDrift  float64
	CompactEntries int
	CompactBytes   int64
	Clock          func() time.Time
	Logger         *slog.Logger
}

func (o *Options) electionTimeout() time.Duration {
	return time.Duration(o.ElectionTicks) * o.TickInterval
}

// worker has the zones: its goroutine, run, alone touches what is below lost. It is the host of its loop, and
// the disk and the sender of its driver, which makes the rounds.
type worker struct {
	o         Options
	shared    *together
	place     int // among the workers
	loop      *driver.Worker
	inbox     *driver.Inbox // the loop's
	proposals propose.Queue
	watched   *watchdog.Writer // for the batch
	lost      sync.Map         // by node: the worker is to hear that messages to it were lost
	told      toldOfZones

	zones     map[nexusraft.ZoneID]*group
	active    driver.Active     // those of them that may have work
	recent    recent            // those that this node leads, or has led
	neighbors *driver.Neighbors // other nodes, and which of the zones sleep because of that
	root      *rootRecords      // as of the last tick
	version   uint32            // the cluster's, as of the last look at the root zone's records; it never falls
	beats     uint64            // of the node's pulse, as of the last tick
	still     int               // ticks since the pulse has beaten
	patience  int               // ticks for which it may be still, so that what it leads speaks before others miss it
	driver    *driver.Driver
	hosting   toHost          // which zones there are to be
	news      zonesNews       // of the root zone's worker, for all of them at the end of its round
	out       raftwire.Outbox // to the node's peers
	proposing []*propose.Call // taken from proposals, and not given to their zones yet
	full      error           // the disk is; as of the last drain, see node.Node.Room

	batch     *storage.Batch // what the zones have staged
	switching []*group       // those whose state changes its tree by it
}

// inboxBounds are of what waits for all workers together, besides proposals.
var inboxBounds = driver.Bounds{Messages: 16 << 10, MessageBytes: 64 << 20, Calls: 16 << 10}

func newWorker(o Options, t *together, place int) *worker {
	w := &worker{
		o: o, shared: t, place: place, watched: o.Watchdog.NewWriter(), root: t.root.Load(),
		zones: make(map[nexusraft.ZoneID]*group),
	}
	w.loop, w.driver = driver.NewWorker(w, t.backlog, o.Logger), driver.New(w, w, maxPartBytes/len(t.pulse.ticked))
	if w.inbox = w.loop.Inbox(); cap(t.workers) > 1 {
		w.proposals.Of = &t.allowance
	}
	silent := zone.SilentTicks(o.ElectionTicks, o.HeartbeatTicks, o.HoldTicks)
	w.neighbors = driver.NewNeighborsOf(t.signal, silent)
	w.patience = max(silent-zone.HeartbeatInterval(o.ElectionTicks, o.HeartbeatTicks, o.HoldTicks), 1)
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
	w.publishRoot()
	w.followRoot()
	w.beat()
	w.neighbors.Tick(w.root.peers, heard, func(x *driver.Group) {
		if g := w.zones[x.Zone()]; g != nil {
			g.tick()
		}
		if x.HasWork() {
			w.active.Add(x)
		}
	})
}

// beat tells the other nodes that this one lives, if each of its workers has ticked since that was told. If
// another one does not tick, they are about to find the node silent, and not to rest on it: the zones that
// this worker leads wake before, so that the others go on to hear of them.
func (w *worker) beat() {
	due, beats := w.shared.pulse.tick(w.place)
	if due {
		w.out.Signal(w.root.peers, w.neighbors.Own(), w.o.Peering.Minor)
	}
	if beats != w.beats {
		w.beats, w.still = beats, 0
		return
	}
	if w.still++; w.still >= w.patience {
		w.neighbors.WakeIf(isLed)
	}
}

// publishRoot has all workers know the root zone's records, on its own one, when they have changed, or a node's
// address.
func (w *worker) publishRoot() {
	root := w.zones[nexusraft.RootZone]
	if root == nil {
		return
	}
	now := root.replica.Membership().Members
	same := func(a, b nexusraft.Member) bool { return w.current(a) == b }
	if slices.EqualFunc(now, w.root.members, same) {
		return
	}
	r := new(rootRecords)
	for _, m := range now {
		r.members = append(r.members, w.current(m))
		if m.Replica != root.self {
			r.peers = append(r.peers, m.Node)
		}
	}
	w.shared.root.Store(r)
}

// followRoot wakes the zones that this node leads when the root zone's records have changed, or a
// node's address: their own records follow those.
func (w *worker) followRoot() {
	if now := w.shared.root.Load(); now != w.root {
		w.root = now
		w.neighbors.WakeIf(isLed)
	}
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

// maxPartBytes is about how many bytes of effects and answers, of all workers, are in memory before they are
// written: commands of some bytes may make megabytes each, of what is there, and a round has
// thousands of them.
const maxPartBytes = 8 << 20

// Turn implements driver.Host.
func (w *worker) Turn() (busy bool, err error) {
	busy, err = w.active.Turn(w.driver, func(x *driver.Group) {
		w.neighbors.Note(x)
		if g := w.zones[x.Zone()]; g != nil {
			g.endReceived(snapshot.ErrIgnored) // raft takes a snapshot up in the round after it was stepped, or never
			if g.replica.Asleep() {
				g.log.Forget() // every replica that is heard has all of it
			}
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
	w.watched.Begin(sync)
	err := w.batch.Commit(sync)
	w.watched.End()
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
