package ttl

import (
	"iter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Get returns a copy of the value at key, and whether there is one whose time is not over. An
// empty value is not nil, no value is.
func (t *Tree) Get(key []byte) ([]byte, bool, error) {
	r, ok, err := t.get(t.pairs, key)
	return r.value, ok, err
}

// Deadline returns when the value at key will be gone, and whether there is one.
func (t *Tree) Deadline(key []byte) (time.Time, bool, error) {
	r, ok, err := t.get(t.pairs, key)
	if err != nil || !ok {
		return time.Time{}, false, err
	}
	return time.Unix(0, r.deadline), true, nil
}

// get reads what lives at key.
func (t *Tree) get(from nexusraft.Reader, key []byte) (record, bool, error) {
	if err := t.usable(); err != nil {
		return record{}, false, err
	}
	stored, ok, err := from.Get(key)
	if err != nil || !ok {
		return record{}, false, err
	}
	return t.living(key, stored)
}

// living decodes a record, and reports whether its time is not over.
func (t *Tree) living(key, stored []byte) (record, bool, error) {
	r, err := t.decode(key, stored)
	if err != nil || r.deadline <= t.now() {
		return record{}, false, err
	}
	return r, true, nil
}

// Scan yields the pairs with start <= key < end in ascending order whose time is not over when
// they are yielded; a nil end is the tree's end. Pairs are borrowed until the next step. An
// error is yielded once and last. The tree may be written meanwhile; the loop doesn't see
// it, nor does it hold up writers.
func (t *Tree) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.only(t.pairs.Scan(start, end))
}

// Prefix is Scan over the keys that begin with prefix.
func (t *Tree) Prefix(prefix []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.only(t.pairs.Prefix(prefix))
}

// only yields those of the stored pairs that live.
func (t *Tree) only(stored iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		if err := t.usable(); err != nil {
			yield(nexusraft.Pair{}, err)
			return
		}
		for p, err := range stored {
			var r record
			ok := false
			if err == nil {
				r, ok, err = t.living(p.Key, p.Value)
			}
			if err != nil {
				yield(nexusraft.Pair{}, err)
				return
			}
			if ok && !yield(nexusraft.Pair{Key: p.Key, Value: r.value}, nil) {
				return
			}
		}
	}
}

// Len returns the number of pairs whose time is not over. It counts them: it reads the whole
// tree.
func (t *Tree) Len() (int, error) {
	n := 0
	for _, err := range t.Scan(nil, nil) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}
