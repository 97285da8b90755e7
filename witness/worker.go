package witness

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
)

// worker has the witness's zones: only the goroutine of its loop, whose host it is, touches them.
type worker struct {
	loop  *driver.Worker
	zones map[nexusraft.ZoneID]*group
	ready []*group // those that may have work, each once: a round asks no other
}

// inboxBounds are of what waits for the worker.
var inboxBounds = driver.Bounds{Messages: 16 << 10, MessageBytes: 32 << 20, Calls: 1 << 10}

func newWorker(logger *slog.Logger) *worker {
	w := &worker{zones: make(map[nexusraft.ZoneID]*group)}
	w.loop = driver.NewWorker(w, inboxBounds, logger)
	return w
}

// host takes groups of zones that it has none of.
func (w *worker) host(groups []*group) {
	for _, g := range groups {
		w.zones[g.id] = g
		w.touch(g)
	}
}

// drop gives up zones that were deleted.
func (w *worker) drop(zones []nexusraft.ZoneID) {
	for _, id := range zones {
		if g := w.zones[id]; g != nil {
			g.stop(fmt.Errorf("%w: zone %v was deleted", nexusraft.ErrZoneNotFound, id))
			delete(w.zones, id)
		}
	}
}

// touch has the next round ask a group.
func (w *worker) touch(g *group) {
	if !g.queued {
		g.queued = true
		w.ready = append(w.ready, g)
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
	w.touch(g)
	return g.group, nil
}

// Room implements driver.Host: the log does not grow with what it is sent.
func (w *worker) Room() bool { return true }

// Propose implements driver.Host: nobody proposes here.
func (w *worker) Propose() {}

// Tick implements driver.Host.
func (w *worker) Tick() {
	for _, g := range w.zones {
		if g.ended != nil {
			continue
		}
		if g.group.Tick(); g.group.HasWork() {
			w.touch(g)
		}
	}
}

// Turn implements driver.Host: it makes rounds until no zone has work.
func (w *worker) Turn() (busy bool, err error) {
	for _, g := range w.ready {
		if g.queued = false; g.ended != nil {
			continue
		}
		if err := g.turn(); err != nil {
			return false, err
		}
	}
	clear(w.ready)
	w.ready = w.ready[:0]
	return false, nil
}

// Stop implements driver.Host.
func (w *worker) Stop(err error) {
	for _, g := range w.zones {
		g.group.Stop(err)
	}
}

// bytes returns how many the zones' logs have on the disk.
func (w *worker) bytes() (n int64) {
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
