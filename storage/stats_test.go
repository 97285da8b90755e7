package storage

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Each call counts as what it is.
func TestStatsCountCalls(t *testing.T) {
	s := newStore(t)
	other := mustTree(t, s, "other")
	key, long := []byte("key"), []byte("a longer value")
	check(t, s.Set(key, []byte("value")))
	type counted struct{ PointReads, Scans, Commits, Writes, WrittenBytes int64 }
	for what, c := range map[string]struct {
		call func() error
		want counted
	}{
		"Set":    {func() error { return s.Set(key, long) }, counted{Commits: 1, Writes: 1, WrittenBytes: 17}},
		"Delete": {func() error { return other.Delete(key) }, counted{Commits: 1, Writes: 1, WrittenBytes: 3}},
		"Clear":  {func() error { return other.Clear() }, counted{Commits: 1, Writes: 1}},
		"Flush":  {s.Flush, counted{}},
		"a batch": {func() error { return statsBatch(s, other) }, counted{
			Commits: 1, Writes: 4,
			WrittenBytes: 2 + 1 + 1 + 2,
		}},
		"a batch that was reset": {func() error {
			b := s.NewBatch()
			defer b.Close()
			check(t, b.Set(other, long, long))
			b.Reset()
			check(t, b.Set(other, key, nil))
			return b.Commit(false)
		}, counted{Commits: 1, Writes: 1, WrittenBytes: 3}},
		"Get":      {func() error { _, _, err := s.Get(key); return err }, counted{PointReads: 1}},
		"Contains": {func() error { _, err := other.Contains(key); return err }, counted{PointReads: 1}},
		"First":    {func() error { _, _, err := s.First(); return err }, counted{Scans: 1}},
		"Scan":     {func() error { return lastError(s.Scan(nil, nil)) }, counted{Scans: 1}},
		"Swap": {
			func() error { _, err := s.Swap(key, nil); return err },
			counted{PointReads: 1, Commits: 1, Writes: 1, WrittenBytes: 3},
		},
		"PopFirst": {func() error { _, _, err := s.PopFirst(); return err }, counted{Scans: 1}},
		"Transact": {func() error {
			return s.Transact(t.Context(), func(tx *Tx) error { return tx.Tree(other).Set(key, key) })
		}, counted{Commits: 1, Writes: 1, WrittenBytes: 6}},
		"a snapshot's Get": {func() error {
			x := s.NewSnapshot()
			defer x.Close()
			_, _, err := x.Reader(other).Get(key)
			return err
		}, counted{PointReads: 1}},
		"what is refused": {func() error {
			if err := s.Set(make([]byte, MaxKeyBytes+1), nil); !errors.Is(err, nexusraft.ErrTooLarge) {
				return err
			}
			return nil
		}, counted{}},
	} {
		check(t, s.Clear())
		before := s.Stats()
		check(t, c.call())
		after := s.Stats()
		got := counted{
			after.PointReads - before.PointReads, after.Scans - before.Scans, after.Commits - before.Commits,
			after.Writes - before.Writes, after.WrittenBytes - before.WrittenBytes,
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", what, diff)
		}
	}
}

func statsBatch(s *Store, tree *Tree) error {
	b := s.NewBatch()
	defer b.Close()
	return errors.Join(b.Set(tree, []byte("k"), []byte("v")), b.Set(tree, []byte("l"), nil), b.Delete(tree, []byte("m")),
		b.DeleteRange(tree, []byte("a"), []byte("b")), b.Commit(true))
}

// All who count at once are counted.
func TestStatsCountAllCores(t *testing.T) {
	s := newStore(t)
	before := s.Stats().PointReads
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if _, err := s.Contains(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Stats().PointReads - before; got != 8000 {
		t.Errorf("got %d point reads, want 8000", got)
	}
}

// What goes to the disk is counted where it goes: as log first, as tables later.
func TestStatsFollowTheData(t *testing.T) {
	f := NewMemFS()
	o := testOptions(f)
	o.MemTableBytes, o.CacheBytes, o.Compression = 4<<20, 8<<20, CompressionNone
	s, err := Open("data", o)
	check(t, err)
	const pairs, size = 200, 5 << 10
	write := func() {
		for n := range pairs {
			check(t, s.Set(numberedKey(n), make([]byte, size), NoSync))
		}
		check(t, s.Flush())
	}
	start := s.Stats()
	write()
	logged := s.Stats()
	const bytes = pairs * (size + 6)
	if got := logged.WrittenBytes - start.WrittenBytes; got != bytes {
		t.Errorf("got %d bytes written, want %d", got, bytes)
	}
	wantAbout(t, "LogBytes", logged.LogBytes-start.LogBytes, bytes)
	wantAbout(t, "TableBytes before a flush", logged.TableBytes-start.TableBytes, 0)
	if logged.MemTableBytes < bytes || logged.Flushes != start.Flushes {
		t.Errorf("before a flush: got %+v", logged)
	}

	check(t, s.db.Flush())
	flushed := s.Stats()
	wantAbout(t, "FlushedBytes", flushed.FlushedBytes-logged.FlushedBytes, bytes)
	wantAbout(t, "TableBytes", flushed.TableBytes-logged.TableBytes, bytes)
	wantAbout(t, "the tables", total(flushed)-total(logged), bytes)
	if flushed.Flushes != logged.Flushes+1 || flushed.Levels[0].Tables == 0 || len(flushed.Levels) != 7 {
		t.Errorf("after a flush: got %+v", flushed)
	}
	got := float64(flushed.LogBytes+flushed.TableBytes) / float64(flushed.WrittenBytes)
	if flushed.WriteAmplification() != got || got < 1.9 || got > 2.2 {
		t.Errorf("WriteAmplification: got %v, want %v, which is about 2", flushed.WriteAmplification(), got)
	}

	write()
	check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	compacted := s.Stats()
	wantAbout(t, "CompactedBytes", compacted.CompactedBytes-flushed.CompactedBytes, bytes)
	wantAbout(t, "CompactionReadBytes", compacted.CompactionReadBytes-flushed.CompactionReadBytes, 2*bytes)
	wantAbout(t, "the tables", total(compacted), bytes)
	if compacted.Compactions == 0 || compacted.CompactionsRunning != 0 || compacted.CompactionDebt != 0 {
		t.Errorf("after a compaction: got %+v", compacted)
	}
	if now := s.DiskBytes(); now > compacted.DiskBytes || now < total(compacted) { // what is obsolete goes
		t.Errorf("got %d bytes on the disk, DiskBytes says %d", compacted.DiskBytes, s.DiskBytes())
	}
	check(t, s.Close())
}

// wantAbout allows for what the engine adds to each pair and each file.
func wantAbout(t *testing.T, what string, got, want int64) {
	t.Helper()
	if got < want || got > want+want/20+16<<10 {
		t.Errorf("%s: got %d bytes, want a little more than %d", what, got, want)
	}
}

func TestStatsOfTheCache(t *testing.T) {
	f := NewMemFS()
	s := mustOpen(t, f)
	for n := range 10 { // in a block each
		check(t, s.Set(numberedKey(n), make([]byte, 32<<10)))
	}
	check(t, s.db.Flush())
	check(t, s.Close())
	s = mustOpen(t, f)
	defer func() { check(t, s.Close()) }()
	get := func() (before, after Stats) {
		before = s.Stats()
		_, _, err := s.Get(numberedKey(7))
		check(t, err)
		return before, s.Stats()
	}
	if before, after := get(); after.CacheMisses == before.CacheMisses || after.CacheBytes == 0 {
		t.Errorf("the first read: got %d misses, %d bytes", after.CacheMisses-before.CacheMisses, after.CacheBytes)
	}
	if before, after := get(); after.CacheMisses != before.CacheMisses || after.CacheHits == before.CacheHits {
		t.Errorf("the second read: got %d misses, %d hits", after.CacheMisses-before.CacheMisses,
			after.CacheHits-before.CacheHits)
	}
}

func TestStatsOfWhatIsOpen(t *testing.T) {
	s := newStore(t)
	for n := range 3 {
		check(t, s.Set(numberedKey(n), nil))
	}
	check(t, s.db.Flush())
	x, tx := s.NewSnapshot(), s.Begin()
	for _, err := range s.Scan(nil, nil) {
		check(t, err)
		if got := s.Stats(); got.OpenSnapshots != 2 || got.OpenIterators != 1 {
			t.Errorf("got %d snapshots, %d iterators, want 2 and 1", got.OpenSnapshots, got.OpenIterators)
		}
		break
	}
	x.Close()
	tx.Close()
	if got := s.Stats(); got.OpenSnapshots != 0 || got.OpenIterators != 0 {
		t.Errorf("closed: got %d snapshots, %d iterators", got.OpenSnapshots, got.OpenIterators)
	}
}

// Syncs of the log are counted and timed, and nothing else is.
func TestStatsOfSyncs(t *testing.T) {
	const slow = 6 * time.Millisecond
	var delay atomic.Bool
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if delay.Load() && strings.HasSuffix(op.Path, ".log") &&
			(op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			time.Sleep(slow) // it is the disk that is slow
		}
		return nil
	})))
	defer func() { check(t, s.Close()) }()
	before := s.Stats()
	delay.Store(true)
	for range 3 {
		check(t, s.Set([]byte("k"), nil))
		check(t, s.Set([]byte("k"), nil, NoSync))
	}
	delay.Store(false)
	after := s.Stats()
	if got := after.Syncs - before.Syncs; got != 3 {
		t.Errorf("got %d syncs, want 3", got)
	}
	if took := after.SyncTime - before.SyncTime; took < 3*slow || after.LongestSync < slow || after.LongestSync > took {
		t.Errorf("got %v for 3 syncs, the longest %v, want at least %v each", took, after.LongestSync, slow)
	}
	for i, n := range after.SyncTimes {
		if n != before.SyncTimes[i] && i < SyncTimeBuckets-1 && SyncTimeBound(i) <= slow {
			t.Errorf("got %d syncs below %v", n-before.SyncTimes[i], SyncTimeBound(i))
		}
	}
	check(t, s.db.Flush()) // syncs tables, and a new log's directory
	if got := s.Stats().Syncs - after.Syncs; got > 2 {
		t.Errorf("a flush: got %d syncs of the log", got)
	}
}

func TestSyncTimeBuckets(t *testing.T) {
	for _, took := range []time.Duration{
		0, 1, shortestSync - 1, shortestSync, 2*shortestSync - 1, 2 * shortestSync,
		time.Millisecond, 100 * time.Millisecond, time.Second, 2048*time.Millisecond - 1, 2048 * time.Millisecond,
		time.Hour,
	} {
		i := syncTimeBucket(took)
		if i > 0 && took < SyncTimeBound(i-1) || i < SyncTimeBuckets-1 && took >= SyncTimeBound(i) {
			t.Errorf("%v: got bucket %d, which is not its", took, i)
		}
	}
	if SyncTimeBound(0) != 125*time.Microsecond || SyncTimeBound(SyncTimeBuckets-2) != 2048*time.Millisecond {
		t.Errorf("got bounds from %v to %v", SyncTimeBound(0), SyncTimeBound(SyncTimeBuckets-2))
	}
}

// Stats may be asked for at any time, by anyone, and holds up nobody.
func TestStatsMeanwhile(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	var wg sync.WaitGroup
	var asked atomic.Int64
	closed := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				got := s.Stats()
				asked.Add(1)
				select {
				case <-closed:
					if diff := cmp.Diff(Stats{}, s.Stats()); diff != "" {
						t.Errorf("of a closed store: got\n%s", diff)
					}
					return
				default:
				}
				if got.WrittenBytes < got.Writes {
					t.Errorf("got %d bytes of %d writes", got.WrittenBytes, got.Writes)
				}
			}
		})
	}
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for n := 0; n < 300 || asked.Load() < 10; n++ {
				if err := s.Set(fmt.Appendf(nil, "%d %d", w, n), make([]byte, 1000), NoSync); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	check(t, s.Close())
	close(closed)
	wg.Wait()
}

func TestStatsOfADeadStore(t *testing.T) {
	s := newStore(t)
	cause := errors.New("out of luck")
	s.failstop.stop(cause)
	if diff := cmp.Diff(Stats{}, s.Stats()); diff != "" {
		t.Errorf("got\n%s", diff)
	}
	s.failstop.died.Store(nil) // it is not dead in truth
}

func TestWriteAmplificationOfNothing(t *testing.T) {
	if got := (Stats{LogBytes: 5}).WriteAmplification(); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}

// BenchmarkStats is what one look costs, beside writers that it must not hold up.
func BenchmarkStats(b *testing.B) {
	s := mustOpen(b, NewMemFS())
	defer func() { check(b, s.Close()) }()
	for b.Loop() {
		s.Stats()
	}
}
