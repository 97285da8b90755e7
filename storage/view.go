package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// prefixBytes is the length of the tree ID in front of each key.
const prefixBytes = 4

// view reads one tree, of the store as it is or of a snapshot. What it offers is in
// read.go.
type view struct {
	s    *Store
	src  pebble.Reader
	id   uint32
	name string       // for errors
	gone func() error // why it can't be read any more, else nil
}

// appendKey appends the stored form of a tree's key.
func appendKey(b []byte, tree uint32, key []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, tree), key...)
}

// bounds returns the stored form of a range. A nil end is the tree's end, which is the
// beginning of the next tree: hence the largest ID is never given out.
func bounds(tree uint32, start, end []byte) (lower, upper []byte) {
	lower = appendKey(nil, tree, start)
	if end == nil {
		return lower, appendKey(nil, tree+1, nil)
	}
	return lower, appendKey(nil, tree, end)
}

func (v view) enter() error {
	if err := v.s.enter(); err != nil {
		return err
	}
	if err := v.gone(); err != nil {
		v.s.calls.exit()
		return err
	}
	return nil
}

// walk is the loop of scan. It returns nil if the consumer has stopped it.
func (v view) walk(start, end []byte, reverse bool, yield func(nexusraft.Pair, error) bool) error {
	if err := v.enter(); err != nil {
		return err
	}
	defer v.s.calls.exit()
	lower, upper := bounds(v.id, start, end)
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	v.s.counts.scans.add()
	it, err := v.s.newIter(v.src, lower, upper)
	if err != nil {
		return v.failed(err)
	}
	defer func() { _ = v.s.giveBack(it) }() // its error is that of the last step
	if reverse {
		return v.failed(v.s.backward(it, yield))
	}
	return v.failed(v.s.forward(it, yield))
}

// forward yields the pairs of an iterator, without the tree's ID, until the consumer stops it.
func (s *Store) forward(it *pebble.Iterator, yield func(nexusraft.Pair, error) bool) (err error) {
	engine := true // whose code runs: the engine's, or the consumer's
	defer s.guardWhile(&engine, &err)
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		engine = false
		if !yield(nexusraft.Pair{Key: it.Key()[prefixBytes:], Value: value}, nil) {
			return nil
		}
		engine = true
	}
	return it.Error()
}

// backward is forward in descending order.
func (s *Store) backward(it *pebble.Iterator, yield func(nexusraft.Pair, error) bool) (err error) {
	engine := true
	defer s.guardWhile(&engine, &err)
	for ok := it.Last(); ok; ok = it.Prev() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		engine = false
		if !yield(nexusraft.Pair{Key: it.Key()[prefixBytes:], Value: value}, nil) {
			return nil
		}
		engine = true
	}
	return it.Error()
}

// borrow returns the value at a stored key and what gives it back; nil if there is none.
func (s *Store) borrow(src pebble.Reader, stored []byte) (value []byte, closer io.Closer, err error) {
	defer s.guard(&err)
	value, closer, err = src.Get(stored)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil, nil
	}
	return value, closer, err
}

// copyOf returns a copy of the value at a stored key, and whether there is one.
func (s *Store) copyOf(src pebble.Reader, stored []byte) (value []byte, ok bool, err error) {
	defer s.guard(&err)
	borrowed, closer, err := src.Get(stored)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	value = append([]byte{}, borrowed...)
	if err := closer.Close(); err != nil {
		return nil, false, err
	}
	return value, true, nil
}

func (s *Store) giveBack(closer io.Closer) (err error) {
	defer s.guard(&err)
	return closer.Close()
}

// pointRead is for iterators that look up one key: of the lowest level, too, they ask the
// filters first. It is never changed.
var pointRead = &pebble.IterOptions{UseL6Filters: true}

// seek appends the value at a stored key to dst. It does what borrow does with an iterator
// of its own, as Pebble allocates those from a pool, and what a Get needs of a table not.
func (s *Store) seek(src pebble.Reader, stored, dst []byte) (value []byte, ok bool, err error) {
	value = dst
	defer s.guard(&err)
	it, err := src.NewIter(pointRead)
	if err != nil {
		return dst, false, err
	}
	if ok = it.SeekPrefixGE(stored); ok {
		var borrowed []byte
		borrowed, err = it.ValueAndErr()
		value = append(dst, borrowed...)
	}
	if err = errors.Join(err, it.Close()); err != nil { // an error of the seek is that of Close
		return dst, false, err
	}
	return value, ok, nil
}

func (s *Store) newIter(src pebble.Reader, lower, upper []byte) (it *pebble.Iterator, err error) {
	defer s.guard(&err)
	return src.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// failed says where a read failed, and that damage is damage.
func (v view) failed(err error) error {
	if err == nil || errors.Is(err, nexusraft.ErrClosed) {
		return err
	}
	return fmt.Errorf("read tree %q of store %s: %w", v.name, v.s.dir, damaged("", err))
}
