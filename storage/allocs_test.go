//go:build !race

package storage

import (
	"bytes"
	"fmt"
	"testing"
)

// TestGetToAllocatesNothing reads what is in memory, what is in tables on the disk, in
// several of them, and what is absent.
func TestGetToAllocatesNothing(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	keys := make([][]byte, 200)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%015d", i)
	}
	for tables := range 3 {
		if tables > 0 {
			check(t, s.db.Flush())
		}
		for i, key := range keys {
			if tables == 0 || i%(2*tables) == 0 { // some are in all tables, some in the first one only
				check(t, tree.Set(key, bytes.Repeat([]byte("v"), 128), NoSync))
			}
		}
		x := s.NewSnapshot()
		for name, r := range map[string]reader{"tree": tree, "view": x.Reader(tree)} {
			t.Run(fmt.Sprintf("%s, %d tables", name, tables), func(t *testing.T) {
				checkAllocatesNothing(t, r, keys)
			})
		}
		x.Close()
	}
}

func checkAllocatesNothing(t *testing.T, r reader, keys [][]byte) {
	t.Helper()
	buf, absent := make([]byte, 0, 128), []byte("absent")
	i := 0
	got := testing.AllocsPerRun(2000, func() {
		i++
		value, ok, err := r.GetTo(buf, keys[i%len(keys)])
		if len(value) != 128 || !ok || err != nil {
			t.Fatalf("got %q, %v, %v", value, ok, err)
		}
		if value, ok, err := r.GetTo(buf, absent); len(value) != 0 || ok || err != nil {
			t.Fatalf("absent: got %q, %v, %v", value, ok, err)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}
