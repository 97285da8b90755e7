// Package propose is the queue in which proposals wait for the worker of their zone: commands and conf
// changes, each with the call that waits for its answer.
package propose

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Call is a command or a conf change on its way through the worker, and the call that waits for it.
// The caller may give up while it is still queued: then it is not appended. Its fields are set before
// it is put into a Queue.
type Call struct {
	Zone    nexusraft.ZoneID
	Request nexusraft.RequestID
	Own     bool // the command is a NodeCommand
	Command []byte
	Conf    *zone.ConfChange // instead of Command
	Term    nexusraft.Term   // the only one in which Command may be appended; 0: any

	Requester *nexusraft.Requester // the client that asks; nil if none does

	Settled func() // if not nil, run by the worker with the answer

	stage atomic.Int32          // queued until one of worker and caller moves it
	done  chan answer           // has room for the one answer
	queue atomic.Pointer[Queue] // whose bounds it counts for; nil before Put, and once it has ended
}

// The stages of a Call.
const (
	queued  int32 = iota
	taken         // by the worker: it may be appended
	givenUp       // by the caller, before it was taken
	left          // by the caller, after that: nobody waits for the answer
)

type answer struct {
	result nexusraft.Result
	err    error
}

// New returns a call of a zone.
func New(z nexusraft.ZoneID) *Call { return &Call{Zone: z, done: make(chan answer, 1)} }

// Answer implements driver.Call.
func (p *Call) Answer(r nexusraft.Result, err error) {
	p.release()
	p.done <- answer{r, err}
	if p.Settled != nil {
		p.Settled()
	}
}

// Take reports whether the worker may go on with it, which then ends by Answer: no longer if the caller
// has given up.
func (p *Call) Take() bool {
	ok := p.stage.CompareAndSwap(queued, taken)
	if !ok {
		p.release()
	}
	return ok
}

// release has the call count no more.
func (p *Call) release() {
	if q := p.queue.Swap(nil); q != nil {
		q.released(p)
	}
}

// Left implements driver.Call.
func (p *Call) Left() bool { return p.stage.Load() == left }

// Wait returns the answer, or what is known when the context ends first.
func (p *Call) Wait(ctx context.Context) (nexusraft.Result, error) {
	select {
	case a := <-p.done:
		return a.result, a.err
	case <-ctx.Done():
	}
	if p.stage.CompareAndSwap(queued, givenUp) {
		return nexusraft.Result{}, fmt.Errorf("gave up before anything was written: %w", context.Cause(ctx))
	}
	select {
	case a := <-p.done: // both at once: the answer is worth more
		return a.result, a.err
	default:
		p.stage.Store(left)
		return nexusraft.Result{}, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, context.Cause(ctx))
	}
}

// Bounds of the calls that are on their way, from Put to their answer, of all zones of a node together; one zone
// takes half of each at most, so that a flood of one leaves room for the others, and one of several workers
// three quarters.
// Beyond them calls get ErrOverloaded, before anything is appended.
const (
	maxCalls = 64 << 10
	maxBytes = 128 << 20 // of their commands
)

// While calls of several zones are on their way, and for sharedTakes after that, the worker takes so many
// calls of a zone at once, or the first one if that has more bytes: a round lasts as long as all that is in it,
// and what another zone waits for is in the same round.
const (
	turnCalls   = 64
	turnBytes   = 256 << 10
	sharedTakes = 64
)

// Allowance counts the calls on their way of a node's queues, for the bounds that those have together. Its methods
// may be called from many goroutines; the zero value is ready.
type Allowance struct{ calls, bytes atomic.Int64 }

// add counts a call of so many bytes, unless that would pass a bound: an ErrOverloaded.
func (a *Allowance) add(bytes int) error {
	calls, sum := a.calls.Add(1), a.bytes.Add(int64(bytes))
	if calls <= maxCalls && sum <= maxBytes {
		return nil
	}
	a.remove(bytes)
	return errFull(load{int(calls - 1), int(sum) - bytes}, "this node")
}

func errFull(has load, where string) error {
	return fmt.Errorf("%w: %d commands of %d bytes are on their way on %s", nexusraft.ErrOverloaded, has.calls, has.bytes,
		where)
}

// remove counts a call no more.
func (a *Allowance) remove(bytes int) {
	a.calls.Add(-1)
	a.bytes.Add(int64(-bytes))
}

// Queue has the calls that wait for a worker, which takes many at once: those of one zone become few
// messages to raft. It may be used from many goroutines. The zero value is ready.
type Queue struct {
	Of *Allowance // of the node, set before the first Put; nil: there is no other queue

	mu     sync.Mutex // guards what follows
	closed bool
	all    load                         // of the calls on their way, those that were taken too
	zones  map[nexusraft.ZoneID]load    // the same, of each zone
	shared int                          // for how many more takes the bounds of a turn hold
	lines  map[nexusraft.ZoneID][]*Call // those that wait, of each zone that has any
	order  []nexusraft.ZoneID           // the zones that have, in the order in which they came to have
}

// load is how many calls are on their way, and the bytes of their commands.
type load struct{ calls, bytes int }

func (l load) plus(calls, bytes int) load { return load{l.calls + calls, l.bytes + bytes} }

// Put takes a call in; the worker must be woken then.
func (q *Queue) Put(p *Call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	all, zone := q.all.plus(1, len(p.Command)), q.zones[p.Zone].plus(1, len(p.Command))
	switch {
	case q.closed:
		return nexusraft.ErrClosed
	case q.Of == nil && (all.calls > maxCalls || all.bytes > maxBytes):
		return errFull(q.all, "this node")
	case q.Of != nil && (all.calls > maxCalls/4*3 || all.bytes > maxBytes/4*3): // its worker may stand still
		return errFull(q.all, "one worker of this node")
	case zone.calls > maxCalls/2 || zone.bytes > maxBytes/2:
		return fmt.Errorf("%w: %d commands of %d bytes are on their way in zone %v", nexusraft.ErrOverloaded,
			zone.calls-1, zone.bytes-len(p.Command), p.Zone)
	}
	if q.Of != nil {
		if err := q.Of.add(len(p.Command)); err != nil {
			return err
		}
	}
	if q.zones == nil {
		q.zones = make(map[nexusraft.ZoneID]load)
	}
	if q.lines == nil {
		q.lines = make(map[nexusraft.ZoneID][]*Call)
	}
	q.all, q.zones[p.Zone] = all, zone
	line := q.lines[p.Zone]
	if len(line) == 0 {
		q.order = append(q.order, p.Zone)
	}
	q.lines[p.Zone] = append(line, p)
	p.queue.Store(q)
	return nil
}

// released counts a call no more.
func (q *Queue) released(p *Call) {
	if q.Of != nil {
		q.Of.remove(len(p.Command))
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = q.all.plus(-1, -len(p.Command))
	if zone := q.zones[p.Zone].plus(-1, -len(p.Command)); zone.calls > 0 {
		q.zones[p.Zone] = zone
	} else {
		delete(q.zones, p.Zone)
	}
}

// Take takes what waits, the calls of each zone together and in the order in which they came: all of it, or while
// zones share the worker a part of each; more says that there is more. Each of the calls ends by Call.Take or
// Call.Answer.
func (q *Queue) Take() (taken []*Call, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.zones) > 1 {
		q.shared = sharedTakes
	}
	if q.shared == 0 || len(q.order) == 0 {
		return q.takeAll(), false
	}
	q.shared--
	left := q.order[:0]
	for _, zone := range q.order {
		line := q.lines[zone]
		n := turn(line)
		taken = append(taken, line[:n]...)
		if n < len(line) {
			q.lines[zone], left = line[n:], append(left, zone)
		} else {
			delete(q.lines, zone)
		}
	}
	q.order = left
	return taken, len(left) > 0
}

// turn returns how many calls of a zone one take has. Those whose caller has given up cost nothing.
func turn(line []*Call) (n int) {
	var had load
	for ; n < len(line); n++ {
		if line[n].stage.Load() == givenUp {
			continue
		}
		now := had.plus(1, len(line[n].Command))
		if had.calls > 0 && (now.calls > turnCalls || now.bytes > turnBytes) {
			break
		}
		had = now
	}
	return n
}

func (q *Queue) takeAll() (taken []*Call) {
	for i, zone := range q.order {
		if i == 0 {
			taken = q.lines[zone] // mostly it is the only one
		} else {
			taken = append(taken, q.lines[zone]...)
		}
	}
	clear(q.lines)
	q.order = q.order[:0]
	return taken
}

// Close takes everything that waits, and refuses every call from now on.
func (q *Queue) Close() (taken []*Call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return q.takeAll()
}

// Refuse answers calls that have not been given to a zone.
func Refuse(ps []*Call, err error) {
	for _, p := range ps {
		if p.Take() {
			p.Answer(nexusraft.Result{}, err)
		}
	}
}
