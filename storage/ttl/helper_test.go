package ttl

import (
	"encoding/binary"
	"errors"
	"iter"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func check(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("got error %v", err)
	}
}

func want(t fataler, got, wanted error) {
	t.Helper()
	if !errors.Is(got, wanted) {
		t.Fatalf("got error %v, want %v", got, wanted)
	}
}

// clock is set by the test.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.nanos.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.nanos.Load()) }
func (c *clock) pass(d time.Duration) { c.nanos.Add(int64(d)) }
func (c *clock) options() *Options    { return &Options{Clock: c.now, SweepInterval: time.Hour} }
func quiet(fs storage.FS) *storage.Options {
	return &storage.Options{
		FS: fs, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func mustStore(t fataler, fs storage.FS) *storage.Store {
	t.Helper()
	s, err := storage.Open("data", quiet(fs))
	check(t, err)
	return s
}

func mustOpen(t fataler, s *storage.Store, o *Options) *Tree {
	t.Helper()
	tree, err := Open(s, "t", o)
	check(t, err)
	return tree
}

// newTree is a tree in memory that is swept when the test says so.
func newTree(t *testing.T) (*Tree, *clock) {
	t.Helper()
	s := mustStore(t, storage.NewMemFS())
	c := newClock()
	tree := mustOpen(t, s, c.options())
	t.Cleanup(func() {
		tree.Close()
		check(t, s.Close())
	})
	return tree, c
}

func set(t fataler, tree *Tree, key, value string, ttl time.Duration) {
	t.Helper()
	check(t, tree.Set([]byte(key), []byte(value), ttl, storage.NoSync))
}

// inBackground makes check, set and value fit for other goroutines than the test's.
type inBackground struct{ *testing.T }

func (t inBackground) Fatalf(format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
}

// value is what lives at a key, "-" if nothing does.
func value(t fataler, tree *Tree, key string) string {
	t.Helper()
	v, ok, err := tree.Get([]byte(key))
	check(t, err)
	if !ok {
		return "-"
	}
	return string(v)
}

func sweep(t *testing.T, tree *Tree) int {
	t.Helper()
	n, err := tree.Sweep(t.Context())
	check(t, err)
	return n
}

// collect reads a scan to its end.
func collect(t fataler, seq iter.Seq2[nexusraft.Pair, error]) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for p, err := range seq {
		check(t, err)
		out[string(p.Key)] = string(p.Value)
	}
	return out
}

// stored returns how many pairs and entries are on the disk.
func stored(t fataler, tree *Tree) (pairs, entries int) {
	t.Helper()
	pairs, err := tree.pairs.Len()
	check(t, err)
	entries, err = tree.deadlines.Len()
	check(t, err)
	return pairs, entries
}

// checkEntries checks that each pair has an entry of its life that is due no later than the pair
// expires, without which it would never be swept.
func checkEntries(t fataler, tree *Tree) {
	t.Helper()
	first := make(map[string]int64) // the first deadline of each key's life
	for p, err := range tree.deadlines.Scan(nil, nil) {
		check(t, err)
		life := string(p.Key[8:]) + string(p.Value)
		if _, ok := first[life]; !ok {
			first[life] = deadlineOf(p.Key)
		}
	}
	for p, err := range tree.pairs.Scan(nil, nil) {
		check(t, err)
		due, ok := first[string(p.Value[8:stampBytes])+string(p.Key)]
		if !ok || due > deadlineOf(p.Value) {
			t.Fatalf("pair %q expires at %d, and has an entry: %v, due at %d", p.Key, deadlineOf(p.Value), ok, due)
		}
	}
}

// dueEntries counts the entries whose time is over.
func dueEntries(t fataler, tree *Tree) (n int) {
	t.Helper()
	for p, err := range tree.deadlines.Scan(nil, nil) {
		check(t, err)
		if int64(binary.BigEndian.Uint64(p.Key)) <= tree.now() {
			n++
		}
	}
	return n
}
