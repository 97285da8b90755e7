package storage

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Set stores value at key, replacing what is there. A nil value is an empty one.
func (t *Tree) Set(key, value []byte, d ...Durability) error {
	b := t.s.newSingle()
	defer b.free()
	if err := b.Set(t, key, value); err != nil {
		return err
	}
	return b.commitTo(t, t.s.syncs(d))
}

// Delete removes key; a key that is absent is no error.
func (t *Tree) Delete(key []byte, d ...Durability) error {
	b := t.s.newSingle()
	defer b.free()
	if err := b.Delete(t, key); err != nil {
		return err
	}
	return b.commitTo(t, t.s.syncs(d))
}

// Clear removes all keys.
func (t *Tree) Clear(d ...Durability) error {
	return t.s.atomically(allLatches, d, func(b *Batch) error { return b.DeleteRange(t, nil, nil) })
}

// Swap sets key to value and returns what was there: in all methods that do so, nil is no
// value, and an empty value is not nil. A nil value removes the key.
func (t *Tree) Swap(key, value []byte, d ...Durability) (old []byte, err error) {
	err = t.atKey(key, d, func(b *Batch) (err error) {
		if old, _, err = t.Get(key); err != nil {
			return err
		}
		return b.put(t, key, value)
	})
	return old, err
}

// CompareAndSwap sets key to value if what is there is expected; nil is no value, so that
// it creates and removes keys, too. It reports whether it did. If not, found is what was
// there instead, and nothing was written.
func (t *Tree) CompareAndSwap(key, expected, value []byte, d ...Durability) (found []byte, swapped bool, err error) {
	err = t.atKey(key, d, func(b *Batch) (err error) {
		found, _, err = t.Get(key)
		if err != nil || !sameValue(found, expected) {
			return err
		}
		swapped = true
		return b.put(t, key, value)
	})
	return found, swapped && err == nil, err
}

// MismatchError says that another value was at a key than the caller expected. Nothing was written.
type MismatchError struct {
	Key   []byte
	Found []byte // what is there; nil is no value
}

// Error names the key, and keeps the value to itself.
func (e *MismatchError) Error() string {
	if e.Found == nil {
		return fmt.Sprintf("storage: there is no value at key %q, nothing was written", e.Key)
	}
	return fmt.Sprintf("storage: there is another value at key %q, nothing was written", e.Key)
}

// Create sets key to value, of which nil is an empty one, if there is none. If there is one, it
// returns a MismatchError with it.
func (t *Tree) Create(key, value []byte, d ...Durability) error {
	return t.Replace(key, nil, append([]byte{}, value...), d...)
}

// Replace is CompareAndSwap that returns a MismatchError, with what was found, if it does not swap.
func (t *Tree) Replace(key, expected, value []byte, d ...Durability) error {
	found, swapped, err := t.CompareAndSwap(key, expected, value, d...)
	if err == nil && !swapped {
		err = &MismatchError{Key: bytes.Clone(key), Found: found}
	}
	return err
}

// Update sets key to what update makes of the value there; nil is no value. It returns
// both. An error of update is returned as it is, and nothing is written.
//
// While others write the key, update may be called more than once, so it should be a
// function of its argument alone. It owns that, and keeps what it returns unchanged until
// Update is done. It may use the store.
func (t *Tree) Update(
	key []byte, update func(old []byte) ([]byte, error), d ...Durability,
) (before, after []byte, err error) {
	before, _, err = t.Get(key)
	for err == nil {
		if after, err = update(slices.Clone(before)); err != nil {
			break
		}
		found, swapped, casErr := t.CompareAndSwap(key, before, after, d...)
		if swapped {
			return before, after, nil
		}
		before, err = found, casErr
	}
	return nil, nil, err
}

// Merge puts operand to the value at key, in the way of Options.Merge, and returns the
// new value. Of concurrent merges none is lost.
func (t *Tree) Merge(key, operand []byte, d ...Durability) ([]byte, error) {
	merge := t.s.options.Merge
	if merge == nil {
		return nil, errors.New("merge: the store was opened without Options.Merge")
	}
	_, merged, err := t.Update(key, func(old []byte) ([]byte, error) {
		return merge(t.name, key, old, operand)
	}, d...)
	return merged, err
}

// PopFirst removes the pair with the lowest key and returns it, and whether there was one.
// Of concurrent pops, each gets another pair.
func (t *Tree) PopFirst(d ...Durability) (nexusraft.Pair, bool, error) {
	return t.pop(t.Scan, nil, nil, t.s.ends.begin, d)
}

// PopLast is PopFirst for the highest key.
func (t *Tree) PopLast(d ...Durability) (nexusraft.Pair, bool, error) {
	return t.pop(t.ScanReverse, nil, nil, t.s.ends.end, d)
}

// PopFirstIn is PopFirst among the keys with start <= key < end; a nil end is the tree's end. What
// was popped from a range is skipped, key by key, until a compaction has taken it away: give a
// queue a tree of its own, and PopFirst.
func (t *Tree) PopFirstIn(start, end []byte, d ...Durability) (nexusraft.Pair, bool, error) {
	return t.pop(t.Scan, start, end, nil, d)
}

// PopLastIn is PopFirstIn for the highest key.
func (t *Tree) PopLastIn(start, end []byte, d ...Durability) (nexusraft.Pair, bool, error) {
	return t.pop(t.ScanReverse, start, end, nil, d)
}

// pop removes what scan yields first of a range. If that is the whole tree, note is told the key:
// there is nothing before it.
func (t *Tree) pop(
	scan func(start, end []byte) iter.Seq2[nexusraft.Pair, error], start, end []byte, note func(uint32, []byte),
	d []Durability,
) (p nexusraft.Pair, ok bool, err error) {
	err = t.s.atomically(allLatches, d, func(b *Batch) (err error) {
		if p, ok, err = head(scan(t.s.ends.narrow(t.id, start, end))); err != nil || !ok {
			return err
		}
		if note != nil {
			note(t.id, bytes.Clone(p.Key)) // true whatever becomes of the batch
		}
		return b.Delete(t, p.Key)
	})
	if err != nil {
		return nexusraft.Pair{}, false, err
	}
	return p, ok, nil
}

// atKey is atomically for one key.
func (t *Tree) atKey(key []byte, d []Durability, stage func(*Batch) error) error {
	stored := keyBuffers.Get().(*[]byte)
	*stored = appendKey((*stored)[:0], t.id, key)
	set := t.s.latches.of(*stored)
	keyBuffers.Put(stored)
	return t.s.atomically(set, d, stage)
}

// atomically commits what stage puts into a batch. The latches of set, which must cover
// what stage reads and writes, are held from before stage until the batch is visible. If
// it stays empty, nothing is written or synced.
func (s *Store) atomically(set latchSet, d []Durability, stage func(*Batch) error) error {
	b, err := s.publish(set, s.syncs(d), stage)
	if err != nil {
		return err
	}
	return b.finish()
}

// publish is atomically up to the moment when the batch is visible: finish must follow.
func (s *Store) publish(set latchSet, sync bool, stage func(*Batch) error) (*Batch, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.calls.exit()
	b := s.NewBatch()
	if err := b.stageAndWrite(set, sync, stage); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// finish closes the batch when it is on the disk, if it was to be synced.
func (b *Batch) finish() error {
	defer b.Close()
	return b.awaitSync()
}

func (b *Batch) stageAndWrite(set latchSet, sync bool, stage func(*Batch) error) error {
	b.s.latches.lock(set)
	defer b.s.latches.unlock(set)
	if err := stage(b); err != nil || b.Empty() {
		return err
	}
	return b.write(sync)
}

// singles are batches of one write, the most frequent ones.
var singles = sync.Pool{New: func() any { return new(Batch) }}

// newSingle returns a batch for one write; free must follow.
func (s *Store) newSingle() *Batch {
	b := singles.Get().(*Batch)
	*b = Batch{s: s, b: s.db.NewBatch()}
	return b
}

func (b *Batch) free() {
	b.Close()
	*b = Batch{} // it keeps no store alive
	singles.Put(b)
}

// commitTo is Commit of a batch that writes to one tree, but not if that is dropped meanwhile.
func (b *Batch) commitTo(t *Tree, sync bool) error {
	if err := b.s.enter(); err != nil {
		return err
	}
	err := b.applyTo(t, sync)
	b.s.calls.exit()
	if err != nil {
		return err
	}
	return b.awaitSync()
}

func (b *Batch) applyTo(t *Tree, sync bool) error {
	b.s.latches.lock(b.latches)
	defer b.s.latches.unlock(b.latches)
	if err := t.gone(); err != nil {
		return err
	}
	return b.write(sync)
}

// put is Set, or Delete if there is no value.
func (b *Batch) put(t *Tree, key, value []byte) error {
	if value == nil {
		return b.Delete(t, key)
	}
	return b.Set(t, key, value)
}

// sameValue compares values of which nil is none.
func sameValue(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
