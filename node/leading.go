package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// leadTimeout is how long an orderly stop waits for calls of Lead, all together.
const leadTimeout = 1500 * time.Millisecond

// maxNotes is how many notes may wait on a node; half of them of one zone.
const maxNotes = 64 << 10

// leads are a node's calls of nexusraft.Leading.Lead.
type leads struct {
	waiting atomic.Int64 // notes, of all zones

	mu    sync.Mutex // guards calls
	calls map[*leadership]struct{}
}

// leadership is one call of Lead. It implements nexusraft.Leadership.
type leadership struct {
	node *Node
	zone nexusraft.ZoneID
	term nexusraft.Term

	cancel   context.CancelCauseFunc
	returned chan struct{} // closed when Lead has returned
	ended    chan struct{} // closed by end
	more     chan struct{} // has room for one: a note is waiting

	mu    sync.Mutex // guards what follows
	why   error      // of the end; nil before
	notes []nexusraft.Note
}

// lead calls Lead if it is due: this node leads, in a term for which that has not returned, and no
// earlier call goes on. Only the worker calls it, between two rounds or at the end of one.
func (g *group) lead() {
	if g.leads == nil || g.led != nil || !g.replica.TermApplied() || g.replica.Term() == g.ledTerm {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &leadership{
		node: g.w.node, zone: g.id, term: g.replica.Term(), cancel: cancel,
		returned: make(chan struct{}), ended: make(chan struct{}), more: make(chan struct{}, 1),
	}
	g.led, g.machine.Heard = l, true
	l.node.leads.add(l)
	go l.run(ctx, g, g.leads)
}

// run is the call's goroutine.
func (l *leadership) run(ctx context.Context, g *group, machine nexusraft.Leading) {
	var err error
	defer func() { // also of a Lead that ends its goroutine
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: its Lead panicked: %v", errMachine, p)
		}
		close(l.returned)
		l.node.leads.remove(l)
		l.node.worker.inbox.Post(func() { g.leadReturned(l, err) })
	}()
	machine.Lead(ctx, l)
}

// leadReturned is the worker's.
func (g *group) leadReturned(l *leadership, err error) {
	if l.end(fmt.Errorf("%w: Lead has returned", nexusraft.ErrClosed)) {
		g.ledTerm = l.term // by itself
	}
	g.led, g.machine.Heard = nil, false
	if g.w.zones[g.id] != g {
		return // stopped or deleted
	}
	if err != nil {
		g.w.fail(g, err)
		return
	}
	g.lead()
}

// endLead ends the call of Lead, if there is one.
func (g *group) endLead(why error) {
	if g.led != nil {
		g.led.end(why)
		g.machine.Heard = false
	}
}

// noLongerLeads ends the call of Lead if its term is over.
func (g *group) noLongerLeads(self bool) {
	if g.led != nil && (!self || g.replica.Term() != g.led.term) {
		g.endLead(g.hint())
	}
}

// hear keeps the notes of a command until they are written.
func (g *group) hear(index nexusraft.Index, notes []any) {
	if len(g.unwritten.notes) > maxNotes/2 {
		return // the call of Lead is told that it has missed some
	}
	for _, v := range notes {
		g.unwritten.notes = append(g.unwritten.notes, nexusraft.Note{Index: index, Value: v})
	}
}

// tellNotes gives the notes of what is written to the call of Lead.
func (g *group) tellNotes() {
	if notes := g.unwritten.notes; len(notes) > 0 && g.led != nil && !g.led.put(notes) {
		g.endLead(fmt.Errorf("%w: Lead has not taken its notes in time", nexusraft.ErrOverloaded))
	}
}

// put reports whether there was room for notes, of a call that goes on.
func (l *leadership) put(notes []nexusraft.Note) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return true
	}
	n, waiting := int64(len(notes)), &l.node.leads.waiting
	if len(l.notes)+len(notes) > maxNotes/2 {
		return false
	}
	if waiting.Add(n) > maxNotes {
		waiting.Add(-n)
		return false
	}
	l.notes = append(l.notes, notes...)
	l.wake()
	return true
}

func (l *leadership) wake() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// end cancels the context, drops the notes, and reports whether it was the first to.
func (l *leadership) end(why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return false
	}
	l.why = why
	l.node.leads.waiting.Add(-int64(len(l.notes)))
	l.notes = nil
	l.cancel(why)
	close(l.ended)
	return true
}

// take returns the first note that waits, and whether there is one; an error after the end.
func (l *leadership) take() (n nexusraft.Note, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil || len(l.notes) == 0 {
		return n, false, l.why
	}
	n, l.notes[0] = l.notes[0], nexusraft.Note{}
	l.notes = l.notes[1:]
	l.node.leads.waiting.Add(-1)
	if len(l.notes) > 0 {
		l.wake() // another caller
	}
	return n, true, nil
}

// NextNote implements nexusraft.Leadership.
func (l *leadership) NextNote(ctx context.Context) (nexusraft.Note, error) {
	for {
		if n, ok, err := l.take(); ok || err != nil {
			return n, err
		}
		select {
		case <-l.more:
		case <-l.ended:
		case <-ctx.Done():
			return nexusraft.Note{}, context.Cause(ctx)
		}
	}
}

// Zone implements nexusraft.Leadership.
func (l *leadership) Zone() nexusraft.ZoneID { return l.zone }

// Term implements nexusraft.Leadership.
func (l *leadership) Term() nexusraft.Term { return l.term }

// Propose implements nexusraft.Leadership.
func (l *leadership) Propose(
	ctx context.Context, id nexusraft.RequestID, command []byte,
) (nexusraft.Result, error) {
	if err := l.over(); err != nil {
		return nexusraft.Result{}, notAppended(err)
	}
	if err := checkSize(command); err != nil {
		return nexusraft.Result{}, err
	}
	p := transport.Proposal{Zone: l.zone, Request: id, Command: bytes.Clone(command)}
	return l.node.proposeHere(ctx, p, l.term)
}

// notAppended makes an end's reason say that a command was not appended in the term.
func notAppended(why error) error {
	if errors.Is(why, nexusraft.ErrNotLeader) {
		return why
	}
	return fmt.Errorf("%w: %w", nexusraft.ErrNotLeader, why)
}

// Read implements nexusraft.Leadership.
func (l *leadership) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := l.over(); err != nil {
		return err
	}
	return (&Zone{node: l.node, id: l.zone}).Read(ctx, fn)
}

// over returns why the leadership has ended; nil if it goes on.
func (l *leadership) over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

func (x *leads) add(l *leadership) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.calls == nil {
		x.calls = make(map[*leadership]struct{})
	}
	x.calls[l] = struct{}{}
}

func (x *leads) remove(l *leadership) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.calls, l)
}

// wait waits for the calls of Lead, which have all been ended by the worker's end, and returns the zones of
// those that go on after that.
func (x *leads) wait(timeout time.Duration) (left []nexusraft.ZoneID) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	x.mu.Lock()
	calls := slices.Collect(maps.Keys(x.calls))
	x.mu.Unlock()
	for _, l := range calls {
		select {
		case <-l.returned:
		case <-ctx.Done():
			left = append(left, l.zone)
		}
	}
	return left
}

// awaitLeads waits for the calls of Lead once the worker has ended.
func (n *Node) awaitLeads() {
	for _, id := range n.leads.wait(leadTimeout) {
		n.logger.Error("the state machine's Lead has not returned; the node closes all the same", "zone", id)
	}
}
