package storage

import (
	"log/slog"
	"os"
	"strings"
	"testing"
)

// A temporary store is a store, and nothing of it reaches the disk.
func TestTemporary(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := OpenTemporary(&Options{MemTableBytes: 64 << 10, DiskReserve: 1 << 62, Merge: appendOperand, Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	other, err := OpenTemporary(nil)
	check(t, err)
	tree := mustTree(t, s, "t")
	for n := range 100 {
		check(t, tree.Set(numberedKey(n), make([]byte, 4<<10)))
	}
	check(t, s.db.Flush())
	if n, err := tree.Len(); n != 100 || err != nil {
		t.Errorf("got %d keys, %v", n, err)
	}
	if got, err := s.Merge([]byte("k"), []byte("v")); string(got) != "v" || err != nil {
		t.Errorf("Merge of its options: got %q, %v", got, err)
	}
	if empty, err := other.Empty(); !empty || err != nil {
		t.Errorf("another temporary store: got empty %v, %v", empty, err)
	}
	if s.Stats().Recovered {
		t.Error("got a temporary store that was not closed in order before")
	}
	entries, err := os.ReadDir(".")
	check(t, err)
	if len(entries) > 0 {
		t.Errorf("got %v on the disk", entries)
	}
	check(t, other.Close())
	check(t, s.Close())
	again, err := OpenTemporary(nil)
	check(t, err)
	defer func() { check(t, again.Close()) }()
	if names, err := again.Trees(); len(names) > 0 || err != nil {
		t.Errorf("the next one: got trees %q, %v", names, err)
	}
}

func appendOperand(_ string, _, old, operand []byte) ([]byte, error) {
	return append(old, operand...), nil
}

func TestTemporaryOptions(t *testing.T) {
	for word, o := range map[string]*Options{
		"FS":         {FS: NewMemFS()},
		"ReadOnly":   {ReadOnly: true},
		"CacheBytes": {CacheBytes: -1},
	} {
		s, err := OpenTemporary(o)
		if err == nil || !strings.Contains(err.Error(), "temporary") || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want an error that names it", word, err)
		}
		if s != nil {
			t.Errorf("%s: got a store", word)
		}
	}
}
