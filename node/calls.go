package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// proposal is a command or a conf change on its way through the worker, and the call that
// waits for it. The caller may give up while it is still queued: then it is not appended.
type proposal struct {
	zone    nexusraft.ZoneID
	request nexusraft.RequestID
	own     bool // the command is a NodeCommand
	command []byte
	conf    *zone.ConfChange // instead of command

	stage atomic.Int32 // proposalQueued until one of worker and caller moves it
	done  chan answer  // has room for the one answer

	settled func() // if not nil, run by the worker with the answer
}

const (
	proposalQueued int32 = iota
	proposalTaken        // by the worker: it may be appended
	proposalGivenUp
)

type answer struct {
	result nexusraft.Result
	err    error
}

func newProposal(z nexusraft.ZoneID) *proposal {
	return &proposal{zone: z, done: make(chan answer, 1)}
}

func (p *proposal) answer(r nexusraft.Result, err error) {
	p.done <- answer{r, err}
	if p.settled != nil {
		p.settled()
	}
}

// take reports whether the worker may go on with it: no longer if the caller has given up.
func (p *proposal) take() bool { return p.stage.CompareAndSwap(proposalQueued, proposalTaken) }

// wait returns the answer, or what is known when the context ends first.
func (p *proposal) wait(ctx context.Context) (nexusraft.Result, error) {
	select {
	case a := <-p.done:
		return a.result, a.err
	case <-ctx.Done():
	}
	if p.stage.CompareAndSwap(proposalQueued, proposalGivenUp) {
		return nexusraft.Result{}, fmt.Errorf("gave up before anything was written: %w", context.Cause(ctx))
	}
	select {
	case a := <-p.done: // both at once: the answer is worth more
		return a.result, a.err
	default:
		return nexusraft.Result{}, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, context.Cause(ctx))
	}
}

// readContexts makes the contexts of ReadIndex requests: unique in the zone for all time,
// so that no answer to another process is taken for one of ours.
type readContexts struct {
	replica     nexusraft.ReplicaID
	incarnation nexusraft.Incarnation
	sequence    uint64
}

func (c *readContexts) next() string {
	c.sequence++
	b := binary.BigEndian.AppendUint64(nil, uint64(c.replica))
	b = binary.BigEndian.AppendUint64(b, uint64(c.incarnation))
	return string(binary.BigEndian.AppendUint64(b, c.sequence))
}

// reads are the linearizable reads of one zone. At most one request is on its way: reads
// that come meanwhile wait for the next one, so that any number of them costs one round.
type reads struct {
	contexts readContexts
	waiting  []*read       // for the next request
	inFlight []*read       // for the one on its way
	context  string        // of that one
	age      int           // ticks since it was sent
	indexed  []indexedRead // confirmed; to be served once the index is applied
}

type indexedRead struct {
	index nexusraft.Index
	reads []*read
}

// read is one call that waits.
type read struct {
	ready chan error  // has room for the one answer
	gone  atomic.Bool // the caller has given up
}

func newRead() *read { return &read{ready: make(chan error, 1)} }

// readRetryTicks is how long an answer is waited for: requests get lost, with a leader or
// on the way, and raft says nothing.
const readRetryTicks = 4

// due reports whether there is a request to make.
func (r *reads) due() bool { return len(r.inFlight) == 0 && len(r.waiting) > 0 }

// request returns the context of a new request, if one is due.
func (r *reads) request() (string, bool) {
	if !r.due() {
		return "", false
	}
	r.inFlight, r.waiting = r.waiting, nil
	r.context, r.age = r.contexts.next(), 0
	return r.context, true
}

// tick puts reads whose request has got no answer back into line, and forgets those that
// nobody waits for any more: without a leader they would pile up.
func (r *reads) tick() {
	r.waiting = slices.DeleteFunc(r.waiting, func(x *read) bool { return x.gone.Load() })
	if len(r.inFlight) == 0 {
		return
	}
	if r.age++; r.age >= readRetryTicks {
		r.waiting = append(r.inFlight, r.waiting...)
		r.inFlight = nil
	}
}

func (r *reads) confirmed(c zone.Read) {
	if len(r.inFlight) > 0 && string(c.Context) == r.context {
		r.indexed = append(r.indexed, indexedRead{c.Index, r.inFlight})
		r.inFlight = nil
	}
}

// serve lets the reads go whose index is applied.
func (r *reads) serve(applied nexusraft.Index) {
	keep := r.indexed[:0]
	for _, x := range r.indexed {
		if x.index > applied {
			keep = append(keep, x)
			continue
		}
		for _, c := range x.reads {
			c.ready <- nil
		}
	}
	clear(r.indexed[len(keep):])
	r.indexed = keep
}

// fail ends every read.
func (r *reads) fail(err error) {
	for _, c := range append(r.waiting, r.inFlight...) {
		c.ready <- err
	}
	for _, x := range r.indexed {
		for _, c := range x.reads {
			c.ready <- err
		}
	}
	r.waiting, r.inFlight, r.indexed = nil, nil, nil
}

// noLeader makes a zone's "not leader" say whom to ask.
func noLeader(err error, hint *nexusraft.NotLeaderError) error {
	if errors.Is(err, nexusraft.ErrNotLeader) {
		return hint
	}
	return err
}
