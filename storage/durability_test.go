package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestCrashKeepsAPrefix counts up in one key and appends to another tree, by each kind of
// write in turn, and looks at what crashes would leave: a prefix of the writes, whole ones,
// and at least all up to the last one that was synced.
func TestCrashKeepsAPrefix(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 8 {
		fs := NewMemFS()
		s := mustOpen(t, fs)
		tree := mustTree(t, s, "numbers")
		synced := 0
		for n := 1; n <= 60; n++ {
			d := Durability(min(1, rng.IntN(4))) // one of four is synced
			check(t, writeNumber(t, s, tree, n, d))
			if d == Sync {
				synced = n
			}
			if rng.IntN(6) == 0 {
				verifyNumbers(t, fs.CrashClone(rng, rng.IntN(101)), synced, n)
			}
		}
		check(t, s.Flush())
		verifyNumbers(t, fs.CrashClone(nil, 0), 60, 60)
		check(t, s.Close())
	}
}

// writeNumber puts n where only a writer that has seen n-1 may.
func writeNumber(t *testing.T, s *Store, tree *Tree, n int, d Durability) error {
	counter, key, value := []byte("counter"), numberedKey(n), []byte(strings.Repeat("v", n*50))
	before, now := fmt.Append(nil, n-1), fmt.Append(nil, n)
	if n == 1 {
		before = nil
	}
	switch n % 4 {
	case 0:
		_, swapped, err := s.CompareAndSwap(counter, before, now, d)
		if err == nil && !swapped {
			err = errors.New("not swapped")
		}
		return err
	case 1:
		_, _, err := s.Update(counter, func([]byte) ([]byte, error) { return now, nil }, d)
		return err
	case 2:
		return s.Transact(t.Context(), func(tx *Tx) error {
			return errors.Join(tx.Tree(s.Default()).Set(counter, now), tx.Tree(tree).Set(key, value))
		}, d)
	default:
		return s.Set(counter, now, d)
	}
}

func verifyNumbers(t *testing.T, fs FS, synced, last int) {
	t.Helper()
	s := mustOpen(t, fs)
	defer func() { check(t, s.Close()) }()
	var found int
	value, ok, err := s.Get([]byte("counter"))
	check(t, err)
	if ok {
		_, err := fmt.Sscan(string(value), &found)
		check(t, err)
	}
	if found < synced || found > last {
		t.Fatalf("found %d, synced were %d of %d", found, synced, last)
	}
	tree := mustTree(t, s, "numbers")
	for n := 1; n <= last; n++ {
		want := n%4 == 2 && n <= found // what the transactions have written besides
		if ok, err := tree.Contains(numberedKey(n)); ok != want || err != nil {
			t.Fatalf("with the counter at %d: got %d %v, %v", found, n, ok, err)
		}
	}
}

// countSyncs counts the syncs of logs.
func countSyncs(n *atomic.Int64) errorfs.Injector {
	return errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			if strings.HasSuffix(op.Path, ".log") {
				n.Add(1)
			}
		}
		return nil
	})
}

func TestDurability(t *testing.T) {
	for _, c := range []struct {
		name  string
		store Durability
		write []Durability
		want  int64
	}{
		{"by default", Sync, nil, 1},
		{"store without", NoSync, nil, 0},
		{"write without", Sync, []Durability{NoSync}, 0},
		{"write with", NoSync, []Durability{Sync}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var syncs atomic.Int64
			o := testOptions(errorfs.Wrap(NewMemFS(), countSyncs(&syncs)))
			o.Durability = c.store
			s, err := Open("data", o)
			check(t, err)
			defer func() { check(t, s.Close()) }()
			for i, write := range []func() error{
				func() error { return s.Set([]byte("k"), []byte("v"), c.write...) },
				func() error { _, err := s.Swap([]byte("k"), []byte("v"), c.write...); return err },
				func() error {
					_, _, err := s.CompareAndSwap([]byte("k"), []byte("v"), []byte("w"), c.write...)
					return err
				},
				func() error { _, _, err := s.PopFirst(c.write...); return err },
				func() error { return s.Clear(c.write...) },
				func() error {
					return s.Transact(t.Context(), func(tx *Tx) error { return tx.Tree(s.Default()).Delete(nil) }, c.write...)
				},
			} {
				before := syncs.Load()
				check(t, write())
				if got := syncs.Load() - before; got != c.want {
					t.Errorf("write %d: got %d syncs, want %d", i, got, c.want)
				}
			}
			before := syncs.Load()
			if _, _, err := s.CompareAndSwap([]byte("k"), []byte("v"), nil); err != nil || syncs.Load() != before {
				t.Errorf("nothing to write: got %d syncs, %v", syncs.Load()-before, err)
			}
		})
	}
}

// TestBackgroundSync counts what is synced as time goes by.
func TestBackgroundSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var syncs atomic.Int64
		o := testOptions(errorfs.Wrap(NewMemFS(), countSyncs(&syncs)))
		o.FlushInterval = 0
		s, err := Open("data", o)
		check(t, err)
		passes := func(what string, d time.Duration, want int64) {
			t.Helper()
			before := syncs.Load()
			time.Sleep(d)
			synctest.Wait()
			if got := syncs.Load() - before; got != want {
				t.Errorf("%s: got %d syncs, want %d", what, got, want)
			}
		}
		passes("nothing written", time.Minute, 0)
		for range 3 {
			put(t, s.Default(), "k", "v")
			passes("not yet", 400*time.Millisecond, 0)
			put(t, s.Default(), "k", "v")
			passes("in time", 100*time.Millisecond, 1)
			passes("no more than that", time.Minute, 0)
		}
		put(t, s.Default(), "k", "v")
		check(t, s.Set([]byte("k"), nil))
		passes("synced by another", time.Minute, 0)
		put(t, s.Default(), "k", "v")
		check(t, s.Close())
		passes("closed", time.Minute, 0)
	})
}

func TestCommitAsync(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	var waits []func() error
	batches := make([]*Batch, 10)
	for i := range batches {
		b := s.NewBatch()
		check(t, b.Set(s.Default(), numberedKey(i), nil))
		waits, batches[i] = append(waits, b.CommitAsync()), b
		if ok, err := s.Contains(numberedKey(i)); !ok || err != nil {
			t.Errorf("committed and not visible: got %v, %v", ok, err)
		}
	}
	batches[0].Close() // waits
	for _, wait := range waits {
		check(t, wait())
		check(t, wait())
	}
	crashed := mustOpen(t, fs.CrashClone(nil, 0))
	if n, err := crashed.Len(); n != len(waits) || err != nil {
		t.Errorf("after a crash: got %d, %v, want %d", n, err, len(waits))
	}
	check(t, crashed.Close())
	for _, b := range batches[1:] {
		b.Reset()
		check(t, b.Set(s.Default(), []byte("again"), nil))
	}
	waits = append(waits[:0], batches[1].CommitAsync(), batches[2].CommitAsync(), s.FlushAsync())
	check(t, s.Close())
	for i, wait := range waits {
		if err := wait(); err != nil {
			t.Errorf("%d: Close has synced it, got %v", i, err)
		}
	}
	for _, b := range batches {
		b.Close()
	}
	if err := batches[1].CommitAsync()(); err == nil {
		t.Error("a closed batch was committed")
	}
	if err := s.FlushAsync()(); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("flush a closed store: got %v, want ErrClosed", err)
	}
}

// TestAsyncSyncFails has the sync fail that somebody waits for.
func TestAsyncSyncFails(t *testing.T) {
	var broken atomic.Bool
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), &failingFS{at: 1, sticky: true, only: func(op errorfs.Op) bool {
		return broken.Load() && strings.HasSuffix(op.Path, ".log")
	}}))
	b := s.NewBatch()
	defer b.Close()
	check(t, b.Set(s.Default(), []byte("k"), nil))
	broken.Store(true)
	err := b.CommitAsync()()
	for _, err := range []error{err, s.Flush(), s.Set(nil, nil)} {
		if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "injected failure") {
			t.Errorf("got %v, want ErrClosed with the cause", err)
		}
	}
	if err := s.Close(); err == nil {
		t.Error("Close: want the cause")
	}
}

// TestWaitersShareSyncs stops the disk's syncs and has many write one key, each in a way
// that looks at it first: all get as far as the sync, and a few syncs serve them all.
func TestWaitersShareSyncs(t *testing.T) {
	var syncs atomic.Int64
	var stopped atomic.Bool
	release := make(chan struct{})
	counting := countSyncs(&syncs)
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		before := syncs.Load()
		_ = counting.MaybeError(op)
		if stopped.Load() && syncs.Load() > before {
			<-release
		}
		return nil
	})))
	defer func() { check(t, s.Close()) }()
	stopped.Store(true)
	before := syncs.Load()
	const writers = 64
	done := make(chan error, writers)
	for i := range writers {
		go func() { done <- appendOne(t, s, i) }()
	}
	deadline := time.Now().Add(30 * time.Second)
	for value := []byte(nil); len(value) < writers; value, _, _ = s.Get([]byte("k")) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d writes are visible while the disk syncs", len(value), writers)
		}
		runtime.Gosched()
	}
	select {
	case err := <-done:
		t.Errorf("a write ended before its sync: %v", err)
	default:
	}
	close(release)
	for range writers {
		check(t, <-done)
	}
	if got := syncs.Load() - before; got > 4 {
		t.Errorf("%d writes took %d syncs, want at most 4", writers, got)
	}
}

// appendOne makes the value at k longer by one byte.
func appendOne(t *testing.T, s *Store, i int) error {
	if i%2 == 0 {
		_, _, err := s.Update([]byte("k"), func(old []byte) ([]byte, error) { return append(old, 'u'), nil })
		return err
	}
	return s.Transact(t.Context(), func(tx *Tx) error {
		in := tx.Tree(s.Default())
		old, _, err := in.Get([]byte("k"))
		return errors.Join(err, in.Set([]byte("k"), append(old, 't')))
	})
}
