package storage

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A temporary store is a store, and nothing of it reaches the disk.
func TestTemporary(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := OpenTemporary(&Options{
		MemTableBytes: 64 << 10, DiskReserve: 1 << 62, Merge: appendOperand,
		Logger: slog.New(slog.DiscardHandler),
	})
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

// TestTemporaryIn: a temporary store on the disk may be larger than its memory, and leaves nothing
// there, nor does what others have left stay, unless it is open or no store.
func TestTemporaryIn(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tmp")
	o := testOptions(nil)
	s, err := OpenTemporaryIn(dir, o)
	check(t, err)
	left := filepath.Join(dir, temporaryPrefix+"left")
	killed, err := Open(left, o)
	check(t, err)
	check(t, killed.Set([]byte("k"), []byte("v")))
	check(t, killed.Close())
	foreign := filepath.Join(dir, temporaryPrefix+"foreign")
	check(t, os.Mkdir(foreign, 0o700))
	check(t, os.WriteFile(filepath.Join(foreign, "file"), nil, 0o600))

	other, err := OpenTemporaryIn(dir, nil)
	check(t, err)
	const pairs = 400
	random := rand.NewChaCha8([32]byte{1})
	for n := range pairs {
		value := make([]byte, 20<<10)
		_, _ = random.Read(value) // it never fails, and what it gives does not compress
		check(t, s.Set(numberedKey(n), value))
	}
	if s.DiskBytes() < 4*o.CacheBytes {
		t.Errorf("got %d bytes on the disk, want several times %d", s.DiskBytes(), o.CacheBytes)
	}
	if n, err := s.Len(); n != pairs || err != nil {
		t.Errorf("got %d keys, %v, want %d", n, err, pairs)
	}
	if s.Stats().Syncs > pairs/2 {
		t.Errorf("got %d syncs of %d writes that asked for none", s.Stats().Syncs, pairs)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left before: got %v, want that it is gone", err)
	}
	check(t, other.Close())
	check(t, s.Close())
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) != 1 || entries[0].Name() != filepath.Base(foreign) {
		t.Errorf("in the end there are %v, want what is no store alone", entries)
	}
}

func TestTemporaryInRefusals(t *testing.T) {
	disk := NewMemFS()
	for _, o := range []*Options{{FS: disk, ReadOnly: true}, {FS: disk, CacheBytes: -1}, {FS: failsToLock{disk}}} {
		if s, err := OpenTemporaryIn("tmp", o); err == nil {
			t.Errorf("%+v: got a store", o)
			check(t, s.Close())
		}
	}
	if names, err := disk.List("tmp"); len(names) > 0 || err != nil {
		t.Errorf("what failed has left %q, %v", names, err)
	}
}

// failsToLock is a file system where nothing can be locked.
type failsToLock struct{ FS }

func (failsToLock) Lock(string) (io.Closer, error) { return nil, errTest }
