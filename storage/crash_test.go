package storage

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestCrash commits numbered batches, each of one key per tree, and looks at what
// crashes among them would leave: whole batches only, a prefix in the order
// of their commits, and at least up to the last one that was synced.
func TestCrash(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

const crashTrees = 3

func crashRun(t *testing.T, rng *rand.Rand) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	defer func() { check(t, s.Close()) }()
	trees := make([]*Tree, crashTrees)
	for i := range trees {
		trees[i] = mustTree(t, s, fmt.Sprint(i))
	}
	synced := 0
	for n := 1; n <= 100; n++ {
		sync := rng.IntN(4) == 0
		commitNumbered(t, s, trees, n, rng.IntN(3000), sync)
		if sync {
			synced = n
		}
		if rng.IntN(4) == 0 {
			clone := fs.CrashClone(rng, rng.IntN(101))
			verifyPrefix(t, clone, synced, n)
		}
	}
}

// commitNumbered writes key n to each tree, with values that a reader can check.
func commitNumbered(t fataler, s *Store, trees []*Tree, n, size int, sync bool) {
	t.Helper()
	b := s.NewBatch()
	defer b.Close()
	for i, tree := range trees {
		check(t, b.Set(tree, numberedKey(n), fmt.Appendf(nil, "%d %d %0*d", i, n, size, 0)))
	}
	check(t, b.Commit(sync))
}

func numberedKey(n int) []byte { return fmt.Appendf(nil, "%06d", n) }

// verifyPrefix opens what a crash has left.
func verifyPrefix(t fataler, fs FS, synced, last int) {
	t.Helper()
	s := mustOpen(t, fs)
	defer func() { check(t, s.Close()) }()
	found := -1
	for i := range crashTrees {
		count := 0
		for p, err := range mustTree(t, s, fmt.Sprint(i)).Scan(nil, nil) {
			check(t, err)
			count++
			var tree, n int
			if _, err := fmt.Sscanf(string(p.Value), "%d %d", &tree, &n); err != nil || tree != i || n != count ||
				string(p.Key) != string(numberedKey(n)) {
				t.Fatalf("tree %d: pair %d is %q = %.20q", i, count, p.Key, p.Value)
			}
		}
		if found >= 0 && count != found {
			t.Fatalf("tree %d has %d batches, tree 0 has %d", i, count, found)
		}
		found = count
	}
	if found < synced || found > last {
		t.Fatalf("found %d batches, %d were synced and %d committed", found, synced, last)
	}
}

// TestCrashWhileCreating crashes at the first steps of a store's life.
func TestCrashWhileCreating(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for range 30 {
		fs := NewMemFS()
		s := mustOpen(t, fs)
		mustTree(t, s, "0")
		clone := fs.CrashClone(rng, rng.IntN(101))
		check(t, s.Close())
		again := mustOpen(t, clone)
		if _, ok, err := again.OpenTree("0"); !ok || err != nil {
			t.Fatalf("a tree that was created: got %v, %v", ok, err)
		}
		check(t, again.Close())
	}
}

// TestCrashKeepsNewDirectories crashes after a first write below directories that the
// store has made.
func TestCrashKeepsNewDirectories(t *testing.T) {
	fs := NewMemFS()
	s, err := Open("new/too/data", testOptions(fs))
	check(t, err)
	mustTree(t, s, "t")
	clone := fs.CrashClone(nil, 0)
	check(t, s.Close())
	if ok, err := Exists("new/too/data", testOptions(clone)); !ok || err != nil {
		t.Errorf("after the crash: got %v, %v, want a store", ok, err)
	}
}

func TestSyncOfEmptyBatch(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	defer func() { check(t, s.Close()) }()
	tree := mustTree(t, s, "t")
	put(t, tree, "k", "not synced")
	b := s.NewBatch()
	defer b.Close()
	check(t, b.Commit(true))
	after := mustOpen(t, fs.CrashClone(nil, 0))
	defer func() { check(t, after.Close()) }()
	if value, ok, err := mustTree(t, after, "t").Get([]byte("k")); !ok || err != nil || string(value) != "not synced" {
		t.Errorf("after the crash: got %q, %v, %v", value, ok, err)
	}
}
