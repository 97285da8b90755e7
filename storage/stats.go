package storage

import (
	"math/bits"
	"math/rand/v2"
	"path"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Stats are facts about an open store. Counts and times begin with zero when it is opened, and
// what opening it took is among them; bytes in memory and on the disk, and what is open or
// running, are of the moment.
type Stats struct {
	// Recovered says that the store was not closed in order before it was opened: by a crash,
	// say, and what was not synced may be lost. A copy of a store that was open when it was
	// made has not been closed in order, either.
	Recovered bool

	DiskBytes int64   // used by the store's files, those that wait to be removed included
	Levels    []Level // of the tables on the disk, the youngest first

	PointReads  int64 // keys looked up: Get, GetTo, Contains, and by writes that read
	Scans       int64 // ranges read: all kinds of scans, First, Last, Less, Greater, pops
	CacheBytes  int64 // of blocks in memory, at most about Options.CacheBytes
	CacheHits   int64 // blocks that were found there
	CacheMisses int64 // blocks that were not, and had to be read

	Commits      int64 // batches, those of single writes included, empty ones not
	Writes       int64 // keys and ranges that they set and removed
	WrittenBytes int64 // of the keys and values in them

	Syncs       int64                  // of the write-ahead log; many commits may share one
	SyncTime    time.Duration          // of all of them
	LongestSync time.Duration          // of the slowest one
	SyncTimes   [SyncTimeBuckets]int64 // how many took how long, see SyncTimeBound

	LogBytes   int64 // written to the disk as write-ahead log
	TableBytes int64 // written to the disk as tables, and lists of them

	MemTableBytes int64 // in memory, to become tables

	Flushes             int64 // of memory tables, which become tables
	FlushedBytes        int64 // written by them
	Compactions         int64 // which make other tables of tables
	CompactedBytes      int64 // written by them
	CompactionReadBytes int64 // read for them, those from the cache included
	CompactionsRunning  int64
	CompactionDebt      int64 // bytes that are to be compacted, estimated

	OpenSnapshots int64 // those of transactions included
	OpenIterators int64 // of tables: a scan that is running has one for each that it is in
}

// Level is one of the levels that tables move down with age. A key is in one table of a level at
// most; in the first level, in several.
type Level struct {
	Tables int64
	Bytes  int64
}

// SyncTimeBuckets is the length of Stats.SyncTimes.
const SyncTimeBuckets = 16

// shortestSync is the first of the bounds of Stats.SyncTimes.
const shortestSync = 125 * time.Microsecond

// SyncTimeBound returns the time below which the syncs in Stats.SyncTimes[i] were; they are not
// below the bound of i-1. The first is 125 µs, each of the others is twice the one before, and
// the last one, of i = SyncTimeBuckets-1, is none: it is not to be asked for.
func SyncTimeBound(i int) time.Duration { return shortestSync << i }

// WriteAmplification returns how many bytes were written to the disk, the write-ahead log
// included, for each byte of WrittenBytes; 0 if nothing was written. What is still in
// memory tables has yet to be written once more.
func (s Stats) WriteAmplification() float64 {
	if s.WrittenBytes == 0 {
		return 0
	}
	return float64(s.LogBytes+s.TableBytes) / float64(s.WrittenBytes)
}

// Stats returns the facts of this moment; of a store that is closed or dead, the zero value. It
// holds up writers for the moment that it takes to add up the levels, whatever they hold.
func (s *Store) Stats() Stats {
	if s.enter() != nil {
		return Stats{}
	}
	defer s.calls.exit()
	out := Stats{Recovered: s.recovered}
	out.addEngine(s.db.Metrics())
	s.counts.addTo(&out)
	s.failstop.traffic.addTo(&out)
	return out
}

// addEngine adds what the engine knows.
func (s *Stats) addEngine(m *pebble.Metrics) {
	s.DiskBytes = int64(m.DiskSpaceUsage())
	s.CacheBytes, s.CacheHits, s.CacheMisses = m.BlockCache.Size, m.BlockCache.Hits, m.BlockCache.Misses
	s.MemTableBytes = int64(m.MemTable.Size)
	s.Flushes = m.Flush.Count
	s.Compactions = m.Compact.Count
	s.CompactionsRunning = m.Compact.NumInProgress
	s.CompactionDebt = int64(m.Compact.EstimatedDebt)
	s.OpenSnapshots = int64(m.Snapshots.Count)
	s.OpenIterators = m.TableIters
	for i := range m.Levels {
		l := &m.Levels[i]
		s.Levels = append(s.Levels, Level{Tables: l.TablesCount, Bytes: l.AggregateSize()})
		s.FlushedBytes += int64(l.TableBytesFlushed + l.BlobBytesFlushed)
		s.CompactedBytes += int64(l.TableBytesCompacted + l.BlobBytesCompacted)
		s.CompactionReadBytes += int64(l.TableBytesRead + l.BlobBytesReadEstimate)
	}
}

// counts are what callers do, which the engine doesn't count.
type counts struct {
	pointReads, scans      counter
	commits, writes, bytes atomic.Int64
}

// wrote notes a batch that was committed.
func (c *counts) wrote(writes, bytes int) {
	if writes > 0 {
		c.commits.Add(1)
		c.writes.Add(int64(writes))
		c.bytes.Add(int64(bytes))
	}
}

func (c *counts) addTo(s *Stats) {
	s.PointReads, s.Scans = c.pointReads.load(), c.scans.load()
	s.Commits, s.Writes, s.WrittenBytes = c.commits.Load(), c.writes.Load(), c.bytes.Load()
}

// counter is for what all cores do at once. They would wait for each other to change one
// number; of several, in cache lines of their own, they mostly find different ones.
type counter [16]struct {
	n atomic.Int64
	_ [56]byte
}

func (c *counter) add() { c[rand.Uint32()%uint32(len(c))].n.Add(1) }

func (c *counter) load() (sum int64) {
	for i := range c {
		sum += c[i].n.Load()
	}
	return sum
}

// traffic is what went to the disk.
type traffic struct {
	logBytes, tableBytes atomic.Int64
	syncTime, longest    atomic.Int64 // of the write-ahead log's syncs, in nanoseconds
	syncTimes            [SyncTimeBuckets]atomic.Int64
}

// isLog reports whether a file is a part of the write-ahead log.
func isLog(name string) bool { return path.Ext(name) == ".log" }

// wrote notes n bytes in a file.
func (t *traffic) wrote(name string, n int) {
	if isLog(name) {
		t.logBytes.Add(int64(n))
	} else {
		t.tableBytes.Add(int64(n))
	}
}

// synced notes a sync of a file that began at a time.
func (t *traffic) synced(name string, began time.Time) {
	if !isLog(name) {
		return
	}
	took := int64(time.Since(began))
	t.syncTimes[syncTimeBucket(time.Duration(took))].Add(1)
	t.syncTime.Add(took)
	for old := t.longest.Load(); took > old && !t.longest.CompareAndSwap(old, took); {
		old = t.longest.Load()
	}
}

// syncTimeBucket returns where in Stats.SyncTimes a sync is counted.
func syncTimeBucket(took time.Duration) int {
	return min(bits.Len64(uint64(took/shortestSync)), SyncTimeBuckets-1)
}

func (t *traffic) addTo(s *Stats) {
	s.LogBytes, s.TableBytes = t.logBytes.Load(), t.tableBytes.Load()
	s.SyncTime, s.LongestSync = time.Duration(t.syncTime.Load()), time.Duration(t.longest.Load())
	for i := range t.syncTimes {
		s.SyncTimes[i] = t.syncTimes[i].Load()
		s.Syncs += s.SyncTimes[i]
	}
}
