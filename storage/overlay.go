package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash"
	"iter"
	"slices"

	"github.com/tidwall/btree"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Overlay is a set of uncommitted writes over a Reader; reads see the writes. It implements
// nexusraft.ReadWriter. Overlays stack: the base may be one. What it deletes of its base takes
// memory for ranges, not for keys.
//
// An overlay is for one goroutine. Its slices are borrowed, and valid for as long as those of its
// base. It may be written while it is iterated; the loop doesn't see that.
type Overlay struct {
	base    nexusraft.Reader
	writes  *btree.BTreeG[write]
	deleted spans // of the base; a write counts more
	bytes   int
}

var _ nexusraft.ReadWriter = (*Overlay)(nil)

// write is a set key or, with deleted, a removed one. Its slices never change.
type write struct {
	key, value []byte
	deleted    bool
}

func (w write) size() int { return len(w.key) + len(w.value) }

func (w write) pair() nexusraft.Pair { return nexusraft.Pair{Key: w.key, Value: w.value} }

// NewOverlay returns an empty overlay over base.
func NewOverlay(base nexusraft.Reader) *Overlay {
	less := func(a, b write) bool { return bytes.Compare(a.key, b.key) < 0 }
	return &Overlay{base: base, writes: btree.NewBTreeGOptions(less, btree.Options{NoLocks: true}), deleted: newSpans()}
}

// Get implements nexusraft.Reader.
func (o *Overlay) Get(key []byte) ([]byte, bool, error) {
	if w, ok := o.writes.Get(write{key: key}); ok {
		return w.value, !w.deleted, nil
	}
	if o.deleted.cover(key) {
		return nil, false, nil
	}
	return o.base.Get(key)
}

// Set implements nexusraft.ReadWriter. It returns nexusraft.ErrTooLarge for a key or value that
// a batch would refuse.
func (o *Overlay) Set(key, value []byte) error {
	if err := checkSize(len(key), len(value)); err != nil {
		return err
	}
	o.put(write{key: slices.Clone(key), value: append([]byte{}, value...)})
	return nil
}

// Delete implements nexusraft.ReadWriter.
func (o *Overlay) Delete(key []byte) error {
	if err := checkSize(len(key), 0); err != nil {
		return err
	}
	o.put(write{key: slices.Clone(key), deleted: true})
	return nil
}

// DeleteRange removes all keys with start <= key < end; a nil end means no upper bound. It
// takes the same memory whatever the base has there.
func (o *Overlay) DeleteRange(start, end []byte) error {
	if err := errors.Join(checkSize(len(start), 0), checkSize(len(end), 0)); err != nil {
		return err
	}
	s := newSpan(start, end)
	if s.empty() {
		return nil
	}
	o.forget(s)
	o.bytes += o.deleted.add(s)
	return nil
}

// forget drops the writes of a range.
func (o *Overlay) forget(s span) {
	var old []write
	o.writes.Ascend(write{key: s.start}, func(w write) bool {
		if !s.has(w.key) {
			return false
		}
		old = append(old, w)
		return true
	})
	for _, w := range old {
		o.writes.Delete(w)
		o.bytes -= w.size()
	}
}

func (o *Overlay) put(w write) {
	if old, ok := o.writes.Set(w); ok {
		o.bytes -= old.size()
	}
	o.bytes += w.size()
}

// Scan implements nexusraft.Reader.
func (o *Overlay) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return o.merge(start, end, false)
}

// ScanReverse implements nexusraft.Reader.
func (o *Overlay) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return o.merge(start, end, true)
}

// Len returns the number of writes it holds: of keys that it sets or deletes, and of ranges.
func (o *Overlay) Len() int { return o.writes.Len() + o.deleted.len() }

// Bytes returns the size of the writes it holds: of their keys and values, and of the ends of
// ranges.
func (o *Overlay) Bytes() int { return o.bytes }

// MergeInto does all writes of o to dst. The two share memory, which never changes.
func (o *Overlay) MergeInto(dst *Overlay) {
	o.deleted.each(func(s span) bool {
		dst.forget(s)
		dst.bytes += dst.deleted.add(s)
		return true
	})
	o.writes.Scan(func(w write) bool {
		dst.put(w)
		return true
	})
}

// WriteTo stages all writes in b, for tree t: ranges first, then keys, each in key order.
func (o *Overlay) WriteTo(b *Batch, t *Tree) (err error) {
	o.deleted.each(func(s span) bool {
		err = b.DeleteRange(t, s.start, s.end)
		return err == nil
	})
	if err != nil {
		return err
	}
	o.writes.Scan(func(w write) bool {
		if w.deleted {
			err = b.Delete(t, w.key)
		} else {
			err = b.Set(t, w.key, w.value)
		}
		return err == nil
	})
	return err
}

// HashTo writes all writes to h: ranges first, then keys, each in key order, in a form of which two
// overlays have the same if they have the same writes. Digests of it are stored, so it never changes.
func (o *Overlay) HashTo(h hash.Hash) {
	var head [1 + 2*8]byte
	add := func(kind byte, first, second []byte) {
		head[0] = kind
		binary.BigEndian.PutUint64(head[1:], uint64(len(first)))
		binary.BigEndian.PutUint64(head[9:], uint64(len(second)))
		h.Write(head[:])
		h.Write(first)
		h.Write(second)
	}
	o.deleted.each(func(s span) bool {
		if s.end == nil {
			add('a', s.start, nil)
		} else {
			add('r', s.start, s.end)
		}
		return true
	})
	o.writes.Scan(func(w write) bool {
		if w.deleted {
			add('d', w.key, nil)
		} else {
			add('s', w.key, w.value)
		}
		return true
	})
}

// Reset forgets all writes.
func (o *Overlay) Reset() {
	o.writes.Clear()
	o.deleted = newSpans()
	o.bytes = 0
}

// merge yields base and writes as one sequence; where both have a key, the write counts.
func (o *Overlay) merge(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error] {
	start, end = slices.Clone(start), slices.Clone(end)
	return func(yield func(nexusraft.Pair, error) bool) {
		writes := newCursor(o.writes, start, end, reverse)
		for p, err := range o.kept(start, end, reverse) {
			if err != nil {
				yield(nexusraft.Pair{}, err)
				return
			}
			if !writes.yieldBefore(p.Key, yield) {
				return
			}
			if !writes.covers(p.Key) && !yield(p, nil) {
				return
			}
		}
		writes.yieldRest(yield)
	}
}

// kept yields the base's pairs that are in no deleted range. It seeks over those, so that they
// cost nothing.
func (o *Overlay) kept(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error] {
	base := o.base.Scan
	if reverse {
		base = o.base.ScanReverse
	}
	if o.deleted.len() == 0 {
		return base(start, end)
	}
	gaps := o.deleted.gaps(span{start, end})
	if reverse {
		slices.Reverse(gaps)
	}
	return func(yield func(nexusraft.Pair, error) bool) {
		for _, g := range gaps {
			for p, err := range base(g.start, g.end) {
				if !yield(p, err) || err != nil {
					return
				}
			}
		}
	}
}

// cursor walks over the writes of a range, as they were when it was made.
type cursor struct {
	it         btree.IterG[write]
	start, end []byte
	reverse    bool
	ok         bool // it is at a write of the range
}

func newCursor(writes *btree.BTreeG[write], start, end []byte, reverse bool) *cursor {
	c := &cursor{it: writes.Copy().Iter(), start: start, end: end, reverse: reverse}
	switch {
	case !reverse:
		c.settle(c.it.Seek(write{key: start}))
	case end != nil && c.it.Seek(write{key: end}):
		c.settle(c.it.Prev()) // Seek found the first one that is not below end
	default:
		c.settle(c.it.Last())
	}
	return c
}

// settle ends the walk where the writes, or the range, end.
func (c *cursor) settle(moved bool) {
	switch {
	case !moved:
		c.ok = false
	case c.reverse:
		c.ok = bytes.Compare(c.it.Item().key, c.start) >= 0
	default:
		c.ok = c.end == nil || bytes.Compare(c.it.Item().key, c.end) < 0
	}
}

func (c *cursor) next() {
	if c.reverse {
		c.settle(c.it.Prev())
	} else {
		c.settle(c.it.Next())
	}
}

// order compares the current write with a key, in the direction of the walk.
func (c *cursor) order(key []byte) int {
	n := bytes.Compare(c.it.Item().key, key)
	if c.reverse {
		return -n
	}
	return n
}

// yieldBefore yields the writes that come before key. It reports whether to go on.
func (c *cursor) yieldBefore(key []byte, yield func(nexusraft.Pair, error) bool) bool {
	for c.ok && c.order(key) < 0 {
		if !c.yieldOne(yield) {
			return false
		}
	}
	return true
}

// covers reports whether the current write is of that key: then it is yielded in its
// stead by the next yieldBefore or yieldRest.
func (c *cursor) covers(key []byte) bool { return c.ok && c.order(key) == 0 }

func (c *cursor) yieldRest(yield func(nexusraft.Pair, error) bool) {
	for c.ok && c.yieldOne(yield) {
	}
}

func (c *cursor) yieldOne(yield func(nexusraft.Pair, error) bool) bool {
	w := c.it.Item()
	c.next()
	return w.deleted || yield(w.pair(), nil)
}
