package storage

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// ends tells where the pairs of trees that are popped from begin and end at most.
//
// The problem: removed keys are skipped one by one until a compaction takes them away, and of a
// queue all of them are in front of its first pair: popping would get slower with each pop.
//
// The invariant: of a tree in first, nothing is stored below that key, and of one in last,
// nothing at or above that key. Pop narrows the bounds under all latches; a write widens them
// before its batch is visible, under the latches of its keys.
type ends struct {
	used atomic.Bool // something was popped; else writers need not look

	mu          sync.Mutex // guards what follows
	first, last map[uint32][]byte
}

func newEnds() *ends { return &ends{first: make(map[uint32][]byte), last: make(map[uint32][]byte)} }

// narrow leaves out of a range of the tree what has nothing stored; a nil end is the tree's end.
func (e *ends) narrow(tree uint32, start, end []byte) (_, _ []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if first := e.first[tree]; bytes.Compare(start, first) < 0 {
		start = first
	}
	if last := e.last[tree]; last != nil && (end == nil || bytes.Compare(end, last) > 0) {
		end = last
	}
	return start, end
}

// begin notes that key is the first one of the tree.
func (e *ends) begin(tree uint32, key []byte) { e.set(e.first, tree, key) }

// end notes that key is the last one of the tree.
func (e *ends) end(tree uint32, key []byte) { e.set(e.last, tree, after(key)) }

func (e *ends) set(which map[uint32][]byte, tree uint32, key []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	which[tree] = key
	e.used.Store(true)
}

// include makes room for all that b sets.
func (e *ends) include(b *pebble.Batch) {
	if !e.used.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for r := b.Reader(); ; {
		kind, stored, _, ok, err := r.Next()
		if !ok || err != nil { // Pebble finds the same error
			return
		}
		if kind == pebble.InternalKeyKindSet {
			e.includeKey(binary.BigEndian.Uint32(stored), stored[prefixBytes:])
		}
	}
}

func (e *ends) includeKey(tree uint32, key []byte) {
	if first, ok := e.first[tree]; ok && bytes.Compare(key, first) < 0 {
		e.first[tree] = bytes.Clone(key)
	}
	if last, ok := e.last[tree]; ok && bytes.Compare(key, last) >= 0 {
		e.last[tree] = after(key)
	}
}

// forget is called when a tree was dropped.
func (e *ends) forget(tree uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.first, tree)
	delete(e.last, tree)
}
