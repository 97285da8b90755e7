package leading

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// MaxNotes is how many notes may wait on a node; half of them of one zone.
const MaxNotes = 64 << 10

// Options are what calls of Lead may do with their zones. Both functions are called from many goroutines.
type Options struct {
	// Propose is nexusraft.Leadership.Propose in a zone and a term, whether or not the call of Lead goes on.
	Propose func(
		ctx context.Context, zone nexusraft.ZoneID, term nexusraft.Term, id nexusraft.RequestID, command []byte,
	) (nexusraft.Result, error)

	// Read is node.Zone.Read.
	Read func(ctx context.Context, zone nexusraft.ZoneID, fn func(nexusraft.Reader) error) error
}

// Leads are a node's calls of Lead. Its methods may be called from many goroutines.
type Leads struct {
	o       Options
	waiting atomic.Int64 // notes, of all zones

	mu    sync.Mutex // guards calls
	calls map[*Lead]struct{}
}

// New returns the calls of a node, of which there are none yet.
func New(o Options) *Leads { return &Leads{o: o, calls: make(map[*Lead]struct{})} }

// Lead is one call of Lead, and the nexusraft.Leadership that it gets. Its methods may be called from many
// goroutines.
type Lead struct {
	of   *Leads
	zone nexusraft.ZoneID
	term nexusraft.Term

	cancel   context.CancelCauseFunc
	returned chan struct{} // closed when Lead has returned
	ended    chan struct{} // closed by End
	more     chan struct{} // has room for one: a note is waiting

	mu    sync.Mutex // guards what follows
	why   error      // of the end; nil before
	notes []nexusraft.Note
}

// Start calls m's Lead for a term of a zone. When that has returned, the call's goroutine calls returned, with
// what Lead has panicked with, or nil.
func (x *Leads) Start(
	m nexusraft.Leading, zone nexusraft.ZoneID, term nexusraft.Term, returned func(l *Lead, panicked any),
) *Lead {
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &Lead{
		of: x, zone: zone, term: term, cancel: cancel,
		returned: make(chan struct{}), ended: make(chan struct{}), more: make(chan struct{}, 1),
	}
	x.add(l)
	go l.run(ctx, m, returned)
	return l
}

// run is the call's goroutine.
func (l *Lead) run(ctx context.Context, m nexusraft.Leading, returned func(*Lead, any)) {
	defer func() { // also of a Lead that ends its goroutine
		panicked := recover()
		close(l.returned)
		l.of.remove(l)
		returned(l, panicked)
	}()
	m.Lead(ctx, l)
}

// Put gives the call notes, which it keeps, and reports whether there was room for them. A call that has ended
// needs none.
func (l *Lead) Put(notes []nexusraft.Note) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return true
	}
	n, waiting := int64(len(notes)), &l.of.waiting
	if len(l.notes)+len(notes) > MaxNotes/2 {
		return false
	}
	if waiting.Add(n) > MaxNotes {
		waiting.Add(-n)
		return false
	}
	l.notes = append(l.notes, notes...)
	l.wake()
	return true
}

func (l *Lead) wake() {
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// End ends the call's context, drops its notes, and reports whether it was the first to. It does not wait for
// Lead to return.
func (l *Lead) End(why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return false
	}
	l.why = why
	l.of.waiting.Add(-int64(len(l.notes)))
	l.notes = nil
	l.cancel(why)
	close(l.ended)
	return true
}

// take returns the first note that waits, and whether there is one; an error after the end.
func (l *Lead) take() (n nexusraft.Note, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil || len(l.notes) == 0 {
		return n, false, l.why
	}
	n, l.notes[0] = l.notes[0], nexusraft.Note{}
	l.notes = l.notes[1:]
	l.of.waiting.Add(-1)
	if len(l.notes) > 0 {
		l.wake() // another caller
	}
	return n, true, nil
}

// NextNote implements nexusraft.Leadership.
func (l *Lead) NextNote(ctx context.Context) (nexusraft.Note, error) {
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
func (l *Lead) Zone() nexusraft.ZoneID { return l.zone }

// Term implements nexusraft.Leadership.
func (l *Lead) Term() nexusraft.Term { return l.term }

// Propose implements nexusraft.Leadership.
func (l *Lead) Propose(ctx context.Context, id nexusraft.RequestID, command []byte) (nexusraft.Result, error) {
	if err := l.over(); err != nil {
		return nexusraft.Result{}, notAppended(err)
	}
	return l.of.o.Propose(ctx, l.zone, l.term, id, command)
}

// notAppended makes an end's reason say that a command was not appended in the term.
func notAppended(why error) error {
	if errors.Is(why, nexusraft.ErrNotLeader) {
		return why
	}
	return fmt.Errorf("%w: %w", nexusraft.ErrNotLeader, why)
}

// Read implements nexusraft.Leadership.
func (l *Lead) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := l.over(); err != nil {
		return err
	}
	return l.of.o.Read(ctx, l.zone, fn)
}

// over returns why the call has ended; nil if it goes on.
func (l *Lead) over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

func (x *Leads) add(l *Lead) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.calls[l] = struct{}{}
}

func (x *Leads) remove(l *Lead) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.calls, l)
}

// Wait waits until the calls that there are have returned, which have all been ended, and returns the zones of
// those that go on after the timeout.
func (x *Leads) Wait(timeout time.Duration) (left []nexusraft.ZoneID) {
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
