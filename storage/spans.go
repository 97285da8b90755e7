package storage

import (
	"bytes"

	"github.com/tidwall/btree"
)

// span is the keys from start up to, and without, end; a nil end means no upper bound. Its
// slices never change.
type span struct {
	start, end []byte
}

func newSpan(start, end []byte) span {
	return span{append([]byte{}, start...), bytes.Clone(end)} // a start is never nil
}

func (s span) has(key []byte) bool {
	return bytes.Compare(key, s.start) >= 0 && (s.end == nil || bytes.Compare(key, s.end) < 0)
}

func (s span) empty() bool { return s.end != nil && bytes.Compare(s.start, s.end) >= 0 }

func (s span) size() int { return len(s.start) + len(s.end) }

// spans is a set of keys as spans: none is empty, none touches another one.
type spans struct {
	byStart *btree.BTreeG[span]
}

func newSpans() spans {
	less := func(a, b span) bool { return bytes.Compare(a.start, b.start) < 0 }
	return spans{btree.NewBTreeGOptions(less, btree.Options{NoLocks: true, Degree: 8})}
}

func (x spans) len() int { return x.byStart.Len() }

// each calls fn for the spans in order of keys, until it returns false.
func (x spans) each(fn func(span) bool) { x.byStart.Scan(fn) }

// from calls fn for the spans that have keys from key on, or end there, in order of keys,
// until it returns false.
func (x spans) from(key []byte, fn func(span) bool) {
	first := span{start: key}
	x.byStart.Descend(first, func(s span) bool {
		if s.end == nil || bytes.Compare(s.end, key) >= 0 {
			first = s
		}
		return false
	})
	x.byStart.Ascend(first, fn)
}

// cover reports whether a key is in the set.
func (x spans) cover(key []byte) (found bool) {
	if x.len() == 0 {
		return false
	}
	x.byStart.Descend(span{start: key}, func(s span) bool {
		found = s.has(key)
		return false
	})
	return found
}

// overlaps reports whether a span has a key of the set.
func (x spans) overlaps(s span) (found bool) {
	x.from(s.start, func(d span) bool {
		within := beyond(s.end, d.start)
		found = within && beyond(d.end, s.start)
		return within && !found
	})
	return found
}

// add adds a span that is not empty, and returns by how much the size of the set has grown.
func (x spans) add(s span) (grown int) {
	var joined []span
	x.from(s.start, func(old span) bool {
		if s.end != nil && bytes.Compare(old.start, s.end) > 0 {
			return false
		}
		joined = append(joined, old)
		return true
	})
	for _, old := range joined {
		x.byStart.Delete(old)
		grown -= old.size()
		if bytes.Compare(old.start, s.start) < 0 {
			s.start = old.start
		}
		if beyond(old.end, s.end) {
			s.end = old.end
		}
	}
	x.byStart.Set(s)
	return grown + s.size()
}

// gaps returns the parts of a span that are not in the set, in order of keys.
func (x spans) gaps(rest span) (out []span) {
	left := !rest.empty()
	x.from(rest.start, func(d span) bool {
		if !left || !beyond(rest.end, d.start) {
			return false
		}
		if gap := (span{rest.start, d.start}); !gap.empty() {
			out = append(out, gap)
		}
		left = beyond(rest.end, d.end)
		rest.start = d.end
		return left
	})
	if left {
		out = append(out, rest)
	}
	return out
}

// beyond reports whether a span that ends at a has keys after all of one that ends at b.
func beyond(a, b []byte) bool {
	return b != nil && (a == nil || bytes.Compare(a, b) > 0)
}
