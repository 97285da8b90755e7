package driver

import (
	"context"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Bounds limit what waits for a worker, or for all workers of a node together.
type Bounds struct {
	Messages     int // more are dropped: raft sends again
	MessageBytes int // the same
	Calls        int // more get ErrOverloaded
}

// Backlog counts what waits in the inboxes of a node's workers, and bounds it for all of them together. Its
// methods may be called from many goroutines.
type Backlog struct {
	all, each Bounds // of all inboxes, and of one

	messages, bytes, calls atomic.Int64
}

// NewBacklog returns the backlog of so many inboxes. Of several, one takes half at most, so that a worker that
// is stuck leaves room for the others.
func NewBacklog(b Bounds, inboxes int) *Backlog {
	l := &Backlog{all: b, each: b}
	if inboxes > 1 {
		l.each = Bounds{Messages: b.Messages / 2, MessageBytes: b.MessageBytes / 2, Calls: b.Calls / 2}
	}
	return l
}

// addMessage counts a message of so many bytes, unless that would pass a bound.
func (l *Backlog) addMessage(bytes int) bool {
	messages, sum := l.messages.Add(1), l.bytes.Add(int64(bytes))
	if messages <= int64(l.all.Messages) && sum <= int64(l.all.MessageBytes) {
		return true
	}
	l.messages.Add(-1)
	l.bytes.Add(int64(-bytes))
	return false
}

// addCall counts a call, unless that would pass a bound.
func (l *Backlog) addCall() bool {
	if l.calls.Add(1) <= int64(l.all.Calls) {
		return true
	}
	l.calls.Add(-1)
	return false
}

// taken counts no more what an inbox had.
func (l *Backlog) taken(w waiting, bytes int) {
	l.messages.Add(int64(-len(w.messages)))
	l.bytes.Add(int64(-bytes))
	l.calls.Add(int64(-len(w.calls)))
}

// Inbound is a peer's raft message on its way to its group.
type Inbound struct {
	Zone    nexusraft.ZoneID
	From    nexusraft.NodeID
	Message *raftpb.Message
	Bytes   int      // of the message in memory, about
	Vote    VoteCall // waits for the answer to a vote request; nil with any other message
}

// ignore answers a vote request that no group takes.
func (m *Inbound) ignore(err error) {
	if m.Vote != nil {
		m.Vote.Answer(VoteAnswer{Why: err.Error()})
	}
}

// Inbox is the only way to a worker. Its methods may be called from many goroutines, and none but
// Ask blocks.
type Inbox struct {
	wake    chan struct{} // has room for one: there is something to do
	backlog *Backlog

	mu     sync.Mutex // guards what follows
	closed bool
	bytes  int // of waiting.messages
	waiting
	signals map[nexusraft.NodeID]zone.Signal // the last one of each node, since the last tick
}

// waiting is what is in an inbox at one moment.
type waiting struct {
	messages []Inbound
	calls    []func(error)
}

func newInbox(l *Backlog) *Inbox {
	return &Inbox{wake: make(chan struct{}, 1), backlog: l, signals: make(map[nexusraft.NodeID]zone.Signal)}
}

// Put reports how many of the messages, in their order, found room. Vote requests that did not are answered at
// once. The slice is not kept.
func (b *Inbox) Put(ms []Inbound) (taken int) {
	taken, why := b.put(ms)
	for i := range ms[taken:] {
		ms[taken+i].ignore(why)
	}
	return taken
}

func (b *Inbox) put(ms []Inbound) (taken int, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.Wake()
	for _, m := range ms {
		if b.closed {
			return taken, nexusraft.ErrClosed
		}
		if !b.fits(m.Bytes) || !b.backlog.addMessage(m.Bytes) {
			return taken, nexusraft.ErrOverloaded
		}
		b.messages = append(b.messages, m)
		b.bytes += m.Bytes
		taken++
	}
	return taken, nil
}

// fits reports whether one more message is within what one inbox may have; mu is held.
func (b *Inbox) fits(bytes int) bool {
	each := b.backlog.each
	return len(b.messages) < each.Messages && b.bytes+bytes <= each.MessageBytes
}

// Hear takes a node's signal, for the worker's next tick. It finds room however full the inbox is: or
// zones would wake because there is much to do.
func (b *Inbox) Hear(from nexusraft.NodeID, s zone.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.signals[from]; known || len(b.signals) < nexusraft.MaxMembers {
		b.signals[from] = s
	}
}

// heard returns the signals that have come in. spare takes their place, once it is emptied.
func (b *Inbox) heard(spare map[nexusraft.NodeID]zone.Signal) (signals map[nexusraft.NodeID]zone.Signal) {
	clear(spare)
	b.mu.Lock()
	defer b.mu.Unlock()
	signals, b.signals = b.signals, spare
	return signals
}

// Call has the worker run f with nil or, if the worker ends before, with why: once, and once more with why
// if f itself panics. After an error, ErrOverloaded or ErrClosed, it never runs.
func (b *Inbox) Call(f func(error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nexusraft.ErrClosed
	}
	if len(b.calls) >= b.backlog.each.Calls || !b.backlog.addCall() {
		return nexusraft.ErrOverloaded
	}
	b.calls = append(b.calls, f)
	b.Wake()
	return nil
}

// Post is Call for what must not get lost, such as the end of a snapshot: it has no bound, so each
// kind has one where it begins. f does not run once the worker has ended.
func (b *Inbox) Post(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.backlog.calls.Add(1)
	b.calls = append(b.calls, func(err error) {
		if err == nil {
			f()
		}
	})
	b.Wake()
}

// Ask has the worker run f, which gets Call's error, and returns its result. The error is Call's, or
// the context's cause: f may run all the same then.
func Ask[T any](ctx context.Context, b *Inbox, f func(error) T) (value T, err error) {
	done := make(chan T, 1)
	if err := b.Call(func(err error) { done <- f(err) }); err != nil {
		return value, err
	}
	select {
	case value = <-done:
		return value, nil
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
}

// Wake makes the worker look whether there is something to do.
func (b *Inbox) Wake() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Woken returns the channel by which the worker hears of Wake. It is for a test that drives a worker
// by hand.
func (b *Inbox) Woken() <-chan struct{} { return b.wake }

// Closed reports whether the worker has ended.
func (b *Inbox) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Close refuses everything from now on.
func (b *Inbox) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// take empties the inbox.
func (b *Inbox) take() waiting {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiting
	b.backlog.taken(w, b.bytes)
	b.waiting, b.bytes = waiting{}, 0
	return w
}
