package storage

import (
	"errors"
	"math/rand/v2"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// storedFormat is what the store's own tree says of its format. Releases before there was a second one
// open a store of the first alone.
func storedFormat(t *testing.T, s *Store) string {
	t.Helper()
	own := view{s: s, src: s.db, id: registry, gone: func() error { return nil }}
	b, _, err := own.Get([]byte(keyFormat))
	check(t, err)
	return string(b)
}

// TestRaiseFormat: a new store is one that earlier releases open, until its format is raised; what is in it
// stays, through crashes, and it opens again. A second time it costs nothing.
func TestRaiseFormat(t *testing.T) {
	const first, second = "nexus-raft store format 1", "nexus-raft store format 2" // as they are on disks
	fs := NewMemFS()
	s := mustOpen(t, fs)
	put(t, mustTree(t, s, "t"), "k", "v")
	if got := storedFormat(t, s); got != first {
		t.Errorf("a new store has format %q, want %q", got, first)
	}
	check(t, s.RaiseFormat())
	crashed := fs.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)
	before := s.Stats().Syncs
	check(t, s.RaiseFormat())
	if again := s.Stats().Syncs - before; again != 0 {
		t.Errorf("%d syncs when it was raised already, want none", again)
	}
	check(t, s.Close())
	for what, fs := range map[string]FS{"closed in order": fs, "a crash": crashed} {
		for range 2 {
			s := mustOpen(t, fs)
			value, _, err := mustTree(t, s, "t").Get([]byte("k"))
			check(t, err)
			if got := storedFormat(t, s); got != second || string(value) != "v" {
				t.Errorf("%s: format %q with value %q, want %q with v", what, got, value, second)
			}
			check(t, s.RaiseFormat())
			check(t, s.Close())
		}
		r := mustOpenReadOnly(t, fs)
		check(t, r.RaiseFormat())
		check(t, r.Close())
	}
}

// TestRaiseFormatRefused: a store that is read only, or closed, is left as it is.
func TestRaiseFormatRefused(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	check(t, s.Close())
	if err := s.RaiseFormat(); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("closed: got %v, want ErrClosed", err)
	}
	r := mustOpenReadOnly(t, fs)
	if err := r.RaiseFormat(); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("read only: got %v, want ErrRefused", err)
	}
	if got := storedFormat(t, r); got != format {
		t.Errorf("it has format %q now", got)
	}
	check(t, r.Close())
}
