package ttl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A step of a sweep looks at so many entries at most, or at so many bytes of them and one.
const (
	stepEntries = 1000
	stepBytes   = 1 << 20
)

// Sweep removes from the disk what had expired when it was called, and returns how many pairs that
// was. It goes in small steps that wait for no sync, and between which it ends with ctx. The
// background does the same at each Options.SweepInterval.
func (t *Tree) Sweep(ctx context.Context) (removed int, err error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	select {
	case t.sweeping <- struct{}{}:
		defer func() { <-t.sweeping }()
	case <-ctx.Done():
		return 0, fmt.Errorf("sweep expiring tree %q: %w", t.name, context.Cause(ctx))
	}
	limit := max(t.now(), 0) + 1
	next, end := position(t.from.Swap(limit)), position(limit)
	for next != nil && err == nil {
		var n int
		if err = context.Cause(ctx); err == nil {
			n, next, err = t.step(next, end)
			removed += n
		}
	}
	if err != nil {
		t.sweepFrom(deadlineOf(next))
		err = fmt.Errorf("sweep expiring tree %q: %w", t.name, err)
	}
	return removed, err
}

// sweepFrom makes the next sweep begin at a deadline, unless it begins below it anyway.
func (t *Tree) sweepFrom(deadline int64) {
	for from := t.from.Load(); deadline < from; from = t.from.Load() {
		if t.from.CompareAndSwap(from, deadline) {
			return
		}
	}
}

// step handles the first entries from start on. It returns how many pairs it has removed, and where
// to go on, nil if there is nothing left; after an error that is start.
//
// The problem: what was removed is skipped key by key until a compaction takes it away, and all
// that sweeps have ever removed is in front of what they look for. So a sweep begins where the last
// one has ended, at t.from; and a write may become visible behind that, for its clock was read
// before it waited for something, or was set back.
//
// The invariant: an entry below t.from was either handled, or its writer is about to lower t.from
// to it (sweepFrom), or a sweep that is running will see it. A sweep raises t.from first and looks
// then: what it doesn't find was not visible yet, so its writer finds t.from raised.
//
// The pair goes first, then the entry, so that a crash between leaves no pair behind for ever. The
// pair goes only if it is still of the entry's life (see newStamp) and its time is over. If it was
// renewed, the entry of its present deadline takes the place of this one, in one batch: a pair
// always has an entry of its life, with its deadline or an earlier one.
//
// Rejected: a transaction for a step (pairs that are written all the time, the very ones with most
// entries, would conflict with it for ever).
func (t *Tree) step(start, end []byte) (removed int, next []byte, err error) {
	due, next, err := t.due(start, end)
	if err == nil && len(due) > 0 {
		removed, err = t.handle(due)
	}
	if err != nil {
		next = start
	}
	return removed, next, err
}

// handle removes entries, and the pairs that they are still for, or gives these another entry.
func (t *Tree) handle(due []entry) (removed int, err error) {
	b := t.s.NewBatch()
	defer b.Close()
	b.UseReserve() // each entry that it writes takes the place of another one
	next := int64(math.MaxInt64)
	var stored []byte // one buffer for all pairs
	for _, e := range due {
		var was fate
		if was, stored, err = t.expire(e, stored); err != nil {
			return removed, err
		}
		switch was {
		case expired:
			removed++
		case renewed:
			next = min(next, deadlineOf(stored))
			if err := b.Set(t.deadlines, stored[:stampBytes], e.key); err != nil {
				return removed, err
			}
		}
		if err := b.Delete(t.deadlines, e.stamp); err != nil {
			return removed, err
		}
	}
	defer t.sweepFrom(next)
	return removed, b.Commit(false)
}

// entry says when the time of a pair is over.
type entry struct{ stamp, key []byte }

// due returns the first entries from start on, and where the others begin, nil if there are none.
func (t *Tree) due(start, end []byte) (due []entry, next []byte, err error) {
	size := 0
	for p, err := range t.deadlines.Scan(start, end) {
		if err != nil {
			return nil, nil, err
		}
		if len(due) == stepEntries || size >= stepBytes {
			return due, bytes.Clone(p.Key), nil
		}
		due = append(due, entry{stamp: bytes.Clone(p.Key), key: bytes.Clone(p.Value)})
		size += len(p.Key) + len(p.Value)
	}
	return due, nil, nil
}

// fate is what an entry has found of its pair.
type fate int

const (
	gone    fate = iota // the pair is not there, or of another life
	expired             // it was removed
	renewed             // it was renewed
)

// expire removes the pair that an entry came with, if its time is over. It uses buf, and
// returns what became of it: the pair as it is, if it was renewed.
func (t *Tree) expire(e entry, buf []byte) (fate, []byte, error) {
	for {
		stored, ok, err := t.pairs.GetTo(buf[:0], e.key)
		switch {
		case err != nil || !ok || len(stored) < stampBytes || !bytes.Equal(stored[8:stampBytes], e.stamp[8:]):
			return gone, stored, err
		case deadlineOf(stored) > max(deadlineOf(e.stamp), t.now()):
			return renewed, stored, nil
		}
		if _, swapped, err := t.pairs.CompareAndSwap(e.key, stored, nil, storage.NoSync); err != nil || swapped {
			return expired, stored, err
		}
		buf = stored // it was written meanwhile: look again
	}
}

// position is where entries of a deadline begin.
func position(deadline int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(deadline)) }

// deadlineOf returns the deadline of an entry. What is too short for one is below all.
func deadlineOf(stamp []byte) int64 {
	if len(stamp) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(stamp))
}

// sweepAlways sweeps at each interval until ctx ends or the store does. A failure is logged
// once, until a sweep has succeeded again.
func (t *Tree) sweepAlways(ctx context.Context) {
	defer close(t.stopped)
	ticker := time.NewTicker(t.o.SweepInterval)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.s.Done():
			return
		case <-ticker.C:
		}
		_, err := t.Sweep(ctx)
		if err != nil && !failed && ctx.Err() == nil && !errors.Is(err, nexusraft.ErrClosed) {
			t.o.Logger.Warn("sweep failed, it is tried again", "tree", t.name, "err", err)
		}
		failed = err != nil
	}
}
