package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// opBytes is more than what an operation takes in a batch besides its keys and value.
const opBytes = 16 + 2*prefixBytes

// Batch is a list of writes to any trees of one store, done together or not at all. It
// is for one goroutine. Close it when it is no longer needed.
type Batch struct {
	s         *Store
	b         *pebble.Batch // nil once closed
	drops     []*Tree
	latches   latchSet // of the keys that it writes
	bytes     int      // of the keys and values that it writes
	committed bool
	syncing   bool // its sync was asked for and has not been awaited
	sets      bool // it has a Set: it needs room on the disk
	reserved  bool // it may use the disk's reserve
}

// NewBatch returns an empty batch. Of a store that is closed or dead, it is one whose
// methods return errors.
func (s *Store) NewBatch() *Batch { return &Batch{s: s, b: s.db.NewBatch()} }

// Set stores value at key, replacing what is there. Both are copied. It returns
// nexusraft.ErrTooLarge if a limit is passed; the batch is unchanged then.
func (b *Batch) Set(t *Tree, key, value []byte) error {
	if err := b.usable(t); err != nil {
		return err
	}
	return b.set(t.id, key, value)
}

func (b *Batch) set(tree uint32, key, value []byte) error {
	if err := checkSize(len(key), len(value)); err != nil {
		return err
	}
	if err := b.room(len(key) + len(value)); err != nil {
		return err
	}
	op := b.b.SetDeferred(prefixBytes+len(key), len(value))
	appendKey(op.Key[:0], tree, key)
	b.latches |= b.s.latches.of(op.Key)
	copy(op.Value, value)
	b.sets = true
	b.bytes += len(key) + len(value)
	return op.Finish()
}

// Delete removes key; a key that is absent is no error. It is copied.
func (b *Batch) Delete(t *Tree, key []byte) error {
	if err := b.usable(t); err != nil {
		return err
	}
	if err := checkSize(len(key), 0); err != nil {
		return err
	}
	return b.remove(t.id, key)
}

func (b *Batch) remove(tree uint32, key []byte) error {
	if err := b.room(len(key)); err != nil {
		return err
	}
	op := b.b.DeleteDeferred(prefixBytes + len(key))
	appendKey(op.Key[:0], tree, key)
	b.latches |= b.s.latches.of(op.Key)
	b.bytes += len(key)
	return op.Finish()
}

// DeleteRange removes all keys with start <= key < end; a nil end is the tree's end. Their room on
// the disk comes back by itself, some seconds later, on a full disk as well.
func (b *Batch) DeleteRange(t *Tree, start, end []byte) error {
	if err := b.usable(t); err != nil {
		return err
	}
	if err := errors.Join(checkSize(len(start), 0), checkSize(len(end), 0)); err != nil {
		return err
	}
	lower, upper := bounds(t.id, start, end)
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	if err := b.room(len(lower) + len(upper)); err != nil {
		return err
	}
	b.latches = allLatches
	b.bytes += len(start) + len(end)
	return b.b.DeleteRange(lower, upper, nil)
}

// DropTree removes the tree with all its keys, those that this batch has set included.
// Once the batch is committed the tree can't be used any more. Nobody else may write to
// it meanwhile: keys that are committed after the drop would stay unseen, on the disk.
func (b *Batch) DropTree(t *Tree) error {
	if err := b.usable(t); err != nil {
		return err
	}
	if t == b.s.defaultTree {
		return errDropDefault
	}
	if err := b.room(len(t.name) + len(keyTree) + opBytes); err != nil { // for both
		return err
	}
	if err := b.DeleteRange(t, nil, nil); err != nil {
		return err
	}
	if err := b.remove(registry, []byte(keyTree+t.name)); err != nil {
		return err
	}
	b.drops = append(b.drops, t)
	return nil
}

// Size returns the bytes of the batch, of all its keys and values and a few for each write:
// what it holds in memory, and MaxBatchBytes limits.
func (b *Batch) Size() int {
	if b.b == nil {
		return 0
	}
	return b.b.Len()
}

// Len returns the number of writes in the batch; a dropped tree counts as two.
func (b *Batch) Len() int {
	if b.b == nil {
		return 0
	}
	return int(b.b.Count())
}

// Empty reports whether there is nothing to commit.
func (b *Batch) Empty() bool { return b.Len() == 0 }

// Commit does all the writes of the batch, atomically. With sync it returns when they, and all that
// was committed before them, are on the disk; so it does for an empty batch. Without, they are
// visible at once, and reach the disk in the order of their commits (see Options.FlushInterval).
// The batch can be used again after Reset.
//
// After nexusraft.ErrDiskFull, and other errors that say so, nothing was written, and the batch can
// be committed later. After any other error the store is dead (nexusraft.ErrClosed), and the
// outcome unknown until it is opened again.
func (b *Batch) Commit(sync bool) error {
	if err := b.commit(sync); err != nil {
		return err
	}
	return b.awaitSync()
}

// CommitAsync is Commit with sync for a caller with something else to do meanwhile: when it
// returns, the writes are visible, and wait returns when they are on the disk, or the
// error. Call wait before you use the batch again; to Close it without is allowed, and waits.
func (b *Batch) CommitAsync() (wait func() error) {
	err := b.commit(true)
	return func() error {
		if err == nil {
			err = b.awaitSync()
		}
		return err
	}
}

// commit is Commit up to the moment when the writes are visible.
func (b *Batch) commit(sync bool) error {
	if err := b.usable(nil); err != nil {
		return err
	}
	if err := b.s.enter(); err != nil {
		return err
	}
	defer b.s.calls.exit()
	if len(b.drops) == 0 {
		return b.apply(sync)
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	for _, t := range b.drops {
		if err := t.gone(); err != nil {
			return fmt.Errorf("commit batch, nothing was written: %w", err)
		}
	}
	if err := b.apply(sync); err != nil {
		return err
	}
	for _, t := range b.drops {
		b.s.trees.remove(t.name)
	}
	return nil
}

// apply makes the batch visible, and asks for its sync if it is to be synced.
func (b *Batch) apply(sync bool) error {
	b.s.latches.lock(b.latches)
	defer b.s.latches.unlock(b.latches)
	return b.write(sync)
}

// write makes the batch visible, also to watches. The caller holds its latches.
func (b *Batch) write(sync bool) error {
	if b.s.options.ReadOnly {
		return b.s.readOnly(b)
	}
	w := &b.s.watches
	if !w.used.Load() {
		return b.show(sync)
	}
	w.order.Lock()
	defer w.order.Unlock()
	news, err := b.news() // before Pebble takes a large batch's contents
	if err != nil {
		return err
	}
	if err := b.show(sync); err != nil {
		return err
	}
	w.deliver(news)
	for _, t := range b.drops {
		w.drop(t)
	}
	return nil
}

// news is what the batch has for each watch.
func (b *Batch) news() (all []*news, err error) {
	defer b.s.guard(&err)
	return b.s.watches.collect(b.b, b.s.db), nil
}

// show hands the batch to Pebble.
func (b *Batch) show(sync bool) (err error) {
	defer b.s.guard(&err)
	if err := b.refused(); err != nil {
		return err
	}
	if b.sets && !b.reserved {
		defer b.s.reserve.done(b.b.Len())
	}
	b.committed = true
	b.s.ends.include(b.b)
	if sync {
		err = b.writeSynced()
	} else {
		err = b.b.Commit(pebble.NoSync)
		b.s.syncLater()
	}
	if err != nil {
		return fmt.Errorf("commit batch: %w", err)
	}
	for _, t := range b.drops {
		t.dropped.Store(true)
		b.s.ends.forget(t.id)
	}
	b.s.counts.wrote(b.Len(), b.bytes)
	return b.s.dead()
}

func (b *Batch) writeSynced() error {
	if b.Empty() {
		// Pebble skips an empty batch, and its sync too.
		if err := b.b.LogData(nil, nil); err != nil {
			return err
		}
	}
	b.s.unsynced.Store(false) // the writes that set it came before this batch
	if err := b.s.db.ApplyNoSyncWait(b.b, pebble.Sync); err != nil {
		return err
	}
	b.syncing = true
	return nil
}

// awaitSync returns when the batch is on the disk, if it was to be synced. That there is
// no cause of death afterwards shows that Pebble's writes were real (see failstop).
func (b *Batch) awaitSync() (err error) {
	defer b.s.guard(&err)
	if b.syncing {
		b.syncing = false
		err = b.b.SyncWait()
	}
	if err != nil {
		return fmt.Errorf("sync batch: %w", err)
	}
	return b.s.dead()
}

// Reset empties the batch.
func (b *Batch) Reset() {
	if b.b == nil {
		return
	}
	_ = b.awaitSync() // told by CommitAsync's wait, or by the next commit
	b.b.Reset()
	b.drops, b.latches, b.bytes, b.committed, b.sets = nil, 0, 0, false, false
}

// Close gives the batch's memory back. What is not committed is forgotten.
func (b *Batch) Close() {
	if b.b == nil {
		return
	}
	_ = b.awaitSync() // told by CommitAsync's wait, or by the next commit
	if !b.s.poisoned.Load() {
		_ = b.b.Close() // it only lets go, for others to use it
	}
	b.b = nil
}

// usable returns why the batch can't be written, or written to t, at the moment.
func (b *Batch) usable(t *Tree) error {
	switch {
	case b.b == nil:
		return errors.New("use batch: it is closed")
	case b.committed:
		return errors.New("use batch: it is committed, reset it first")
	case t == nil:
		return b.s.alive()
	case t.s != b.s:
		return fmt.Errorf("use batch: tree %q is of store %s, the batch of %s", t.name, t.s.dir, b.s.dir)
	case slices.Contains(b.drops, t):
		return fmt.Errorf("use batch: it drops tree %q", t.name)
	}
	if err := t.gone(); err != nil {
		return err
	}
	return b.s.alive()
}

// room makes sure that Pebble's batch, which panics when it is full, never is.
func (b *Batch) room(n int) error {
	if int64(b.b.Len())+int64(n)+opBytes > MaxBatchBytes {
		return fmt.Errorf("%w: batch of more than %d bytes", nexusraft.ErrTooLarge, int64(MaxBatchBytes))
	}
	return nil
}

// checkSize returns nexusraft.ErrTooLarge if the length of a key or value passes its limit.
func checkSize(key, value int) error {
	if key > MaxKeyBytes {
		return fmt.Errorf("%w: key of %d bytes, limit %d", nexusraft.ErrTooLarge, key, MaxKeyBytes)
	}
	if value > MaxValueBytes {
		return fmt.Errorf("%w: value of %d bytes, limit %d", nexusraft.ErrTooLarge, value, MaxValueBytes)
	}
	return nil
}
