package storage

import (
	"encoding/binary"
	"testing"
)

// TestMemoryIsBounded writes and reads far more than the store may hold.
func TestMemoryIsBounded(t *testing.T) {
	o := testOptions(NewMemFS())
	o.MemTableBytes = 256 << 10
	o.CacheBytes = 4 << 20
	s, err := Open("data", o)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	var key [8]byte
	value := make([]byte, 1000)
	for i := range 10_000 {
		binary.BigEndian.PutUint64(key[:], uint64(i*7919))
		check(t, s.Set(key[:], value, NoSync))
		binary.BigEndian.PutUint64(key[:], uint64(i*7919/2)) // a key that is on the disk, or none
		_, _, err := s.Get(key[:])
		check(t, err)
		if i%16 != 0 {
			continue
		}
		m := s.db.Metrics()
		if tables := int64(m.MemTable.Size); tables > (memTables+1)*o.MemTableBytes {
			t.Fatalf("after %d writes: %d bytes of memory tables, want at most %d of %d", i, tables, memTables+1,
				o.MemTableBytes)
		}
		const some = 64 << 10 // the block that made it too much is still there
		if held := int64(m.MemTable.Size) + m.BlockCache.Size; held > o.CacheBytes+some {
			t.Fatalf("after %d writes: %d bytes of memory tables and blocks, want at most %d", i, held, o.CacheBytes)
		}
	}
	if m := s.db.Metrics(); m.Flush.Count < 10 || m.BlockCache.Size == 0 {
		t.Errorf("got %d flushes and %d bytes of blocks: nothing was shown", m.Flush.Count, m.BlockCache.Size)
	}
}

func TestCacheDefaults(t *testing.T) {
	for _, c := range []struct{ cache, memTable, want int64 }{
		{0, 0, 256 << 20},
		{0, 1 << 20, 256 << 20},
		{0, 128 << 20, 512 << 20},
		{5, 128 << 20, 5},
	} {
		o, err := (&Options{CacheBytes: c.cache, MemTableBytes: c.memTable}).withDefaults()
		check(t, err)
		if o.CacheBytes != c.want {
			t.Errorf("CacheBytes %d, MemTableBytes %d: got %d, want %d", c.cache, c.memTable, o.CacheBytes, c.want)
		}
	}
}
