package storage

import (
	"math/rand/v2"
	"path"
	"sync/atomic"
	"time"
)

// Stats are facts about an open store. Counts begin when it is opened.
type Stats struct {
	// Recovered says that the store was not closed in order before it was opened: what was
	// not synced may have been lost.
	Recovered bool

	DiskBytes int64   // used by the store's files, those that wait to be removed included
	Levels    []Level // of the tables on the disk, the youngest first

	PointReads  int64 // keys looked up: Get, GetTo, Contains, and those of writes that read
	Scans       int64 // ranges read: all kinds of scans, First, Last, Less, Greater
	CacheBytes  int64 // of blocks in memory that were read from the disk
	CacheHits   int64 // blocks that were found there
	CacheMisses int64 // blocks that were read from the disk, or its cache

	Commits      int64 // batches, those of single writes included
	Writes       int64 // keys and ranges that were set and removed by them
	WrittenBytes int64 // of keys and values in them, with a few bytes for each

	Syncs       int64         // of the write-ahead log
	SyncTime    time.Duration // all of them together
	LongestSync time.Duration

	LogBytes      int64 // written to the disk as write-ahead log
	TableBytes    int64 // written to the disk as tables, by flushes and compactions
	MemTableBytes int64 // in memory, to become tables

	Flushes            int64
	Compactions        int64
	CompactionsRunning int64
	CompactionDebt     int64 // bytes that are to be compacted, estimated

	OpenSnapshots int64
	OpenIterators int64 // of the tables; a scan that is running has several
}

// Level is a sorted run of tables.
type Level struct {
	Tables int64
	Bytes  int64
}

// WriteAmplification returns how many bytes were written to the disk for each byte of
// WrittenBytes, the write-ahead log included; 0 if nothing was written yet. What is still in memory tables has yet to be
// written once more.
func (s Stats) WriteAmplification() float64 {
	if s.WrittenBytes == 0 {
		return 0
	}
	return float64(s.LogBytes+s.TableBytes) / float64(s.WrittenBytes)
}

// Stats returns the facts of this moment; of a store that is closed or dead, the zero value. It
// holds up nobody for long: it visits the list of tables, not the tables.
func (s *Store) Stats() Stats {
	if s.enter() != nil {
		return Stats{}
	}
	defer s.gate.exit()
	m := s.db.Metrics()
	out := Stats{
		Recovered:          s.recovered,
		DiskBytes:          int64(m.DiskSpaceUsage()),
		PointReads:         s.counts.pointReads.load(),
		Scans:              s.counts.scans.load(),
		CacheBytes:         m.BlockCache.Size,
		CacheHits:          m.BlockCache.Hits,
		CacheMisses:        m.BlockCache.Misses,
		Commits:            s.counts.commits.Load(),
		Writes:             s.counts.writes.Load(),
		WrittenBytes:       s.counts.bytes.Load(),
		Syncs:              s.fence.traffic.syncs.Load(),
		SyncTime:           time.Duration(s.fence.traffic.syncTime.Load()),
		LongestSync:        time.Duration(s.fence.traffic.longest.Load()),
		LogBytes:           s.fence.traffic.logBytes.Load(),
		TableBytes:         s.fence.traffic.tableBytes.Load(),
		MemTableBytes:      int64(m.MemTable.Size),
		Flushes:            m.Flush.Count,
		Compactions:        m.Compact.Count,
		CompactionsRunning: m.Compact.NumInProgress,
		CompactionDebt:     int64(m.Compact.EstimatedDebt),
		OpenSnapshots:      int64(m.Snapshots.Count),
		OpenIterators:      m.TableIters,
	}
	for _, l := range m.Levels {
		out.Levels = append(out.Levels, Level{Tables: l.TablesCount, Bytes: l.TablesSize})
	}
	return out
}

// counts are what the engine doesn't count.
type counts struct {
	pointReads, scans      counter
	commits, writes, bytes atomic.Int64
}

// counter is for what happens on all cores at once: they mostly count in different places.
type counter [16]struct {
	n atomic.Int64
	_ [56]byte // a cache line for each
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
	logBytes, tableBytes     atomic.Int64
	syncs, syncTime, longest atomic.Int64 // of the write-ahead log, times in nanoseconds
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
	t.syncs.Add(1)
	t.syncTime.Add(took)
	for old := t.longest.Load(); took > old && !t.longest.CompareAndSwap(old, took); {
		old = t.longest.Load()
	}
}
