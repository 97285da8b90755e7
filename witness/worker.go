package witness

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// worker has the witness's zones: only the goroutine of its loop, whose host it is, touches them. It
// is the disk and the sender of its driver, which makes the rounds.
type worker struct {
	loop   *driver.Worker
	driver *driver.Driver
	zones  map[nexusraft.ZoneID]*group
	active driver.Active // those of them that may have work
	logger *slog.Logger

	journal *journal // of the zones besides the root zone
	synced  []*group // empty between two rounds; kept for its memory

	neighbors *driver.Neighbors // other nodes, and which of the zones sleep because of that
	peers     []nexusraft.NodeID
	out       raftwire.Outbox
	minor     func(nexusraft.NodeID) (uint32, bool) // the version of the protocol that a node speaks
}

// inboxBounds are of what waits for the worker.
var inboxBounds = driver.Bounds{Messages: 16 << 10, MessageBytes: 32 << 20, Calls: 1 << 10}

// newWorker returns the worker of a witness in an incarnation.
func newWorker(
	c Config, journal *journal, incarnation nexusraft.Incarnation, minor func(nexusraft.NodeID) (uint32, bool),
) *worker {
	silent := max(2, c.ElectionTicks-1) // as zone.SilentTicks has it, without a gate
	w := &worker{
		zones: make(map[nexusraft.ZoneID]*group), journal: journal,
		neighbors: driver.NewNeighbors(incarnation, silent), minor: minor,
		out: raftwire.Outbox{Logger: c.Logger}, logger: c.Logger,
	}
	w.driver = driver.New(w, w, 1) // effects, which it would bound, there are none
	w.loop = driver.NewWorker(w, driver.NewBacklog(inboxBounds, 1), c.Logger)
	return w
}

// host takes groups of zones that it has none of.
func (w *worker) host(groups []*group) {
	for _, g := range groups {
		w.zones[g.id] = g
		w.neighbors.Note(g.group)
		w.active.Add(g.group)
	}
}

// drop gives up zones that were deleted.
func (w *worker) drop(zones []nexusraft.ZoneID) {
	for _, id := range zones {
		if g := w.zones[id]; g != nil {
			g.stop(fmt.Errorf("%w: zone %v was deleted", nexusraft.ErrZoneNotFound, id))
			delete(w.zones, id)
			w.neighbors.Forget(g.group)
		}
	}
}

// Group implements driver.Host. Its caller is about to give the group something to do.
func (w *worker) Group(id nexusraft.ZoneID) (*driver.Group, error) {
	g := w.zones[id]
	if g == nil {
		return nil, fmt.Errorf("this node has no replica of zone %v", id)
	}
	if g.ended != nil {
		return nil, g.ended
	}
	w.active.Add(g.group)
	return g.group, nil
}

// Room implements driver.Host: the log does not grow with what it is sent.
func (w *worker) Room() bool { return true }

// Propose implements driver.Host: nobody proposes here.
func (w *worker) Propose() {}

// Tick implements driver.Host. Zones that sleep are not looked at.
func (w *worker) Tick(heard map[nexusraft.NodeID]zone.Signal) {
	w.peers = w.peers[:0]
	if root := w.zones[nexusraft.RootZone]; root != nil {
		for _, m := range root.log.Membership().Members {
			if m.Replica != root.log.Origin().Replica {
				w.peers = append(w.peers, m.Node)
			}
		}
	}
	w.out.Signal(w.peers, w.neighbors.Own(), w.minor)
	w.neighbors.Tick(w.peers, heard, func(x *driver.Group) {
		if x.Tick(); x.HasWork() {
			w.active.Add(x)
		}
	})
}

// Turn implements driver.Host.
func (w *worker) Turn() (busy bool, err error) {
	return w.active.Turn(w.driver, w.neighbors.Note)
}

// Commit implements driver.Disk: it writes the root zone's log, which has files of its own, and side by side with it
// the journal, once for all other zones. An error may leave either of them written, of which nothing is
// told. Commit positions alone wait in memory for the next write of their log that must be synced.
func (w *worker) Commit(groups []*driver.Group, _ bool) error {
	var root *group
	synced := w.synced[:0]
	for _, x := range groups {
		switch g := w.zones[x.Zone()]; {
		case g.update.empty():
		case !g.sync:
			if err := g.log.keep(g.update); err != nil {
				return err
			}
		case g.log.slots != nil:
			root = g
		default:
			synced = append(synced, g)
		}
	}
	w.synced = synced
	defer clear(synced)
	if root == nil {
		return w.writeJournal(synced)
	}
	failed := make(chan error, 1)
	go func() { failed <- w.writeJournal(synced) }()
	return cmp.Or(root.log.Write(root.update, true), <-failed)
}

// writeJournal writes the updates of groups whose logs are in the journal.
func (w *worker) writeJournal(groups []*group) error {
	if len(groups) == 0 {
		return nil
	}
	next, zones := make([]record, len(groups)), make([]zoneContent, len(groups))
	for i, g := range groups {
		var err error
		if next[i], zones[i].content, err = g.log.updated(g.update); err != nil {
			return err
		}
		zones[i].zone = g.id
	}
	if err := w.journal.put(zones); err != nil {
		return err
	}
	for i, g := range groups {
		g.log.record = next[i]
	}
	return nil
}

// RequestVotes implements driver.Sender: a witness never asks for any (I11).
func (w *worker) RequestVotes(to nexusraft.NodeID, _ []driver.VoteRequest) {
	w.logger.Error("raft wants votes for a witness, not asked", "peer", to)
}

// Send implements driver.Sender.
func (w *worker) Send(g *driver.Group, to nexusraft.NodeID, m *raftpb.Message) { w.out.Send(g, to, m) }

// Stop implements driver.Host.
func (w *worker) Stop(err error) {
	for _, g := range w.zones {
		g.group.Stop(err)
	}
}

// bytes returns how many the zones' logs have on the disk.
func (w *worker) bytes() int64 {
	n := w.journal.bytes()
	for _, g := range w.zones {
		n += g.log.Bytes()
	}
	return n
}

// ids returns those of the zones.
func (w *worker) ids() []nexusraft.ZoneID { return slices.Collect(maps.Keys(w.zones)) }

// status returns that of a zone, if there is one.
func (w *worker) status(id nexusraft.ZoneID) (s nexusraft.ZoneStatus, ok bool) {
	g := w.zones[id]
	if g == nil {
		return s, false
	}
	return g.status(), true
}
