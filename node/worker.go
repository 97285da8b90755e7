package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// worker owns the zones: one goroutine, run, which alone touches what is below inbox.
type worker struct {
	node  *Node
	inbox *inbox

	zones map[nexusraft.ZoneID]*hosted
	taken waiting // out of the inbox and not given to its zone yet
	batch *storage.Batch
	asks  map[nexusraft.NodeID][]transport.Vote // vote requests of the round
	full  error                                 // the disk is; as of the last drain, see Node.Room
}

func newWorker(n *Node) *worker {
	return &worker{node: n, inbox: newInbox(), zones: make(map[nexusraft.ZoneID]*hosted), asks: make(map[nexusraft.NodeID][]transport.Vote)}
}

// run works until stop is closed, which is no error, or the disk fails, which is.
func (w *worker) run(stop <-chan struct{}) (err error) {
	w.batch = w.node.store.NewBatch()
	defer w.batch.Close()
	w.batch.UseReserve() // what makes a log grow was refused before raft had it
	// raft panics where its log contradicts itself or its storage fails. The process
	// must not go on with that zone, and the caller's goroutine must not be torn down.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: raft gave up: %v", nexusraft.ErrCorrupt, p)
		}
		w.end(err)
	}()
	ticker := time.NewTicker(w.node.config.TickInterval)
	defer ticker.Stop()
	busy := false // some zone has more work than one round took
	for {
		ticked, stopped := w.wait(ticker.C, stop, busy)
		if stopped {
			return nil
		}
		// What came in during a stall is stepped before time goes on, and the ticks that
		// were missed are gone (a Ticker keeps one): otherwise a stall ends in an election.
		w.drain()
		if ticked {
			for _, h := range w.zones {
				h.tick()
			}
		}
		if busy, err = w.turn(); err != nil {
			return err
		}
	}
}

// wait returns when there is something to do; at once if the worker is busy anyway.
func (w *worker) wait(tick <-chan time.Time, stop <-chan struct{}, busy bool) (ticked, stopped bool) {
	if busy {
		w.inbox.signal()
	}
	select {
	case <-stop:
		return false, true
	case <-tick:
		return true, false
	case <-w.inbox.wake:
	}
	select { // a full inbox does not hold up time
	case <-tick:
		ticked = true
	default:
	}
	return ticked, false
}

// end answers everything that still waits.
func (w *worker) end(err error) {
	if err == nil {
		err = nexusraft.ErrClosed
	} else {
		err = fmt.Errorf("%w: %w", nexusraft.ErrClosed, err)
	}
	left := w.inbox.close()
	for _, m := range slices.Concat(w.taken.messages, left.messages) {
		if m.vote != nil {
			m.vote.ignore(nil, err.Error())
		}
		if m.staged != nil {
			m.staged.end(err)
		}
	}
	for _, p := range slices.Concat(w.taken.proposals, left.proposals) {
		if p.take() {
			p.answer(nexusraft.Result{}, err)
		}
	}
	for _, h := range w.zones {
		h.stop(err)
	}
	for _, call := range slices.Concat(w.taken.calls, left.calls) {
		call(err)
	}
}

// drain steps everything that waits, in the order of its kind. What it has not come to
// when raft panics is still in w.taken, so that end can answer it.
func (w *worker) drain() {
	w.full = w.node.Room()
	w.taken = w.inbox.take()
	for len(w.taken.messages) > 0 {
		m := w.taken.messages[0] // its zone knows of it before raft does
		w.taken.messages = w.taken.messages[1:]
		w.step(m)
	}
	for len(w.taken.calls) > 0 {
		w.taken.calls[0](nil) // has answered when it returns
		w.taken.calls = w.taken.calls[1:]
	}
	byZone := make(map[nexusraft.ZoneID][]*proposal)
	for _, p := range w.taken.proposals {
		byZone[p.zone] = append(byZone[p.zone], p)
	}
	for id, ps := range byZone {
		w.propose(id, ps)
	}
	w.taken = waiting{}
}

func (w *worker) propose(id nexusraft.ZoneID, ps []*proposal) {
	if h := w.zones[id]; h != nil {
		h.propose(ps)
		return
	}
	for _, p := range ps {
		if p.take() {
			p.answer(nexusraft.Result{}, w.node.absent(id))
		}
	}
}

// step gives one message to its zone. Messages never make a zone.
func (w *worker) step(m inbound) {
	h := w.zones[m.zone]
	if h == nil {
		if m.vote != nil {
			m.vote.ignore(nil, w.node.absent(m.zone).Error())
		}
		if m.staged != nil {
			m.staged.end(w.node.absent(m.zone))
		}
		return
	}
	h.step(m)
}

// turn makes one round of every zone that has work, and reports whether any has more.
func (w *worker) turn() (busy bool, err error) {
	var active []*hosted
	for _, id := range slices.Sorted(maps.Keys(w.zones)) {
		if h := w.zones[id]; h.hasWork() {
			active = append(active, h)
		}
	}
	if err := w.round(active); err != nil {
		return false, err
	}
	for _, h := range w.zones {
		h.endUnanswered()
		busy = busy || h.hasWork()
	}
	return busy, nil
}

// round does what the zones ask for: everything that they write goes to the disk together.
func (w *worker) round(active []*hosted) error {
	w.batch.Reset()
	sync := false
	var writing []*hosted
	for _, h := range active {
		if err := h.begin(); err != nil {
			return err
		}
		if err := h.apply(); errors.Is(err, errMachine) {
			w.fail(h, err)
			continue
		} else if err != nil {
			return fmt.Errorf("zone %v: %w", h.id, err)
		}
		writing = append(writing, h)
		sync = sync || h.round.work.MustSync
	}
	switching := false
	for _, h := range writing {
		if err := h.stage(w.batch); err != nil {
			return fmt.Errorf("zone %v: %w", h.id, err)
		}
		switching = switching || h.round.work.Snapshot != nil
	}
	if err := w.commit(sync, switching, writing); err != nil {
		return err
	}
	for _, h := range writing {
		h.finish()
	}
	w.askVotes()
	for _, h := range writing {
		if h.removed != nil {
			return h.removed
		}
	}
	return nil
}

// commit writes the batch; an empty one writes nothing and tells of a store that has died
// since, of another one's write. While a zone's state changes its tree no reader may look.
func (w *worker) commit(sync, switching bool, writing []*hosted) error {
	if switching {
		w.node.stateMu.Lock()
		defer w.node.stateMu.Unlock()
	}
	w.node.watchdog.begin(sync)
	err := w.batch.Commit(sync)
	w.node.watchdog.end()
	if err != nil {
		return fmt.Errorf("write to %s: %w", w.node.config.Dir, err)
	}
	if switching {
		for _, h := range writing {
			h.switched()
		}
	}
	return nil
}

// fail stops one zone on this node: its state machine can't go on.
func (w *worker) fail(h *hosted, err error) {
	h.logger.Error("zone stopped on this node", "term", h.term.Load(), "index", h.log.Applied(), "err", err)
	w.node.zoneFailed(h.id, err)
	delete(w.zones, h.id)
	h.stop(fmt.Errorf("%w: %w", nexusraft.ErrClosed, err))
}
