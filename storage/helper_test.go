package storage

import (
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// testOptions are of a small store, so that flushes and compactions happen in tests.
func testOptions(fs FS) *Options {
	return &Options{
		FS: fs, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// thorough reports whether tests that sample what they look at should take more of it. Under the race
// detector they need not: samples race as much as all of it.
func thorough() bool {
	return *everyBit || os.Getenv("NEXUS_RAFT_CI") == "1" && damageStride == 1
}

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

func mustOpen(t fataler, fs FS) *Store {
	t.Helper()
	s, err := Open("data", testOptions(fs))
	check(t, err)
	return s
}

func mustTree(t fataler, s *Store, name string) *Tree {
	t.Helper()
	tree, err := s.Tree(name)
	check(t, err)
	return tree
}

// newStore is a store in memory that the test's end closes.
func newStore(t *testing.T) *Store {
	s := mustOpen(t, NewMemFS())
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

// put commits one key without sync.
func put(t fataler, tree *Tree, key, value string) {
	t.Helper()
	b := tree.s.NewBatch()
	defer b.Close()
	check(t, b.Set(tree, []byte(key), []byte(value)))
	check(t, b.Commit(false))
}

type kv struct{ Key, Value string }

// collect reads a scan to its end.
func collect(t fataler, seq iter.Seq2[nexusraft.Pair, error]) []kv {
	t.Helper()
	var out []kv
	for p, err := range seq {
		check(t, err)
		out = append(out, kv{string(p.Key), string(p.Value)})
	}
	return out
}

func lastError(seq iter.Seq2[nexusraft.Pair, error]) (err error) {
	for _, err = range seq {
	}
	return err
}

// model is what a tree should hold.
type model map[string]string

// scan is the model's answer to a Scan; an end of nil is none.
func (m model) scan(start, end []byte, reverse bool) []kv {
	var out []kv
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k >= string(start) && (end == nil || k < string(end)) {
			out = append(out, kv{k, m[k]})
		}
	}
	if reverse {
		slices.Reverse(out)
	}
	return out
}
