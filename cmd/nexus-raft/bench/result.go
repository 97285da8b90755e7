package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what was measured.
type Result struct {
	Op          Op       `json:"op"`
	Endpoints   []string `json:"endpoints"`
	Absent      []string `json:"absent,omitempty"` // endpoints that did not answer at the start, and why
	Clients     int      `json:"clients"`
	ValueSize   int      `json:"value_size"`
	KeySpace    int      `json:"key_space"`
	Seconds     float64  `json:"seconds"` // until the last answer
	Interrupted bool     `json:"interrupted,omitempty"`

	Operations int64            `json:"operations"` // that succeeded
	PerSecond  float64          `json:"ops_per_second"`
	Failed     int64            `json:"failed"`
	Errors     map[string]int64 `json:"errors,omitempty"`     // failed ones, by gRPC code
	Uncertain  int64            `json:"uncertain,omitempty"`  // failed puts that may have happened all the same
	Unfinished int64            `json:"unfinished,omitempty"` // called off by the interruption

	Latency    Latency  `json:"latency_us"`
	Histogram  []Bucket `json:"histogram"`
	Throughput []Slot   `json:"throughput"`

	first map[string]string // the first text of each code
}

// Latency is that of the operations that succeeded, in microseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  int64   `json:"p50"`
	P95  int64   `json:"p95"`
	P99  int64   `json:"p99"`
	Max  int64   `json:"max"`
}

// Bucket counts the operations with From <= latency < To, in microseconds.
type Bucket struct {
	From  int64 `json:"from_us"`
	To    int64 `json:"to_us"`
	Count int64 `json:"count"`
}

// Slot is the throughput in a piece of the run, per second.
type Slot struct {
	At     float64 `json:"at_s"` // its end, since the beginning
	OK     float64 `json:"ops_per_second"`
	Failed float64 `json:"errors_per_second"`
}

// result is called when all clients have ended.
func (r *recorder) result(c Config, interrupted bool) *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	seconds := max(r.lastDone, time.Millisecond).Seconds()
	out := &Result{
		Op: c.Op, Endpoints: c.Endpoints, Clients: c.Clients, ValueSize: c.ValueSize, KeySpace: c.KeySpace,
		Seconds: seconds, Interrupted: interrupted,
		Operations: r.sum.ok, PerSecond: float64(r.sum.ok) / seconds,
		Failed: r.sum.failed, Errors: r.errors, Uncertain: r.sum.uncertain, Unfinished: r.sum.unfinished,
		first: r.first,
	}
	if h := r.latency; r.sum.ok > 0 {
		p := h.ValueAtPercentilesSlice([]float64{50, 95, 99})
		out.Latency = Latency{Mean: h.Mean(), P50: p[0], P95: p[1], P99: p[2], Max: h.Max()}
		out.Histogram = buckets(h)
	}
	for i, s := range r.slots {
		end := min(time.Duration(i+1)*r.slot, r.lastDone)
		width := max(end-time.Duration(i)*r.slot, time.Millisecond).Seconds()
		out.Throughput = append(out.Throughput, Slot{end.Seconds(), float64(s.ok) / width, float64(s.failed) / width})
	}
	if n := len(out.Throughput); n > 1 && r.lastDone%r.slot < r.slot/2 {
		out.Throughput = out.Throughput[:n-1] // too short to say anything
	}
	return out
}

// steps are the bounds of buckets within a power of ten.
var steps = []int64{10, 15, 20, 30, 50, 70}

// buckets sorts a histogram into few, each about half again as wide as the one before,
// from the first that holds anything to the last.
func buckets(h *hdrhistogram.Histogram) []Bucket {
	bounds := []int64{0, 1}
	for scale := int64(1); bounds[len(bounds)-1] <= longest.Microseconds(); scale *= 10 {
		for _, s := range steps {
			if b := s * scale / 10; b > bounds[len(bounds)-1] {
				bounds = append(bounds, b)
			}
		}
	}
	all := make([]Bucket, len(bounds)-1)
	for i := range all {
		all[i] = Bucket{From: bounds[i], To: bounds[i+1]}
	}
	for _, bar := range h.Distribution() {
		if bar.Count > 0 {
			i, _ := slices.BinarySearchFunc(all, bar.From, func(b Bucket, v int64) int { return cmp.Compare(b.To, v+1) })
			all[i].Count += bar.Count
		}
	}
	used := func(b Bucket) bool { return b.Count > 0 }
	first := slices.IndexFunc(all, used)
	for len(all) > 0 && !used(all[len(all)-1]) {
		all = all[:len(all)-1]
	}
	return all[max(first, 0):]
}

// nothing is the error of a run in which nothing succeeded.
func (r *Result) nothing() error {
	switch {
	case r.Interrupted:
		return fmt.Errorf("interrupted before anything was measured")
	case r.Failed == 0:
		return fmt.Errorf("no request has ended in %.1f s", r.Seconds)
	}
	return fmt.Errorf("nothing succeeded in %.1f s: %s", r.Seconds, strings.Join(r.failures(), "; "))
}

// failures returns a line for each code, the most frequent first.
func (r *Result) failures() []string {
	codes := slices.Sorted(maps.Keys(r.Errors))
	slices.SortStableFunc(codes, func(a, b string) int { return cmp.Compare(r.Errors[b], r.Errors[a]) })
	for i, code := range codes {
		codes[i] = fmt.Sprintf("%d %s (%s)", r.Errors[code], code, r.first[code])
	}
	return codes
}

// Print writes the report for people.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	interrupted := ""
	if r.Interrupted {
		interrupted = ", INTERRUPTED"
	}
	fmt.Fprintf(t, "%s\t%d clients, values of %d bytes, %d keys, %.1f s%s\n", r.Op, r.Clients, r.ValueSize, r.KeySpace,
		r.Seconds, interrupted)
	fmt.Fprintf(t, "operations\t%d\n", r.Operations)
	fmt.Fprintf(t, "per second\t%.0f\n", r.PerSecond)
	fmt.Fprintf(t, "errors\t%d\n", r.Failed)
	for _, line := range r.failures() {
		fmt.Fprintf(t, "\t%s\n", line)
	}
	if r.Uncertain > 0 {
		fmt.Fprintf(t, "\t%d of them may have been written all the same; none was repeated\n", r.Uncertain)
	}
	if r.Unfinished > 0 {
		fmt.Fprintf(t, "unfinished\t%d\n", r.Unfinished)
	}
	for _, x := range []struct {
		name string
		us   float64
	}{
		{"mean", r.Latency.Mean},
		{"p50", float64(r.Latency.P50)},
		{"p95", float64(r.Latency.P95)},
		{"p99", float64(r.Latency.P99)},
		{"max", float64(r.Latency.Max)},
	} {
		fmt.Fprintf(t, "%s\t%.3f ms\n", x.name, x.us/1000)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printChart(w, r.Histogram)
}

// chartWidth is how long the longest bar is, in characters.
const chartWidth = 50

// printChart draws a bar for each bucket. Even one operation is seen.
func printChart(w io.Writer, all []Bucket) error {
	var highest, sum int64
	for _, b := range all {
		highest, sum = max(highest, b.Count), sum+b.Count
	}
	if sum == 0 {
		return nil
	}
	fmt.Fprintln(w)
	for _, b := range all {
		length := int(max(b.Count*chartWidth/highest, min(b.Count, 1)))
		_, err := fmt.Fprintf(w, "%9s – %-9s %-*s %d (%.2f %%)\n", milliseconds(b.From), milliseconds(b.To), chartWidth,
			strings.Repeat("█", length), b.Count, 100*float64(b.Count)/float64(sum))
		if err != nil {
			return err
		}
	}
	return nil
}

// milliseconds formats microseconds, without needless digits.
func milliseconds(us int64) string { return fmt.Sprintf("%g ms", float64(us)/1000) }
