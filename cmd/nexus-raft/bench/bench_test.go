package bench

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is of a short measurement.
func config(endpoints ...string) (Config, *bytes.Buffer) {
	progress := &bytes.Buffer{}
	return Config{
		Op: Put, Endpoints: endpoints, Clients: 4, ValueSize: 16, KeySpace: 10,
		Duration: 200 * time.Millisecond, Progress: progress,
	}, progress
}

func TestPut(t *testing.T) {
	endpoint, f, _ := serve(t, nil)
	c, _ := config(endpoint)
	c.Zone = "ab"
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(f.puts - 1); r.Operations != want || r.Operations == 0 { // one before the measurement
		t.Errorf("got %d operations, want %d", r.Operations, want)
	}
	if r.Failed != 0 || r.Uncertain != 0 || r.Unfinished != 0 || r.Interrupted {
		t.Errorf("got %+v, want neither errors nor an interruption", r)
	}
	if l := r.Latency; l.P50 < 1 || l.P50 > l.P95 || l.P95 > l.P99 || l.P99 > l.Max || l.Mean > float64(l.Max) {
		t.Errorf("got latencies %+v, want them in order", l)
	}
	if got, want := f.zones["ab"], f.puts+1; got != want || len(f.zones) != 1 {
		t.Errorf("got requests by zone %v, want %d to ab alone", f.zones, want)
	}
	if len(f.state) > c.KeySpace {
		t.Errorf("got %d keys, want at most %d", len(f.state), c.KeySpace)
	}
	for k, v := range f.state {
		if !strings.HasPrefix(k, "bench/") || len(v) != c.ValueSize {
			t.Errorf("got %q with a value of %d bytes", k, len(v))
		}
	}
	var counted int64
	for _, b := range r.Histogram {
		counted += b.Count
	}
	if counted != r.Operations {
		t.Errorf("the histogram counts %d operations of %d", counted, r.Operations)
	}
}

func TestGetFillsItsKeySpace(t *testing.T) {
	endpoint, f, _ := serve(t, nil)
	c, progress := config(endpoint)
	c.Op = Get
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if f.puts != c.KeySpace || len(f.state) != c.KeySpace {
		t.Errorf("got %d puts and %d keys, want %d of both", f.puts, len(f.state), c.KeySpace)
	}
	if r.Operations == 0 || r.Failed != 0 {
		t.Errorf("got %d operations, %d failed", r.Operations, r.Failed)
	}
	if want := "filling the key space: 10 keys"; !strings.Contains(progress.String(), want) {
		t.Errorf("got %q, want %q in it", progress, want)
	}
}

func TestGetOfAKeyThatHasGone(t *testing.T) {
	endpoint, f, _ := serve(t, nil)
	f.before = func(_ context.Context, _ string, put bool) error {
		if !put { // somebody else deletes
			f.mu.Lock()
			defer f.mu.Unlock()
			clear(f.state)
		}
		return nil
	}
	c, _ := config(endpoint)
	c.Op = Get
	r, err := Run(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "missing key") || r.Errors["missing key"] == 0 {
		t.Errorf("got %+v, %v; want missing keys only", r, err)
	}
}

func TestErrorsAreCountedAndNothingIsRepeated(t *testing.T) {
	var n atomic.Int64
	var refused, unknown atomic.Int64
	endpoint, f, _ := serve(t, func(_ context.Context, _ string, put bool) error {
		if !put {
			return nil
		}
		switch n.Add(1) % 20 {
		case 5:
			refused.Add(1)
			return status.Error(codes.ResourceExhausted, "too many requests")
		case 10:
			unknown.Add(1)
			return status.Error(codes.Unknown, "outcome unknown")
		}
		return nil
	})
	c, _ := config(endpoint)
	c.Duration = 500 * time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.Errors["ResourceExhausted"], refused.Load(); got != want || want == 0 {
		t.Errorf("got %d ResourceExhausted, want %d", got, want)
	}
	if got, want := r.Errors["Unknown"], unknown.Load(); got != want || r.Uncertain != want || want == 0 {
		t.Errorf("got %d Unknown and %d uncertain, want %d of both", got, r.Uncertain, want)
	}
	if got, want := 1+r.Operations+r.Failed, int64(f.puts); got != want {
		t.Errorf("the service saw %d puts, the result has %d", want, got)
	}
	var out strings.Builder
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "Unknown (outcome unknown)") {
		t.Errorf("got %v,\n%s\nwant the error's text", err, &out)
	}
}

func TestAnEndpointThatDies(t *testing.T) {
	first, _, _ := serve(t, nil)
	var puts atomic.Int64
	dying := make(chan struct{})
	second, _, stop := serve(t, func(_ context.Context, _ string, put bool) error {
		if put && puts.Add(1) == 10 {
			close(dying)
		}
		return nil
	})
	go func() {
		<-dying
		stop()
	}()
	c, _ := config(first, second)
	c.Duration = 500 * time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Operations == 0 || r.Errors["Unavailable"] == 0 {
		t.Errorf("got %+v, want operations by the first and Unavailable by the second", r)
	}
	// Each of its two clients had at most one request under way; the others were never sent.
	if r.Uncertain > 2 {
		t.Errorf("got %d uncertain of %v, want at most 2", r.Uncertain, r.Errors)
	}
}

func TestSlowAnswersAreMeasured(t *testing.T) {
	const delay = 30 * time.Millisecond
	endpoint, _, _ := serve(t, func(context.Context, string, bool) error {
		time.Sleep(delay)
		return nil
	})
	c, _ := config(endpoint)
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Latency.P50 < delay.Microseconds() || r.Operations > 4*7 {
		t.Errorf("got %d operations of %d us, want at most 28 of at least %v", r.Operations, r.Latency.P50, delay)
	}
	if first := r.Histogram[0]; first.From > r.Latency.P50 || first.To <= delay.Microseconds() {
		t.Errorf("got first bucket %+v, want one that holds %v", first, delay)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var puts atomic.Int64
	endpoint, _, _ := serve(t, func(ctx context.Context, _ string, put bool) error {
		if put && puts.Add(1) > 20 {
			cancel()
			<-ctx.Done() // hangs
		}
		return nil
	})
	c, _ := config(endpoint)
	c.Duration = time.Hour
	r, err := Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Operations == 0 || r.Failed != 0 || r.Unfinished == 0 {
		t.Errorf("got %+v, want an interrupted run with unfinished requests and no errors", r)
	}
	var out strings.Builder
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "INTERRUPTED") {
		t.Errorf("got %v,\n%s\nwant a mark", err, &out)
	}
}

func TestCanNotBegin(t *testing.T) {
	good, _, _ := serve(t, nil)
	refuses, _, _ := serve(t, func(context.Context, string, bool) error {
		return status.Error(codes.NotFound, "zone not found")
	})
	readOnly, _, _ := serve(t, func(_ context.Context, _ string, put bool) error {
		if put {
			return status.Error(codes.InvalidArgument, "too large")
		}
		return nil
	})
	absent := nobody(t)
	for _, tc := range []struct {
		endpoints []string
		op        Op
		says      []string
	}{
		{[]string{absent}, Put, []string{"no endpoint answers", absent, "connection refused"}},
		{[]string{good, refuses}, Put, []string{"refused", refuses, "NotFound: zone not found"}},
		{[]string{readOnly}, Put, []string{"write the first keys", "InvalidArgument: too large"}},
		{[]string{readOnly}, Get, []string{"write the first keys", "InvalidArgument: too large"}},
	} {
		c, _ := config(tc.endpoints...)
		c.Op = tc.op
		r, err := Run(t.Context(), c)
		if r != nil || err == nil {
			t.Errorf("%v: got %+v, %v; want an error", tc, r, err)
			continue
		}
		for _, want := range tc.says {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want a line with %q in it", err, want)
			}
		}
	}
}

func TestGoesOnWithoutOne(t *testing.T) {
	good, _, _ := serve(t, nil)
	absent := nobody(t)
	c, progress := config(absent, good)
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != 0 || len(r.Absent) != 1 || !strings.Contains(r.Absent[0], absent) {
		t.Errorf("got %+v, want no errors, and %s as absent", r, absent)
	}
	if !strings.Contains(progress.String(), "goes on without "+absent) {
		t.Errorf("got %q, want the absent one named", progress)
	}
}

func TestNothingSucceeded(t *testing.T) {
	var puts atomic.Int64
	endpoint, _, _ := serve(t, func(_ context.Context, _ string, put bool) error {
		if put && puts.Add(1) > 1 {
			return status.Error(codes.Unavailable, "etcdserver: no leader")
		}
		return nil
	})
	c, _ := config(endpoint)
	r, err := Run(t.Context(), c)
	if r == nil || r.Operations != 0 || err == nil || !strings.Contains(err.Error(), "nothing succeeded") ||
		!strings.Contains(err.Error(), "no leader") {
		t.Errorf("got %+v, %v; want a result and an error that says why", r, err)
	}
}

func TestProgressIsALinePerSecond(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(Config{Op: Put, Duration: 10 * time.Second, Progress: &out})
	p.show(time.Second, counts{ok: 100})
	p.show(3*time.Second, counts{ok: 500, failed: 7})
	want := "   1.0 s of 10s  100 puts, 100 per second, 0 errors\n   3.0 s of 10s  500 puts, 200 per second, 7 errors\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
