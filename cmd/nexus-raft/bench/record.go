package bench

import (
	"errors"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc/status"
)

// The histogram counts microseconds, to three digits, up to a little more than a request
// may take.
const (
	digits   = 3
	longest  = requestTimeout + requestTimeout/2
	slotsMax = 100 // of the throughput over time, in a run that ends in time
)

// recorder takes what all clients measure. Its methods may be called from any number of
// goroutines, except begin, which comes first.
type recorder struct {
	slot  time.Duration // of the throughput over time
	began time.Time

	mu       sync.Mutex
	latency  *hdrhistogram.Histogram
	sum      counts
	errors   map[string]int64 // by code
	first    map[string]string
	slots    []counts
	lastDone time.Duration
}

// counts are of the requests that have ended.
type counts struct {
	ok, failed, uncertain, unfinished int64
}

func newRecorder(duration time.Duration) *recorder {
	return &recorder{
		slot:    max(duration/slotsMax, 100*time.Millisecond),
		latency: hdrhistogram.New(1, longest.Microseconds(), digits),
		errors:  make(map[string]int64),
		first:   make(map[string]string),
	}
}

func (r *recorder) begin() { r.began = time.Now() }

// passed returns for how long the measurement has been under way.
func (r *recorder) passed() time.Duration { return time.Since(r.began) }

func (r *recorder) success(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.ok++
	r.current().ok++
	r.latency.RecordValue(min(max(took, time.Microsecond), longest).Microseconds()) // in its range
}

// failure counts an error, and whether it leaves open a write.
func (r *recorder) failure(err error, written bool) {
	code := "missing key"
	if !errors.Is(err, errMissing) {
		code = status.Code(err).String()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.failed++
	r.current().failed++
	r.errors[code]++
	if r.first[code] == "" {
		r.first[code] = status.Convert(err).Message()
	}
	if written {
		r.sum.uncertain++
	}
}

// unfinished counts a request that was called off at the end of an interrupted run.
func (r *recorder) unfinished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.unfinished++
}

// current returns the slot of now. The caller holds mu.
func (r *recorder) current() *counts {
	r.lastDone = r.passed()
	i := int(r.lastDone / r.slot)
	for len(r.slots) <= i {
		r.slots = append(r.slots, counts{})
	}
	return &r.slots[i]
}

func (r *recorder) counts() counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sum
}
