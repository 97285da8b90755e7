// Package metrics shows the statistics of a store to Prometheus.
package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nexi-lab/nexus-raft/storage"
)

// NewCollector returns the collector of a store's statistics, which reads them whenever it is
// asked, from any goroutine. Once the store is closed or dead, it collects nothing. The metrics
// don't name their store: with several, give each of them a label by
// prometheus.WrapRegistererWith.
func NewCollector(s *storage.Store) prometheus.Collector { return &collector{store: s} }

type collector struct{ store *storage.Store }

// metric is one number of the statistics.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*storage.Stats) int64
}

func counter(name, help string, value func(*storage.Stats) int64) metric {
	return metric{newDesc(name, help), prometheus.CounterValue, value}
}

func gauge(name, help string, value func(*storage.Stats) int64) metric {
	return metric{newDesc(name, help), prometheus.GaugeValue, value}
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nexus_raft_storage_"+name, help, labels, nil)
}

var metrics = []metric{
	gauge("recovered", "1 if the store was not closed in order before it was opened, else 0.", recovered),
	gauge("disk_bytes", "Size of the store's files.", func(s *storage.Stats) int64 { return s.DiskBytes }),

	counter("point_reads_total", "Keys looked up.", func(s *storage.Stats) int64 { return s.PointReads }),
	counter("scans_total", "Ranges read.", func(s *storage.Stats) int64 { return s.Scans }),
	gauge("cache_bytes", "Blocks in memory that were read from the disk.",
		func(s *storage.Stats) int64 { return s.CacheBytes }),
	counter("cache_hits_total", "Blocks that were found in the cache.",
		func(s *storage.Stats) int64 { return s.CacheHits }),
	counter("cache_misses_total", "Blocks that had to be read.", func(s *storage.Stats) int64 { return s.CacheMisses }),

	counter("commits_total", "Batches committed, single writes included.",
		func(s *storage.Stats) int64 { return s.Commits }),
	counter("writes_total", "Keys and ranges set and removed.", func(s *storage.Stats) int64 { return s.Writes }),
	counter("written_bytes_total", "Keys and values written by callers.",
		func(s *storage.Stats) int64 { return s.WrittenBytes }),
	counter("log_written_bytes_total", "Written to the disk as write-ahead log.",
		func(s *storage.Stats) int64 { return s.LogBytes }),
	counter("table_written_bytes_total", "Written to the disk as tables.",
		func(s *storage.Stats) int64 { return s.TableBytes }),

	gauge("memtable_bytes", "Memory tables, which are still to become tables on the disk.",
		func(s *storage.Stats) int64 { return s.MemTableBytes }),
	counter("flushes_total", "Flushes of memory tables.", func(s *storage.Stats) int64 { return s.Flushes }),
	counter("flush_written_bytes_total", "Tables written by flushes.",
		func(s *storage.Stats) int64 { return s.FlushedBytes }),
	counter("compactions_total", "Compactions.", func(s *storage.Stats) int64 { return s.Compactions }),
	counter("compaction_written_bytes_total", "Tables written by compactions.",
		func(s *storage.Stats) int64 { return s.CompactedBytes }),
	counter("compaction_read_bytes_total", "Tables read by compactions.",
		func(s *storage.Stats) int64 { return s.CompactionReadBytes }),
	gauge("compactions_running", "Compactions that are running.",
		func(s *storage.Stats) int64 { return s.CompactionsRunning }),
	gauge("compaction_debt_bytes", "Estimate of what is to be compacted.",
		func(s *storage.Stats) int64 { return s.CompactionDebt }),

	gauge("open_snapshots", "Snapshots that are open, those of transactions included.",
		func(s *storage.Stats) int64 { return s.OpenSnapshots }),
	gauge("open_iterators", "Iterators over tables that are open.",
		func(s *storage.Stats) int64 { return s.OpenIterators }),
}

func recovered(s *storage.Stats) int64 {
	if s.Recovered {
		return 1
	}
	return 0
}

// What is not one number.
var (
	levelTables = newDesc("level_tables", "Tables on the disk.", "level")
	levelBytes  = newDesc("level_bytes", "Size of the tables on the disk.", "level")
	syncSeconds = newDesc("sync_duration_seconds", "Syncs of the write-ahead log.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics {
		out <- m.desc
	}
	out <- levelTables
	out <- levelBytes
	out <- syncSeconds
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.store.Stats()
	if len(s.Levels) == 0 {
		return // closed, or dead
	}
	for _, m := range metrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value(&s)))
	}
	for i, l := range s.Levels {
		out <- prometheus.MustNewConstMetric(levelTables, prometheus.GaugeValue, float64(l.Tables), strconv.Itoa(i))
		out <- prometheus.MustNewConstMetric(levelBytes, prometheus.GaugeValue, float64(l.Bytes), strconv.Itoa(i))
	}
	out <- syncHistogram(&s)
}

// syncHistogram returns how many syncs took how long. Prometheus wants to know for each bound
// how many are below it, the last bucket's, which is all of them, excepted.
func syncHistogram(s *storage.Stats) prometheus.Metric {
	below := make(map[float64]uint64)
	var sum uint64
	for i, n := range s.SyncTimes[:storage.SyncTimeBuckets-1] {
		sum += uint64(n)
		below[storage.SyncTimeBound(i).Seconds()] = sum
	}
	return prometheus.MustNewConstHistogram(syncSeconds, uint64(s.Syncs), s.SyncTime.Seconds(), below)
}
