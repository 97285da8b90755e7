//go:build !race

package storage

import (
	"bytes"
	"fmt"
	"testing"
)

// TestGetToAllocatesNothing reads what is in memory. Of what is in tables, one allocation of
// 16 bytes is the engine's own, for each table that it looks into.
func TestGetToAllocatesNothing(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	keys := make([][]byte, 200)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%015d", i)
		check(t, tree.Set(keys[i], bytes.Repeat([]byte("v"), 128), NoSync))
	}
	x := s.NewSnapshot()
	defer x.Close()
	for tables, want := range []float64{0, 1} {
		if tables > 0 {
			check(t, s.db.Flush())
		}
		for name, r := range map[string]reader{"tree": tree, "view": x.Reader(tree)} {
			buf := make([]byte, 0, 128)
			i := 0
			got := testing.AllocsPerRun(2000, func() {
				i++
				value, ok, err := r.GetTo(buf, keys[i%len(keys)])
				if len(value) != 128 || !ok || err != nil {
					t.Fatalf("got %q, %v, %v", value, ok, err)
				}
			})
			if got > want {
				t.Errorf("%s with %d tables: got %v allocations, want %v", name, tables, got, want)
			}
		}
	}
}
