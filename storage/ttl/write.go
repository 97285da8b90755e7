package ttl

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nexi-lab/nexus-raft/storage"
)

// Set stores value at key for the time to live, which must be positive, replacing what is
// there. A nil value is an empty one. It returns nexusraft.ErrTooLarge if a limit is passed.
func (t *Tree) Set(key, value []byte, ttl time.Duration, d ...storage.Durability) error {
	if err := t.usable(); err != nil {
		return err
	}
	b := t.s.NewBatch()
	defer b.Close()
	deadline, err := t.stage(batched{b, t.pairs}, batched{b, t.deadlines}, key, value, ttl, record{})
	if err != nil {
		return t.failed(err)
	}
	defer t.sweepFrom(deadline)
	return b.Commit(t.s.Syncs(d...))
}

// Delete removes key; a key that is absent is no error.
func (t *Tree) Delete(key []byte, d ...storage.Durability) error {
	if err := t.usable(); err != nil {
		return err
	}
	return t.pairs.Delete(key, d...)
}

// Touch gives what is at key a new time to live, which begins now and must be positive. It
// reports whether there is something whose time was not over.
func (t *Tree) Touch(key []byte, ttl time.Duration, d ...storage.Durability) (bool, error) {
	touched := false
	err := t.change(key, ttl, d, func(old []byte) ([]byte, bool, error) {
		touched = old != nil
		return old, touched, nil
	})
	return touched && err == nil, err
}

// CompareAndSwap sets key to value for the time to live, which must be positive, if what is
// there is expected; nil is no value, be it that its time is over, so that it creates and removes
// keys, too. It reports whether it did. If not, found is what was there instead, and nothing
// was written.
func (t *Tree) CompareAndSwap(
	key, expected, value []byte, ttl time.Duration, d ...storage.Durability,
) (found []byte, swapped bool, err error) {
	err = t.change(key, ttl, d, func(old []byte) ([]byte, bool, error) {
		found = old
		swapped = (old == nil) == (expected == nil) && bytes.Equal(old, expected)
		return value, swapped, nil
	})
	return found, swapped && err == nil, err
}

// Update sets key to what update makes of the value there, for the time to live, which must
// be positive; nil is no value. It returns both. An error of update is returned as it is,
// and nothing is written.
//
// While others write the key, update may be called more than once, so it should be a
// function of its argument alone. It owns that, and keeps what it returns unchanged until
// Update is done. It may use the store.
func (t *Tree) Update(
	key []byte, ttl time.Duration, update func(old []byte) ([]byte, error), d ...storage.Durability,
) (before, after []byte, err error) {
	err = t.change(key, ttl, d, func(old []byte) (_ []byte, _ bool, err error) {
		before = slices.Clone(old)
		after, err = update(old)
		return after, true, err
	})
	if err != nil {
		return nil, nil, err
	}
	return before, after, nil
}

// decision says what to set a key to, given what lives there; nil is none. Nothing is written
// unless write is set.
type decision func(old []byte) (value []byte, write bool, err error)

// change sets key to what decide says, and asks it again as long as others write the key.
func (t *Tree) change(key []byte, ttl time.Duration, d []storage.Durability, decide decision) error {
	if ttl <= 0 {
		return t.failed(errTTL(ttl))
	}
	for {
		conflict, err := t.attempt(key, ttl, d, decide)
		if !conflict {
			return err
		}
	}
}

// attempt is change, unless others have written the key before its commit.
func (t *Tree) attempt(
	key []byte, ttl time.Duration, d []storage.Durability, decide decision,
) (conflict bool, err error) {
	tx := t.s.Begin()
	defer tx.Close()
	pairs := tx.Tree(t.pairs)
	old, _, err := t.get(pairs, key)
	if err != nil {
		return false, err
	}
	value, write, err := decide(old.value)
	if err != nil || !write {
		return false, err
	}
	deadline := int64(math.MaxInt64)
	if value == nil {
		err = pairs.Delete(key)
	} else {
		deadline, err = t.stage(pairs, tx.Tree(t.deadlines), key, value, ttl, old)
	}
	if err != nil {
		return false, t.failed(err)
	}
	defer t.sweepFrom(deadline)
	err = tx.Commit(d...)
	return errors.Is(err, storage.ErrConflict), err
}

// setter is a tree as a batch or a transaction sees it.
type setter interface{ Set(key, value []byte) error }

// batched is a tree in a batch.
type batched struct {
	b *storage.Batch
	t *storage.Tree
}

func (s batched) Set(key, value []byte) error { return s.b.Set(s.t, key, value) }

// stage puts a pair, and its entry unless the one of old does, to what is committed together. It
// returns the deadline of a new entry, for sweepFrom. Old is what lives there, if that is known.
//
// The entry of a pair that gets a later deadline stays: the sweep that finds it there gives the
// pair another one. So a pair that is renewed all the time has one entry.
func (t *Tree) stage(pairs, entries setter, key, value []byte, ttl time.Duration, old record) (int64, error) {
	deadline, err := t.deadline(ttl)
	if err != nil {
		return 0, err
	}
	if old.value != nil && old.deadline <= deadline {
		return math.MaxInt64, pairs.Set(key, append(stampOf(deadline, old.life, len(value)), value...))
	}
	stored := append(newStamp(deadline, len(value)), value...)
	return deadline, errors.Join(pairs.Set(key, stored), entries.Set(stored[:stampBytes], key))
}

// failed says where a write failed, and what it is of.
func (t *Tree) failed(err error) error { return fmt.Errorf("write expiring tree %q: %w", t.name, err) }
