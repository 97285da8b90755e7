package main

import (
	"fmt"
	"math/rand/v2"
)

const (
	keyBytes    = 16
	valueBytes  = 128
	pairBytes   = keyBytes + valueBytes
	prefixScan  = 1000 // keys with one prefix: the last three of a key's digits differ
	scanPrefix  = keyBytes - 3
	batchOfPuts = 100
)

// setKey makes key, of keyBytes, the i-th one in order: its decimal digits.
func setKey(key []byte, i int) {
	for d := len(key) - 1; d >= 0; d-- {
		key[d] = byte('0' + i%10)
		i /= 10
	}
}

func newKey(i int) []byte {
	key := make([]byte, keyBytes)
	setKey(key, i)
	return key
}

// noise is what values are cut from. It is random: compression gains nothing on it, for
// none of the engines.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // it never fails
	return b
}()

// value returns the value of the i-th write. It must not be changed.
func value(i int) []byte {
	at := i * 131 % (len(noise) - valueBytes)
	return noise[at : at+valueBytes : at+valueBytes]
}

// whole returns 1 for a pair of the length that was written, to count it.
func whole(key, value []byte) int {
	if len(key) == keyBytes && len(value) == valueBytes {
		return 1
	}
	return 0
}

// load puts the keys below n in their order, in batches, and returns when they are on the disk. In
// random order the tables would overlap, more in one run and less in the next, by when merges
// happened to run, and reads would measure that.
func load(s store, n int) error {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	for len(order) > 0 {
		now := order[:min(len(order), 10*batchOfPuts)]
		order = order[len(now):]
		if err := s.putAll(pairs(now)); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return s.flush()
}

func pairs(keys []int) []pair {
	ps := make([]pair, len(keys))
	for i, k := range keys {
		ps[i] = pair{newKey(k), value(k)}
	}
	return ps
}
