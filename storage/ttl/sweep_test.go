package ttl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

func TestSweepRemovesWhatIsOver(t *testing.T) {
	tree, c := newTree(t)
	set(t, tree, "ab", "1", time.Second)
	set(t, tree, "ac", "2", time.Second)
	set(t, tree, "b", "3", time.Second)
	set(t, tree, "b", "4", time.Minute)
	check(t, tree.Delete([]byte("ac")))
	c.pass(time.Second - 1)
	if n := sweep(t, tree); n != 0 {
		t.Errorf("before the deadline: got %d pairs swept", n)
	}
	c.pass(1)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("got %d pairs swept, want 1: the others were renewed and deleted", n)
	}
	if pairs, entries := stored(t, tree); pairs != 1 || entries != 1 {
		t.Errorf("got %d pairs and %d entries on the disk, want 1 and 1", pairs, entries)
	}
	compare(t, tree, map[string]string{"b": "4"})
	c.pass(time.Minute)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("later: got %d pairs swept, want 1", n)
	}
	if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
		t.Errorf("got %d pairs and %d entries on the disk, want none", pairs, entries)
	}
}

// TestSweepInSteps sweeps more than a step takes, in number and in bytes, all of the same deadline.
func TestSweepInSteps(t *testing.T) {
	for _, c := range []struct{ count, keyBytes int }{{2*stepEntries + 1, 8}, {20, stepBytes / 16}, {stepEntries, 8}} {
		o, clock := quiet(storage.NewMemFS()), newClock()
		o.MemTableBytes = 8 << 20
		s, err := storage.Open("data", o)
		check(t, err)
		tree := mustOpen(t, s, clock.options())
		for i := range c.count {
			set(t, tree, fmt.Sprintf("%0*d", c.keyBytes, i), "", time.Second)
		}
		clock.pass(time.Second)
		due, next, err := tree.due(position(0), position(clock.nanos.Load()+1))
		check(t, err)
		if bytesOf := len(due) * c.keyBytes; len(due) > stepEntries || bytesOf > stepBytes+c.keyBytes ||
			(next == nil) != (len(due) == c.count) {
			t.Errorf("a step has %d entries, %d bytes, of %d", len(due), bytesOf, c.count)
		}
		if n := sweep(t, tree); n != c.count {
			t.Errorf("got %d pairs swept, want %d", n, c.count)
		}
		if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
			t.Errorf("got %d pairs and %d entries on the disk, want none", pairs, entries)
		}
		tree.Close()
		check(t, s.Close())
	}
}

// TestSweepGoesOn shows that a sweep begins where the last one has ended, that one which was
// broken off is continued, and that writes behind it are found.
func TestSweepGoesOn(t *testing.T) {
	tree, c := newTree(t)
	for i := range 10 {
		set(t, tree, fmt.Sprint(i), "", time.Second)
	}
	c.pass(time.Second)
	cancelled, cancel := context.WithCancel(t.Context())
	tree.o.Clock = func() time.Time { cancel(); return c.now() } // once it has begun
	if _, err := tree.Sweep(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
	tree.o.Clock = c.now
	if n := sweep(t, tree); n != 10 {
		t.Errorf("after one that was broken off: got %d pairs swept, want 10", n)
	}
	if got := tree.from.Load(); got != c.nanos.Load()+1 {
		t.Errorf("the next sweep begins at %d, want %d", got, c.nanos.Load()+1)
	}
	c.pass(-time.Hour) // what is set now will be over long before where the sweep has got to
	set(t, tree, "late", "", time.Second)
	c.pass(time.Hour)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("a late one: got %d pairs swept, want 1", n)
	}
	c.pass(-time.Hour)
	if found, _, err := tree.Update([]byte("later"), time.Second,
		func([]byte) ([]byte, error) { return []byte{}, nil }); found != nil || err != nil {
		t.Errorf("got %q, %v", found, err)
	}
	c.pass(time.Hour)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("a later one: got %d pairs swept, want 1", n)
	}
	c.pass(-time.Hour)
	set(t, tree, "back", "", time.Second)
	if n := sweep(t, tree); n != 0 {
		t.Errorf("the clock was set back: got %d pairs swept before their time", n)
	}
	c.pass(time.Second)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("the clock was set back: got %d pairs swept, want 1", n)
	}
}

// TestFailedSweepIsRepeated has a step fail: the next sweep begins where that one began.
func TestFailedSweepIsRepeated(t *testing.T) {
	tree, c := newTree(t)
	first := c.nanos.Load() + 1
	for i := range stepEntries + 1 {
		set(t, tree, fmt.Sprint(i), "", 1)
		c.pass(1)
	}
	check(t, tree.s.DropTree("t"))
	if n, err := tree.Sweep(t.Context()); err == nil || n != 0 {
		t.Errorf("got %d pairs swept, error %v", n, err)
	}
	if from := tree.from.Load(); from > first {
		t.Errorf("the next sweep begins %d after the first deadline", from-first)
	}
}

// TestSweepWaitsForItsTurn ends a Sweep that waits for another one.
func TestSweepWaitsForItsTurn(t *testing.T) {
	tree, _ := newTree(t)
	tree.sweeping <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := tree.Sweep(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want that of the context", err)
	}
	<-tree.sweeping
}

// TestRenewedIsNotSwept lets pairs expire and renews them while somebody sweeps.
func TestRenewedIsNotSwept(t *testing.T) {
	tree, c := newTree(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			_, err := tree.Sweep(t.Context())
			check(inBackground{t}, err)
		}
	})
	for n := range 3000 {
		set(t, tree, "k", "over", 1)
		if n%3 == 0 { // a renewal that meets the sweep of the same life
			_, err := tree.Touch([]byte("k"), 2, storage.NoSync)
			check(t, err)
			c.pass(1)
		}
		c.pass(1)
		if n%2 == 0 {
			set(t, tree, "k", fmt.Sprint(n), time.Minute)
		} else if _, ok, err := tree.CompareAndSwap([]byte("k"), nil, fmt.Append(nil, n), time.Minute); !ok || err != nil {
			t.Fatalf("swap: got %v, %v", ok, err)
		}
		if got := value(t, tree, "k"); got != fmt.Sprint(n) {
			t.Fatalf("round %d: got %q", n, got)
		}
		if ok, err := tree.Touch([]byte("k"), time.Minute, storage.NoSync); !ok || err != nil {
			t.Fatalf("round %d: touch: got %v, %v", n, ok, err)
		}
	}
	stop.Store(true)
	wg.Wait()
	checkEntries(t, tree)
	c.pass(time.Minute)
	sweep(t, tree)
	if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
		t.Errorf("got %d pairs and %d entries on the disk, want none", pairs, entries)
	}
}

// TestRenewedHasOneEntry: what is renewed all the time takes no more space than what is set once,
// and goes when it is renewed no more.
func TestRenewedHasOneEntry(t *testing.T) {
	tree, c := newTree(t)
	set(t, tree, "k", "v", time.Minute)
	for n := range 1000 {
		c.pass(time.Second)
		if ok, err := tree.Touch([]byte("k"), time.Minute, storage.NoSync); !ok || err != nil {
			t.Fatalf("touch: got %v, %v", ok, err)
		}
		if n%10 == 0 {
			sweep(t, tree)
			checkEntries(t, tree)
		}
		if _, entries := stored(t, tree); entries != 1 {
			t.Fatalf("after %d touches: %d entries, want 1", n+1, entries)
		}
	}
	if ok, err := tree.Touch([]byte("k"), time.Second, storage.NoSync); !ok || err != nil {
		t.Fatalf("touch: got %v, %v", ok, err)
	}
	c.pass(time.Second)
	if n := sweep(t, tree); n != 1 {
		t.Errorf("got %d pairs swept after a shorter time to live, want 1", n)
	}
	c.pass(time.Minute)
	sweep(t, tree)
	if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
		t.Errorf("got %d pairs and %d entries on the disk, want none", pairs, entries)
	}
}

// TestLateWritesAreSwept has writers who are late, as they read the clock long before their
// commits, and sweeps meanwhile: nothing is left over.
func TestLateWritesAreSwept(t *testing.T) {
	tree, c := newTree(t)
	var wg sync.WaitGroup
	var writers atomic.Int32
	for w := range 4 {
		writers.Add(1)
		wg.Go(func() {
			defer writers.Add(-1)
			for n := range 500 {
				set(inBackground{t}, tree, fmt.Sprint(w, n), "", 1)
				c.pass(1)
			}
		})
	}
	wg.Go(func() {
		for writers.Load() > 0 {
			_, err := tree.Sweep(t.Context())
			check(inBackground{t}, err)
		}
	})
	wg.Wait()
	c.pass(1)
	sweep(t, tree)
	if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
		t.Errorf("got %d pairs and %d entries on the disk, want none", pairs, entries)
	}
}

// TestBackground runs the sweeper on fake time.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStore(t, storage.NewMemFS())
		tree := mustOpen(t, s, nil)
		set(t, tree, "k", "v", 10*time.Second)
		time.Sleep(10*time.Second - 1)
		if pairs, _ := stored(t, tree); pairs != 1 || value(t, tree, "k") != "v" {
			t.Errorf("before the deadline: %d pairs, got %q", pairs, value(t, tree, "k"))
		}
		time.Sleep(defaultSweepInterval + 1)
		synctest.Wait()
		if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
			t.Errorf("after the interval: got %d pairs and %d entries on the disk", pairs, entries)
		}
		tree.Close()
		set(t, mustOpen(t, s, nil), "k", "v", time.Second) // not closed: the store's end ends it
		check(t, s.Close())
	})
}

// TestBackgroundTellsOnce has the sweeper fail for a while.
func TestBackgroundTellsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStore(t, storage.NewMemFS())
		var log bytes.Buffer
		tree := mustOpen(t, s, &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		time.Sleep(2 * time.Second)
		check(t, s.DropTree("t"+deadlines))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		tree.Close()
		if n := strings.Count(log.String(), "sweep failed"); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, &log)
		}
		check(t, s.Close())
	})
}

// TestSweepOnAFullDisk: pairs that were renewed don't keep those whose time is over on a full disk.
func TestSweepOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := storage.NewMemFS()
		o := quiet(fs)
		o.DiskReserve = 1 << 20
		fs.SetDiskFree(1 << 30)
		s, err := storage.Open("data", o)
		check(t, err)
		defer func() { check(t, s.Close()) }()
		c := newClock()
		tree := mustOpen(t, s, c.options())
		defer tree.Close()
		const old = 2 * stepEntries
		for i := range old {
			set(t, tree, fmt.Sprintf("old%d", i), "v", 2*time.Second)
		}
		set(t, tree, "renewed", "v", time.Second)
		_, err = tree.Touch([]byte("renewed"), time.Hour, storage.NoSync)
		check(t, err)
		fs.SetDiskFree(0)
		time.Sleep(time.Second) // until the store looks at the disk again
		want(t, s.Room(), nexusraft.ErrDiskFull)
		c.pass(time.Minute)
		if n := sweep(t, tree); n != old || value(t, tree, "renewed") != "v" {
			t.Errorf("removed %d pairs, want %d; renewed is %q", n, old, value(t, tree, "renewed"))
		}
	})
}
