package metrics

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/nexi-lab/nexus-raft/storage"
)

func newStore(t *testing.T) *storage.Store {
	t.Helper()
	s, err := storage.OpenTemporary(nil)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("got error %v", err)
	}
}

// gather returns what the collector says, by name and label.
func gather(t *testing.T, c prometheus.Collector) map[string]*dto.Metric {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	check(t, r.Register(c))
	families, err := r.Gather()
	check(t, err)
	out := make(map[string]*dto.Metric)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			out[name] = m
		}
	}
	return out
}

func number(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func TestNames(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector(newStore(t)))
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	got := gather(t, NewCollector(newStore(t)))
	if want := len(metrics) + 7 + 7 + 1; len(got) != want {
		t.Errorf("got %d metrics, want %d: %v", len(got), want, slices.Sorted(maps.Keys(got)))
	}
	for name := range got {
		if !strings.HasPrefix(name, "nexus_raft_storage_") {
			t.Errorf("got %s, which does not say whose it is", name)
		}
	}
}

// Each metric is the field that it claims to be: all have other values here.
func TestValues(t *testing.T) {
	s := storage.Stats{
		Recovered: true, DiskBytes: 2, PointReads: 3, Scans: 4, CacheBytes: 5, CacheHits: 6, CacheMisses: 7,
		Commits: 8, Writes: 9, WrittenBytes: 10, LogBytes: 11, TableBytes: 12, MemTableBytes: 13, Flushes: 14,
		FlushedBytes: 15, Compactions: 16, CompactedBytes: 17, CompactionReadBytes: 18, CompactionsRunning: 19,
		CompactionDebt: 20, OpenSnapshots: 21, OpenIterators: 22,
	}
	got := make(map[string]int64)
	for _, m := range metrics {
		name := strings.Split(m.desc.String(), `"`)[1]
		got[strings.TrimPrefix(name, "nexus_raft_storage_")] = m.value(&s)
	}
	want := map[string]int64{
		"recovered": 1, "disk_bytes": 2, "point_reads_total": 3, "scans_total": 4, "cache_bytes": 5,
		"cache_hits_total": 6, "cache_misses_total": 7, "commits_total": 8, "writes_total": 9,
		"written_bytes_total": 10, "log_written_bytes_total": 11, "table_written_bytes_total": 12,
		"memtable_bytes": 13, "flushes_total": 14, "flush_written_bytes_total": 15, "compactions_total": 16,
		"compaction_written_bytes_total": 17, "compaction_read_bytes_total": 18, "compactions_running": 19,
		"compaction_debt_bytes": 20, "open_snapshots": 21, "open_iterators": 22,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if v := recovered(&storage.Stats{}); v != 0 {
		t.Errorf("recovered of a store that was closed in order: got %d", v)
	}
}

func TestSyncHistogram(t *testing.T) {
	var m dto.Metric
	s := storage.Stats{Syncs: 7, SyncTime: 3e9, SyncTimes: [storage.SyncTimeBuckets]int64{0: 1, 1: 2, 15: 4}}
	check(t, syncHistogram(&s).Write(&m))
	h := m.GetHistogram()
	if h.GetSampleCount() != 7 || h.GetSampleSum() != 3 || len(h.GetBucket()) != storage.SyncTimeBuckets-1 {
		t.Errorf("got %v", h)
	}
	for i, want := range map[int]struct {
		bound float64
		below uint64
	}{0: {125e-6, 1}, 1: {250e-6, 3}, 14: {2.048, 3}} {
		if b := h.GetBucket()[i]; b.GetUpperBound() != want.bound || b.GetCumulativeCount() != want.below {
			t.Errorf("bucket %d: got %v, want %v", i, b, want)
		}
	}
}

// What the store does is seen by the next who gathers.
func TestMoves(t *testing.T) {
	s := newStore(t)
	c := NewCollector(s)
	before := gather(t, c)
	check(t, s.Set([]byte("key"), []byte("value")))
	if _, _, err := s.Get([]byte("key")); err != nil {
		t.Fatal(err)
	}
	after := gather(t, c)
	for name, want := range map[string]float64{
		"writes_total": 1, "commits_total": 1, "point_reads_total": 1,
		"written_bytes_total": 8, "recovered": 0,
	} {
		name = "nexus_raft_storage_" + name
		if got := number(after[name]) - number(before[name]); got != want {
			t.Errorf("%s: got %v more, want %v", name, got, want)
		}
	}
	const syncs = "nexus_raft_storage_sync_duration_seconds"
	if got, was := after[syncs].GetHistogram(),
		before[syncs].GetHistogram(); got.GetSampleCount() <= was.GetSampleCount() ||
		got.GetSampleSum() <= was.GetSampleSum() {
		t.Errorf("syncs: got %v, before %v", got, was)
	}
}

func TestClosedStore(t *testing.T) {
	s, err := storage.OpenTemporary(nil)
	check(t, err)
	c := NewCollector(s)
	check(t, s.Close())
	if got := gather(t, c); len(got) != 0 {
		t.Errorf("got %v of a closed store", got)
	}
}

// Two stores have one registry, with a label for each.
func TestTwoStores(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	for _, name := range []string{"a", "b"} {
		check(t, prometheus.WrapRegistererWith(prometheus.Labels{"store": name}, r).Register(NewCollector(newStore(t))))
	}
	got, err := testutil.GatherAndCount(r, "nexus_raft_storage_writes_total")
	check(t, err)
	if got != 2 {
		t.Errorf("got %d metrics, want one of each store", got)
	}
}
