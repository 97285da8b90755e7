package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Host is what a worker works for: a member's or a witness's zones. The worker calls it in its own
// goroutine.
type Host interface {
	// Group returns the group of a zone, or why there is none. Messages never make a group.
	Group(nexusraft.ZoneID) (*Group, error)

	// Room reports whether the log may grow. It is asked each time the worker is about to step what
	// waits; without room appends with entries are lost, heartbeats and votes go on.
	Room() bool

	// Propose hands to raft what waits for it elsewhere than in the inbox.
	Propose()

	// Tick advances the time of every group that does not sleep by one tick. heard are the signals that
	// have come in since the last one; the map is borrowed.
	Tick(heard map[nexusraft.NodeID]zone.Signal)

	// Turn makes a round of every group that has work, and reports whether any has more. An error
	// ends the worker.
	Turn() (busy bool, err error)

	// Stop ends every group and all else that waits, by an ErrClosed. It does not ask raft, which
	// may have panicked.
	Stop(error)
}

// Worker is the loop of the goroutine that owns a host's groups: it steps what comes in, advances
// time and has rounds made. It starts no goroutine and has no clock: Run's caller gives it both.
type Worker struct {
	inbox  *Inbox
	host   Host
	logger *slog.Logger
	taken  waiting                          // out of the inbox and not done yet
	heard  map[nexusraft.NodeID]zone.Signal // kept for its memory

	refusals rate.Sometimes // in the log
}

// NewWorker returns a worker with an inbox of its own, for which a backlog has a place.
func NewWorker(h Host, l *Backlog, logger *slog.Logger) *Worker {
	return &Worker{
		inbox: newInbox(l), host: h, logger: logger, heard: make(map[nexusraft.NodeID]zone.Signal),
		refusals: BadMessages(),
	}
}

// BadMessages is how often the log tells of messages that are refused or dropped: a peer may send
// thousands a second.
func BadMessages() rate.Sometimes { return rate.Sometimes{First: 10, Interval: time.Second} }

// Inbox returns the way to the worker.
func (w *Worker) Inbox() *Inbox { return w.inbox }

// Run works until stop is closed, which is no error, or the host can't go on, which is. Then it has
// answered everything that waited.
func (w *Worker) Run(ticks <-chan time.Time, stop <-chan struct{}) (err error) {
	// raft panics where its log contradicts itself or its storage fails. The process
	// must not go on with that zone, and the caller's goroutine must not be torn down.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: raft gave up: %v", nexusraft.ErrCorrupt, p)
		}
		w.end(err)
	}()
	busy := false // some group has more work than one round took
	for {
		ticked, stopped := w.wait(ticks, stop, busy)
		if stopped {
			return nil
		}
		// What came in during a stall is stepped before time goes on, and the ticks that
		// were missed are gone (a Ticker keeps one): otherwise a stall ends in an election.
		w.Drain()
		if ticked {
			w.heard = w.inbox.heard(w.heard)
			w.host.Tick(w.heard)
		}
		if busy, err = w.host.Turn(); err != nil {
			return err
		}
	}
}

// wait returns when there is something to do; at once if the worker is busy anyway.
func (w *Worker) wait(ticks <-chan time.Time, stop <-chan struct{}, busy bool) (ticked, stopped bool) {
	if busy {
		w.inbox.Wake()
	}
	select {
	case <-stop:
		return false, true
	case <-ticks:
		return true, false
	case <-w.inbox.wake:
	}
	select { // a full inbox does not hold up time
	case <-ticks:
		ticked = true
	default:
	}
	return ticked, false
}

// Drain does everything that waits: messages, then calls, then proposals. Run calls it, or a test
// that drives the worker by hand. What it has not come to when raft panics Run's end answers.
func (w *Worker) Drain() {
	room := w.host.Room()
	w.taken = w.inbox.take()
	for len(w.taken.messages) > 0 {
		w.step(&w.taken.messages[0], room)
		w.taken.messages = w.taken.messages[1:]
	}
	for len(w.taken.calls) > 0 {
		w.taken.calls[0](nil) // has answered when it returns
		w.taken.calls = w.taken.calls[1:]
	}
	w.host.Propose()
	w.taken = waiting{}
}

// step gives one message to its group.
func (w *Worker) step(m *Inbound, room bool) {
	g, err := w.host.Group(m.Zone)
	if err != nil {
		m.ignore(err)
		return
	}
	if !room && m.Message.GetType() == raftpb.MsgApp && len(m.Message.GetEntries()) > 0 {
		return
	}
	if err := g.Step(m.From, m.Message, m.Vote); err != nil {
		w.refused(m, err)
	}
}

func (w *Worker) refused(m *Inbound, err error) {
	if errors.Is(err, nexusraft.ErrRefused) {
		w.refusals.Do(func() {
			w.logger.Warn("message refused", "zone", m.Zone, "peer", m.From, "type", m.Message.GetType(),
				"term", m.Message.GetTerm(), "err", err)
		})
		return
	}
	w.logger.Debug("raft did not take a message", "zone", m.Zone, "peer", m.From, "type", m.Message.GetType(), "err", err)
}

// end answers everything that still waits.
func (w *Worker) end(err error) {
	if err == nil {
		err = nexusraft.ErrClosed
	} else {
		err = fmt.Errorf("%w: %w", nexusraft.ErrClosed, err)
	}
	w.inbox.Close()
	left := w.inbox.take()
	for _, m := range slices.Concat(w.taken.messages, left.messages) {
		m.ignore(err)
	}
	w.host.Stop(err)
	for _, call := range slices.Concat(w.taken.calls, left.calls) {
		call(err)
	}
}
