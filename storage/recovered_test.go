package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// wantRecovered opens a store, looks whether it was closed in order before, and closes it so.
func wantRecovered(t *testing.T, what string, f FS, want bool) {
	t.Helper()
	s := mustOpen(t, f)
	if got := s.Stats().Recovered; got != want {
		t.Errorf("%s: got recovered %v, want %v", what, got, want)
	}
	check(t, s.Close())
}

func TestRecovered(t *testing.T) {
	f := NewMemFS()
	wantRecovered(t, "a new store", f, false)
	wantRecovered(t, "closed in order", f, false)
	wantRecovered(t, "closed in order, and a crash later", f.CrashClone(nil, 0), false)

	s := mustOpen(t, f)
	wantRecovered(t, "a crash before anything was written", f.CrashClone(nil, 0), false)
	put(t, s.Default(), "k", "not synced")
	wantRecovered(t, "a crash that has lost all that was written", f.CrashClone(nil, 0), false)
	check(t, s.Flush())
	crashed := f.CrashClone(nil, 0)
	wantRecovered(t, "a crash after a write", crashed, true)
	wantRecovered(t, "closed in order after a crash", crashed, false)
	check(t, s.Close())
	wantRecovered(t, "closed in order after a write", f, false)
}

func TestRecoveredAgainAndAgain(t *testing.T) {
	f := NewMemFS()
	for n := range 3 {
		s := mustOpen(t, f)
		if got := s.Stats().Recovered; got != (n > 0) {
			t.Errorf("crash %d: got recovered %v", n, got)
		}
		check(t, s.Set([]byte("k"), nil))
		crashed := f.CrashClone(nil, 0)
		check(t, s.Close())
		f = crashed
	}
}

// A store of which a crash has left anything that was written since it was opened says so.
func TestRecoveredIfAnythingIsLeft(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 5))
	base := NewMemFS()
	wantRecovered(t, "a new store", base, false)
	lost, left := 0, 0
	for n := range 60 {
		f := base.CrashClone(nil, 0)
		s := mustOpen(t, f)
		for i := range 1 + rng.IntN(8) {
			check(t, s.Set(numberedKey(i), make([]byte, rng.IntN(20<<10)), NoSync))
		}
		crashed := f.CrashClone(rng, rng.IntN(101))
		check(t, s.Close())
		s = mustOpen(t, crashed)
		empty, err := s.Empty()
		check(t, err)
		switch {
		case empty:
			lost++
		case s.Stats().Recovered:
			left++
		default:
			t.Fatalf("crash %d: writes are left, and the store says that it was closed in order", n)
		}
		check(t, s.Close())
	}
	if lost == 0 || left < 10 {
		t.Errorf("all writes were lost %d times, and some were left %d times", lost, left)
	}
}

// Close of a dead store leaves no word of order.
func TestRecoveredAfterDeath(t *testing.T) {
	var broken atomic.Bool
	disk := NewMemFS()
	s := mustOpen(t, errorfs.Wrap(disk, &failingFS{
		at: 1, sticky: true,
		only: func(errorfs.Op) bool { return broken.Load() },
	}))
	check(t, s.Set([]byte("k"), nil))
	broken.Store(true)
	if err := s.Set([]byte("k"), nil); err == nil {
		t.Fatal("the disk did not fail")
	}
	if err := s.Close(); err == nil {
		t.Error("Close: got no error")
	}
	wantRecovered(t, "died", disk, true)
}

// If it is the last sync that fails, Close says why, once.
func TestCloseFails(t *testing.T) {
	var broken atomic.Bool
	disk := NewMemFS()
	s := mustOpen(t, errorfs.Wrap(disk, &failingFS{
		at: 1, sticky: true,
		only: func(errorfs.Op) bool { return broken.Load() },
	}))
	check(t, s.Set([]byte("k"), nil))
	broken.Store(true)
	err := s.Close()
	if err == nil || strings.Count(err.Error(), "injected failure") != 1 {
		t.Errorf("Close: got %v, want the injected failure once", err)
	}
	wantRecovered(t, "failed to close", disk, true)
}

// How a store of an older release has ended is unknown, and no crash is made up for it.
func TestRecoveredOfAnOlderStore(t *testing.T) {
	f := NewMemFS()
	s := mustOpen(t, f)
	b := s.NewBatch()
	check(t, b.remove(registry, []byte(keyClosed)))
	check(t, b.Commit(true))
	b.Close()
	older := f.CrashClone(nil, 0)
	check(t, s.Close())

	readOnly := mustOpenReadOnly(t, older)
	if readOnly.Stats().Recovered {
		t.Error("an older store that is only read: got recovered")
	}
	check(t, readOnly.Close())
	s = mustOpen(t, older)
	if s.Stats().Recovered {
		t.Error("an older store: got recovered")
	}
	check(t, s.Set([]byte("k"), nil))
	wantRecovered(t, "an older store, after a crash", older.CrashClone(nil, 0), true)
	check(t, s.Close())
}

// To open a store read-only takes no notice of how it has ended.
func TestRecoveredReadOnly(t *testing.T) {
	f := fill(t)
	for range 2 {
		s := mustOpenReadOnly(t, f)
		if !s.Stats().Recovered {
			t.Error("after a crash: got a store that was closed in order")
		}
		check(t, s.Close())
	}
	wantRecovered(t, "after read-only", f, true)
	s := mustOpenReadOnly(t, f)
	if s.Stats().Recovered {
		t.Error("closed in order: got recovered")
	}
	check(t, s.Close())
	wantRecovered(t, "closed in order, after read-only", f, false)
}

func TestDamagedEnd(t *testing.T) {
	for _, value := range []string{"\x02", "00"} {
		f := NewMemFS()
		s := mustOpen(t, f)
		check(t, s.setOwn(record{keyClosed, []byte(value)}))
		crashed := f.CrashClone(nil, 0)
		check(t, s.Close())
		if _, err := Open("data", testOptions(crashed)); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%x: got %v, want ErrCorrupt", value, err)
		}
	}
}

// A full disk is no crash.
func TestCloseOnAFullDisk(t *testing.T) {
	f := NewMemFS()
	s := openReserved(t, f, nil)
	f.SetDiskFree(0)
	wantSoon(t, s, true)
	check(t, s.Close())
	wantRecovered(t, "closed on a full disk", f.CrashClone(nil, 0), false)
}

// Close has the last word, and all that was acknowledged before it, synced or not, is kept.
func TestCloseUnderWriters(t *testing.T) {
	f := NewMemFS()
	o := testOptions(f)
	o.FlushInterval = time.Millisecond
	s, err := Open("data", o)
	check(t, err)
	var acknowledged [4]int
	var wg, busy sync.WaitGroup
	busy.Add(len(acknowledged))
	for w := range acknowledged {
		wg.Go(func() {
			for n := 0; ; n++ {
				if n == 100 {
					busy.Done()
				}
				if err := s.Set(fmt.Appendf(nil, "%d/%06d", w, n), nil, NoSync); err != nil {
					if !errors.Is(err, nexusraft.ErrClosed) {
						t.Errorf("writer %d: got %v, want ErrClosed", w, err)
					}
					acknowledged[w] = n
					return
				}
			}
		})
	}
	busy.Wait()
	check(t, s.Close())
	wg.Wait()
	s = mustOpen(t, f.CrashClone(nil, 0))
	defer func() { check(t, s.Close()) }()
	if s.Stats().Recovered {
		t.Error("got recovered after a Close under writers")
	}
	for w, want := range acknowledged {
		got := len(collect(t, s.Prefix(fmt.Appendf(nil, "%d/", w))))
		if got != want {
			t.Errorf("writer %d: got %d keys, %d were acknowledged", w, got, want)
		}
	}
}

// Close leaves no timer behind.
func TestCloseStopsTheTimer(t *testing.T) {
	o := testOptions(NewMemFS())
	o.FlushInterval = time.Hour
	for _, write := range []bool{true, false} {
		s, err := Open("data", o)
		check(t, err)
		if write {
			put(t, s.Default(), "k", "v")
		}
		if got := s.syncTimer.Reset(time.Hour); got != write {
			t.Errorf("the timer after a write (%v): got armed %v", write, got)
		}
		check(t, s.Close())
		if s.syncTimer.Stop() {
			t.Errorf("after Close: the timer is armed")
		}
	}
}
