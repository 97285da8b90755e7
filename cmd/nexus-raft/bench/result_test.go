package bench

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
)

func exampleResult() *Result {
	return &Result{
		Op: Put, Endpoints: []string{"127.0.0.1:2026", "127.0.0.1:2036"}, Absent: []string{"127.0.0.1:2046: <silent>"},
		Clients: 16, ValueSize: 256, KeySpace: 10000, Seconds: 4.52, Interrupted: true,
		Operations: 9000, PerSecond: 1991.15, Failed: 30, Uncertain: 20, Unfinished: 16,
		Errors:  map[string]int64{"Unknown": 20, "ResourceExhausted": 10},
		Latency: Latency{Mean: 7912.4, P50: 7001, P95: 14250, P99: 20991, Max: 33343},
		Histogram: []Bucket{
			{3000, 5000, 1000}, {5000, 7000, 4000}, {7000, 10000, 3990}, {10000, 15000, 0}, {15000, 20000, 9}, {20000, 30000, 1},
		},
		Throughput: []Slot{{1, 2000, 0}, {2, 1900, 30}, {3, 2100, 0}},
		first:      map[string]string{"Unknown": "outcome unknown", "ResourceExhausted": "too <many>"},
	}
}

func TestReport(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "report.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := exampleResult().Print(&got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
}

func TestPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.html")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := NewPage(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("before the run: got %q, %v; want it as it was", b, err)
	}
	if err := p.Write(exampleResult()); err != nil {
		t.Fatal(err)
	}
	p.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	for _, want := range []string{
		"<h1>put: 1991 per second</h1>", "Interrupted", "127.0.0.1:2046: &lt;silent&gt;", "too &lt;many&gt;",
		"<td>7.912</td><td>7.001</td><td>14.250</td><td>20.991</td><td>33.343</td>", "Operations by latency", "Throughput",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if n := strings.Count(got, "<svg"); n != 2 {
		t.Errorf("got %d charts, want 2", n)
	}
	// names, not addresses
	got = strings.NewReplacer(`="http://www.w3.org/2000/svg"`, "", `="http://www.w3.org/1999/xlink"`, "").Replace(got)
	if outside := regexp.MustCompile(`(?i)https?:|//|src=|href=|url\(|@import|<script|<link`).FindAllString(got,
		-1); outside != nil {
		t.Errorf("the page refers to what is outside of it: %q", outside)
	}
	onlyFile(t, path)
}

func TestPageThatIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bench.html")
	p, err := NewPage(path)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v; want nothing left", left, err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "missing", "bench.html")} {
		if p, err := NewPage(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, %v; want an error that names it", path, p, err)
		}
	}
}

// onlyFile fails if there is anything beside a file.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	all, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(all) != 1 || all[0].Name() != filepath.Base(path) {
		t.Errorf("got %v, %v; want %s alone", all, err, path)
	}
}

func TestBuckets(t *testing.T) {
	h := hdrhistogram.New(1, longest.Microseconds(), digits)
	for _, us := range []int64{1, 1499, 1500, 1999, 2000, 9_999_999} {
		if err := h.RecordValue(us); err != nil {
			t.Fatal(err)
		}
	}
	var got []Bucket
	for _, b := range buckets(h) {
		if b.Count > 0 {
			got = append(got, b)
		}
	}
	want := []Bucket{{1, 2, 1}, {1000, 1500, 1}, {1500, 2000, 2}, {2000, 3000, 1}, {7_000_000, 10_000_000, 1}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("buckets (-want +got):\n%s", d)
	}
}

func TestRecorderTakesWhatIsOutOfRange(t *testing.T) {
	r := newRecorder(time.Second)
	r.begin()
	r.success(0)
	r.success(time.Hour)
	got := r.result(Config{}, false)
	if got.Operations != 2 || got.Latency.Max < longest.Microseconds() || got.Histogram[0].Count != 1 {
		t.Errorf("got %+v, want both counted", got)
	}
}
