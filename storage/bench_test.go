package storage

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// BenchmarkBatchCommit commits what a round of a node's worker does: for each of some
// zones a few log entries, a hard state, and effects, to two trees.
func BenchmarkBatchCommit(b *testing.B) {
	for _, zones := range []int{1, 16} {
		for _, sync := range []bool{false, true} {
			b.Run(fmt.Sprintf("zones=%d/sync=%v", zones, sync), func(b *testing.B) {
				benchmarkRounds(b, zones, sync)
			})
		}
	}
}

func benchmarkRounds(b *testing.B, zones int, sync bool) {
	s, err := Open("data", &Options{FS: NewMemFS()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	log, err := s.Tree("raft")
	if err != nil {
		b.Fatal(err)
	}
	state, err := s.Tree("zone")
	if err != nil {
		b.Fatal(err)
	}
	var key [16]byte
	value := make([]byte, 128)
	batch := s.NewBatch()
	defer batch.Close()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		batch.Reset()
		for z := range zones {
			for i := range 4 {
				n++
				binary.BigEndian.PutUint64(key[:], uint64(z))
				binary.BigEndian.PutUint64(key[8:], uint64(n))
				if err := batch.Set(log, key[:], value); err != nil {
					b.Fatal(err)
				}
				binary.BigEndian.PutUint64(key[8:], uint64(i))
				if err := batch.Set(state, key[:], value); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := batch.Commit(sync); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetTo reads keys that are in tables, and in the cache.
func BenchmarkGetTo(b *testing.B) {
	s, err := Open("data", &Options{FS: NewMemFS()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	keys := make([][]byte, 10_000)
	value := make([]byte, 128)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%016d", i)
		if err := s.Set(keys[i], value, NoSync); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.db.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok, err := s.GetTo(value[:0], keys[i*7919%len(keys)]); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
