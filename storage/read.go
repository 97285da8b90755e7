package storage

import (
	"iter"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// keyBuffers hold the stored form of keys that are looked up.
var keyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// Get returns a copy of the value at key, and whether there is one. An empty value is
// not nil, no value is.
func (v view) Get(key []byte) (value []byte, ok bool, err error) {
	if err := v.enter(); err != nil {
		return nil, false, err
	}
	defer v.s.calls.exit()
	stored := v.lookUp(key)
	value, ok, err = v.s.copyOf(v.src, *stored)
	keyBuffers.Put(stored)
	return value, ok, v.failed(err)
}

// Contains reports whether there is a value at key.
func (v view) Contains(key []byte) (bool, error) {
	return v.View(key, func([]byte) error { return nil })
}

// View calls use with the value at key, if there is one, and reports whether there is. The
// value is not copied: it is borrowed until use returns, and must not be changed. use may
// call the store, whose Close waits for it. Its error is returned as it is.
func (v view) View(key []byte, use func(value []byte) error) (ok bool, err error) {
	if err := v.enter(); err != nil {
		return false, err
	}
	defer v.s.calls.exit()
	stored := v.lookUp(key)
	defer keyBuffers.Put(stored)
	value, closer, err := v.s.borrow(v.src, *stored)
	if closer == nil {
		return false, v.failed(err)
	}
	defer func() {
		if closeErr := v.s.giveBack(closer); err == nil {
			err = v.failed(closeErr)
		}
	}()
	return true, use(value)
}

// GetTo appends the value at key to dst, which may be nil, and returns the extended slice and
// whether there is a value; if there is none, it returns dst as it is. It allocates nothing if the
// value fits into dst. Beside Get it is faster for keys that are absent, and slower, by some
// microseconds, for those that were written a moment ago.
func (v view) GetTo(dst, key []byte) ([]byte, bool, error) {
	if err := v.enter(); err != nil {
		return dst, false, err
	}
	defer v.s.calls.exit()
	stored := v.lookUp(key)
	defer keyBuffers.Put(stored)
	// It asks all tables that may have the key; Pebble's Get stops at the first one that has it, and
	// allocates 16 bytes for each that it looks into.
	value, ok, err := v.s.seek(v.src, *stored, dst)
	return value, ok, v.failed(err)
}

// lookUp counts a lookup and returns the key's stored form, to be put back.
func (v view) lookUp(key []byte) *[]byte {
	v.s.counts.pointReads.add()
	b := keyBuffers.Get().(*[]byte)
	*b = appendKey((*b)[:0], v.id, key)
	return b
}

// Empty reports whether the tree has no keys.
func (v view) Empty() (bool, error) {
	for _, err := range v.Scan(nil, nil) {
		return false, err
	}
	return true, nil
}

// Len returns the number of keys. It counts them: it reads the whole tree.
func (v view) Len() (int, error) {
	n := 0
	for _, err := range v.Scan(nil, nil) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// First returns a copy of the pair with the lowest key, and whether there is one.
func (v view) First() (nexusraft.Pair, bool, error) { return head(v.Scan(nil, nil)) }

// Last returns a copy of the pair with the highest key, and whether there is one.
func (v view) Last() (nexusraft.Pair, bool, error) { return head(v.ScanReverse(nil, nil)) }

// Less returns a copy of the pair with the highest key below key, and whether there is one.
func (v view) Less(key []byte) (nexusraft.Pair, bool, error) {
	return head(v.ScanReverse(nil, append([]byte{}, key...))) // not nil, even if empty
}

// Greater returns a copy of the pair with the lowest key above key, and whether there is
// one.
func (v view) Greater(key []byte) (nexusraft.Pair, bool, error) {
	return head(v.Scan(after(key), nil))
}

// Scan yields the pairs with start <= key < end in ascending order; a nil end is the
// tree's end. Pairs are borrowed until the next step. An error is yielded once and last.
// The tree may be written meanwhile; the loop doesn't see it, nor does it hold up writers.
func (v view) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return v.scan(start, end, false)
}

// ScanReverse is Scan in descending order.
func (v view) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return v.scan(start, end, true)
}

// Prefix is Scan over the keys that begin with prefix.
func (v view) Prefix(prefix []byte) iter.Seq2[nexusraft.Pair, error] {
	return v.scan(prefix, prefixEnd(prefix), false)
}

// PrefixReverse is Prefix in descending order.
func (v view) PrefixReverse(prefix []byte) iter.Seq2[nexusraft.Pair, error] {
	return v.scan(prefix, prefixEnd(prefix), true)
}

// scan yields the pairs of a range, in descending order if reverse is set.
func (v view) scan(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error] {
	start, end = slices.Clone(start), slices.Clone(end)
	return func(yield func(nexusraft.Pair, error) bool) {
		if err := v.walk(start, end, reverse, yield); err != nil {
			yield(nexusraft.Pair{}, err)
		}
	}
}

// head returns a copy of what a scan yields first.
func head(pairs iter.Seq2[nexusraft.Pair, error]) (nexusraft.Pair, bool, error) {
	for p, err := range pairs {
		if err != nil {
			return nexusraft.Pair{}, false, err
		}
		return nexusraft.Pair{Key: slices.Clone(p.Key), Value: append([]byte{}, p.Value...)}, true, nil
	}
	return nexusraft.Pair{}, false, nil
}

// after returns the lowest key above key.
func after(key []byte) []byte { return append(slices.Clone(key), 0) }

// prefixEnd returns the lowest key above all that begin with prefix, nil if there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := slices.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}
