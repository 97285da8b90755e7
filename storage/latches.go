package storage

import (
	"hash/maphash"
	"math/bits"
	"sync"
)

// latches keep writers of the same keys apart while one of them decides what to write.
//
// The problem: a compare-and-swap reads a value and writes another one. A write of the
// same key in between, be it a plain one, would be overwritten unseen.
//
// The rule: every key belongs to one of 64 stripes. A write holds the stripes of its keys, and
// one that depends on what it reads holds those of what it reads, from before it reads until its batch
// is visible to readers; one that reads or writes a range holds all of them. Stripes are taken in ascending
// order, so nobody waits in a circle. They are never held while the disk syncs (but by Import, for
// a moment), so that all waits for a sync share one; nor while a caller's own function runs, so
// that it may do what it likes. Readers take none.
//
// Rejected: a lock for each tree (then a range would hold up that tree alone, but a batch
// would lock trees and stripes); one lock for everything (a compare-and-swap that reads
// from the disk would hold up every writer).
type latches struct {
	seed    maphash.Seed
	stripes [64]sync.Mutex
}

// latchSet is a set of stripes, one bit each.
type latchSet uint64

const allLatches = ^latchSet(0)

func newLatches() *latches { return &latches{seed: maphash.MakeSeed()} }

// of returns the stripe of a stored key.
func (l *latches) of(stored []byte) latchSet {
	return 1 << (maphash.Bytes(l.seed, stored) % uint64(len(l.stripes)))
}

func (l *latches) lock(set latchSet) {
	for ; set != 0; set &= set - 1 {
		l.stripes[bits.TrailingZeros64(uint64(set))].Lock()
	}
}

func (l *latches) unlock(set latchSet) {
	for ; set != 0; set &= set - 1 {
		l.stripes[bits.TrailingZeros64(uint64(set))].Unlock()
	}
}
