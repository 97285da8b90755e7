package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// maxIncomingSnapshots is how many snapshots come in at once, those whose stream broke included.
const maxIncomingSnapshots = 2

// incomingSnapshots are the snapshots that are coming in. A snapshot's handler runs in a goroutine
// of its own, and goes on waiting for chunks for a while after a stream broke, so that another can
// go on.
type incomingSnapshots struct {
	stall time.Duration // how long a stream may bring nothing
	keep  time.Duration // how long a snapshot is kept without a stream

	mu     sync.Mutex
	closed bool
	all    map[snapshotKey]*incomingSnapshot
	wg     sync.WaitGroup // the handlers
}

// snapshotKey names a snapshot.
type snapshotKey struct {
	node nexusraft.NodeID
	zone uint64
	id   uint64
	from uint64 // and what it is of
	to   uint64
	at   uint64
	term uint64
}

func snapshotKeyOf(node nexusraft.NodeID, h *pb.SnapshotHeader) snapshotKey {
	return snapshotKey{node, h.GetZone(), h.GetId(), h.GetFrom(), h.GetTo(), h.GetIndex(), h.GetTerm()}
}

func newIncomingSnapshots() incomingSnapshots {
	return incomingSnapshots{stall: snapshotStall, keep: snapshotPatience, all: make(map[snapshotKey]*incomingSnapshot)}
}

// incomingSnapshot is one snapshot that is coming in. Streams take turns in feeding it.
type incomingSnapshot struct {
	keep time.Duration // how long it waits for the next stream; 0: the first one's end is its end
	turn chan struct{} // has room for one: the stream that may feed
	in   chan []byte   // to the handler, and closed after a good trailer

	reader   snapshotReader // of the stream that has the turn
	complete atomic.Bool    // a good trailer has come

	mu     sync.Mutex
	kick   func()        // asks the stream that has the turn to leave; nil if none has it
	kicked chan struct{} // closed by kick
	since  time.Time     // since when no stream has the turn
	expiry *time.Timer   // runs while no stream has the turn
	over   bool          // the handler has returned

	ctx    context.Context // the handler's
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the handler has returned
	err    error         // what it returned; set before done is closed
}

// find returns the snapshot with a key; nil if it is not coming in.
func (t *incomingSnapshots) find(key snapshotKey) *incomingSnapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key.id == 0 {
		return nil
	}
	return t.all[key]
}

// open begins a snapshot, whose handler is run. Snapshots that no stream feeds give way: earlier
// ones of the zone, and others if there are too many.
func (t *incomingSnapshots) open(
	ctx context.Context, key snapshotKey, run func(context.Context, *incomingSnapshot) error,
) (*incomingSnapshot, error) {
	for {
		t.mu.Lock()
		idle := t.giveWay(key)
		if idle == nil {
			defer t.mu.Unlock()
			return t.add(key, run)
		}
		t.mu.Unlock()
		idle.cancel(errors.New("read snapshot: a newer snapshot has come"))
		select {
		case <-idle.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// giveWay returns a snapshot that must end before another begins; nil if there is none. The caller
// holds mu.
func (t *incomingSnapshots) giveWay(key snapshotKey) *incomingSnapshot {
	var oldest *incomingSnapshot
	for k, r := range t.all {
		since, idle := r.idle()
		switch {
		case !idle:
		case k.zone == key.zone:
			return r
		case oldest == nil:
			oldest = r
		default:
			if before, _ := oldest.idle(); since.Before(before) {
				oldest = r
			}
		}
	}
	if len(t.all) < maxIncomingSnapshots {
		return nil
	}
	return oldest
}

// add is what open does at last. The caller holds mu.
func (t *incomingSnapshots) add(
	key snapshotKey, run func(context.Context, *incomingSnapshot) error,
) (*incomingSnapshot, error) {
	switch {
	case t.closed:
		return nil, nexusraft.ErrClosed
	case len(t.all) >= maxIncomingSnapshots:
		return nil, fmt.Errorf("%w: %d snapshots come in already", nexusraft.ErrOverloaded, len(t.all))
	case t.all[key] != nil:
		return nil, fmt.Errorf("%w: this snapshot comes in already", nexusraft.ErrOverloaded)
	}
	r := newIncomingSnapshot(key, t.keep)
	t.all[key] = r
	t.wg.Go(func() {
		err := run(r.ctx, r)
		if err == nil && !r.complete.Load() {
			err = fmt.Errorf("install snapshot of zone %d: accepted before its trailer was checked", key.zone)
		}
		t.mu.Lock()
		delete(t.all, key)
		t.mu.Unlock()
		r.end(err)
	})
	return r, nil
}

// end gives up the snapshots of a node.
func (t *incomingSnapshots) end(node nexusraft.NodeID, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, r := range t.all {
		if key.node == node {
			r.cancel(why)
		}
	}
}

// close ends all snapshots and waits for their handlers.
func (t *incomingSnapshots) close() {
	t.mu.Lock()
	t.closed = true
	for _, r := range t.all {
		r.cancel(nexusraft.ErrClosed)
	}
	t.mu.Unlock()
	t.wg.Wait()
}

func newIncomingSnapshot(key snapshotKey, keep time.Duration) *incomingSnapshot {
	r := &incomingSnapshot{
		turn: make(chan struct{}, 1), in: make(chan []byte), done: make(chan struct{}), since: time.Now(),
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.expiry = time.AfterFunc(keep, func() {
		r.cancel(fmt.Errorf("read snapshot: cut off after some of it, and not gone on with for %v", keep))
	})
	if key.id != 0 {
		r.keep = keep
	}
	return r
}

// take waits for the turn to feed, which the stream that has it is asked to give up.
func (r *incomingSnapshot) take(ctx context.Context) (leave func(), err error) {
	r.mu.Lock()
	if r.kick != nil {
		r.kick()
	}
	r.mu.Unlock()
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expiry.Stop()
	kicked := make(chan struct{})
	r.kicked, r.kick = kicked, sync.OnceFunc(func() { close(kicked) })
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.kick, r.since = nil, time.Now()
		if !r.over {
			r.expiry.Reset(r.keep)
		}
		<-r.turn
	}, nil
}

// idle reports since when no stream has had the turn, if none has.
func (r *incomingSnapshot) idle() (since time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.since, r.kick == nil
}

// chunks yields the data in order, and one error last unless a good trailer has come.
func (r *incomingSnapshot) chunks() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			select {
			case data, ok := <-r.in:
				if !ok || !yield(data, nil) {
					return
				}
			case <-r.ctx.Done():
				yield(nil, context.Cause(r.ctx))
				return
			}
		}
	}
}

// feed gives the handler what one stream brings, and returns how the snapshot ended, or an
// errStreamEnded if only the stream did. The caller has the turn.
func (r *incomingSnapshot) feed(in <-chan snapshotStep, stall time.Duration) error {
	timer := time.NewTimer(stall)
	defer timer.Stop()
	for !r.complete.Load() {
		timer.Reset(stall)
		select {
		case s := <-in:
			if err := r.handle(s); err != nil {
				return err
			}
		case <-timer.C:
			return r.ended(fmt.Errorf("nothing came for %v", stall))
		case <-r.kicked:
			return r.ended(errKicked)
		case <-r.done:
			return r.err
		}
	}
	return r.outcome(in)
}

// outcome waits for the handler's end once all has come.
func (r *incomingSnapshot) outcome(in <-chan snapshotStep) error {
	for {
		select {
		case <-r.done:
			return r.err
		case <-r.kicked:
			return errStreamEnded{errKicked}
		case s := <-in:
			if s.err != nil && !errors.Is(s.err, io.EOF) {
				return errStreamEnded{s.err}
			}
			if s.err != nil {
				in = nil // its end, after the trailer
			}
		}
	}
}

// handle takes one step of a stream.
func (r *incomingSnapshot) handle(s snapshotStep) error {
	switch {
	case errors.Is(s.err, io.EOF): // in order: its sender has given up
		return r.fail(fmt.Errorf("%w: read snapshot: cut off after %d bytes, without a trailer", nexusraft.ErrCorrupt,
			r.reader.offset))
	case s.err != nil:
		return r.ended(s.err)
	}
	data, err := r.reader.check(s.req)
	switch {
	case errors.Is(err, io.EOF):
		r.complete.Store(true)
		close(r.in)
		return nil
	case err != nil:
		return r.fail(err)
	}
	select {
	case r.in <- data:
		r.reader.advance(data)
		return nil
	case <-r.kicked:
		return r.ended(errKicked)
	case <-r.done:
		return r.err
	}
}

// fail ends the snapshot.
func (r *incomingSnapshot) fail(err error) error {
	r.cancel(err)
	<-r.done
	return r.err
}

// ended says that a stream has ended, which is the end of a snapshot that can't be resumed.
func (r *incomingSnapshot) ended(err error) error {
	err = fmt.Errorf("read snapshot: after %d bytes: %w", r.reader.offset, err)
	if r.keep == 0 {
		return r.fail(err)
	}
	return errStreamEnded{err}
}

// end is the handler's.
func (r *incomingSnapshot) end(err error) {
	r.err = err
	close(r.done)
	r.mu.Lock()
	r.over = true
	r.expiry.Stop()
	r.mu.Unlock()
	r.cancel(nil)
}

// errStreamEnded: a stream is over, and its snapshot is not.
type errStreamEnded struct{ error }

var errKicked = errors.New("another stream goes on with it")
