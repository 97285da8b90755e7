package witness

import (
	"fmt"
	"maps"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// worker owns the zones: one goroutine, run, touches them.
type worker struct {
	inbox *inbox
	zones map[nexusraft.ZoneID]*hosted
}

// run works until stop is closed, which is no error, or a log can't be written or a zone
// can't go on, which is. It returns within the round that is under way.
func (w *worker) run(ticks <-chan time.Time, stop <-chan struct{}) (err error) {
	// raft panics where its log contradicts itself. The process must not go on with that
	// zone, and must say why.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: raft gave up: %v", nexusraft.ErrCorrupt, p)
		}
	}()
	for {
		ticked := false
		select {
		case <-stop:
			return nil
		case <-w.inbox.wake:
		case <-ticks:
			ticked = true
		}
		// What came in during a stall counts before time goes on, and missed ticks are
		// gone (a Ticker keeps one): the leader was not silent while nobody listened.
		w.drain()
		if ticked {
			for _, h := range w.zones {
				h.replica.Tick()
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

func (w *worker) drain() {
	messages, calls := w.inbox.take()
	for _, m := range messages {
		h := w.zones[m.zone]
		switch {
		case h != nil:
			h.step(m)
		case m.vote != nil: // messages never make a zone
			m.vote.ignore(nil, fmt.Sprintf("this node has no replica of zone %v", m.zone))
		}
	}
	for _, call := range calls {
		call()
	}
}

// flush repeats rounds until no zone has work, then answers the votes that are left.
func (w *worker) flush() error {
	for _, id := range slices.Sorted(maps.Keys(w.zones)) {
		h := w.zones[id]
		for h.replica.HasWork() {
			if err := h.round(); err != nil {
				return err
			}
		}
		h.endVotes()
	}
	return nil
}

// zonesStatus is the worker's part of the witness's status.
type zonesStatus struct {
	zones []nexusraft.ZoneStatus
	bytes int64
}

func (w *worker) status() (s zonesStatus) {
	for _, id := range slices.Sorted(maps.Keys(w.zones)) {
		s.zones = append(s.zones, w.zones[id].status())
		s.bytes += w.zones[id].log.Bytes()
	}
	return s
}
