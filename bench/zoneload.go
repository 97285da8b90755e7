package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A writer writes to a zone under a key of its own, and numbers its writes from 1 on: it goes on to
// the next number once the one before was acknowledged, and repeats it until it is. The state machine,
// the same for all systems, keeps each writer's newest write and counts the numbers that were left out:
// those are acknowledged writes that were lost. Any system may apply a repeated write twice.

const (
	writerKeyBytes = 8
	writeHead      = writerKeyBytes + 8 // and the number
	recordHead     = 16                 // the number, and how many were left out
)

// nextRecord returns what the state has for a writer after a write, and nil if that changes nothing.
func nextRecord(old, command []byte) (record []byte, err error) {
	if len(command) < writeHead {
		return nil, errors.New("a write that is too short")
	}
	last, missing := splitRecord(old)
	n := binary.BigEndian.Uint64(command[writerKeyBytes:])
	if n <= last {
		return nil, nil // it was applied before
	}
	record = make([]byte, 0, len(command)-writeHead+recordHead)
	record = binary.BigEndian.AppendUint64(record, n)
	record = binary.BigEndian.AppendUint64(record, missing+n-last-1)
	return append(record, command[writeHead:]...), nil
}

func splitRecord(record []byte) (last, missing uint64) {
	if len(record) < recordHead {
		return 0, 0
	}
	return binary.BigEndian.Uint64(record), binary.BigEndian.Uint64(record[8:])
}

// loadGroup is so many writers that share a range of zones.
type loadGroup struct {
	First   int `json:"first"`
	Zones   int `json:"zones"`
	Writers int `json:"writers"`
}

// loadResult is what a group has reached.
type loadResult struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Failed    int64   `json:"failed"`        // attempts, each of which was made again
	Why       string  `json:"why,omitempty"` // of one of them
}

// ackedWrites says that the writes 1 to N of a writer to a zone were acknowledged.
type ackedWrites struct {
	Zone   int    `json:"zone"`
	Writer uint64 `json:"writer"`
	N      uint64 `json:"n"`
}

const (
	attemptMost      = 10 * time.Second
	attemptUnderKill = 500 * time.Millisecond // a write is made again then, as its leader may be dead
	retryAfter       = 2 * time.Millisecond
	readMost         = 2 * time.Second // a read that got lost is asked again then
)

// zoneLoad is a number of writers.
type zoneLoad struct {
	system  zoneSystem
	attempt time.Duration
	writers [][]*zoneWriter // by group
	running sync.WaitGroup
	stop    context.CancelFunc // nil before it has begun

	measuring atomic.Bool
	since     atomic.Int64 // when a process was killed, in nanoseconds; 0 if none was
}

// zoneWriter is one writer. Others look at it when it has ended, but for what is atomic.
type zoneWriter struct {
	load  *zoneLoad
	id    uint64
	zones []int
	acked []atomic.Uint64 // of each of the zones
	again []atomic.Int64  // when a write begun after the kill was acknowledged, in nanoseconds; 0 if none was
	took  []time.Duration // of writes while measuring
	fails int64
	why   error // of the last one

	measured atomic.Bool // took has one
}

func newZoneLoad(s zoneSystem, groups []loadGroup, attempt time.Duration) *zoneLoad {
	l := &zoneLoad{system: s, attempt: attempt}
	id := rand.Uint64() &^ 0xffff // no writer of another load has one of these
	for _, g := range groups {
		writers := make([]*zoneWriter, g.Writers)
		for i := range writers {
			w := &zoneWriter{load: l, id: id}
			id++
			w.zones = append(w.zones, g.First+i%g.Zones)
			for z := i + g.Writers; z < g.Zones; z += g.Writers { // the zones that have no writer of their own
				w.zones = append(w.zones, g.First+z)
			}
			w.acked, w.again = make([]atomic.Uint64, len(w.zones)), make([]atomic.Int64, len(w.zones))
			writers[i] = w
		}
		l.writers = append(l.writers, writers)
	}
	return l
}

func (l *zoneLoad) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, group := range l.writers {
		for _, w := range group {
			l.running.Go(func() { w.run(ctx) })
		}
	}
}

// end ends the load; once is enough.
func (l *zoneLoad) end() {
	l.stop()
	l.running.Wait()
}

// measure runs the load for a while, measures it after another, and ends it. It measures for longer than
// span until each group has written: a figure of nothing would say nothing.
func (l *zoneLoad) measure(ctx context.Context, warm, span time.Duration) (all []loadResult, err error) {
	l.start(ctx)
	defer l.end()
	if err := sleep(ctx, warm); err != nil {
		return nil, err
	}
	l.measuring.Store(true)
	start := time.Now()
	err = sleep(ctx, span)
	for err == nil && !l.allMeasured() {
		err = sleep(ctx, pollEvery)
	}
	l.measuring.Store(false)
	seconds := time.Since(start).Seconds()
	l.end()
	for _, group := range l.writers {
		all = append(all, summary(group, seconds))
	}
	if err != nil {
		err = fmt.Errorf("after %.1f s: %+v: %w", seconds, all, err)
	}
	return all, err
}

// allMeasured reports whether each group has a write that was measured.
func (l *zoneLoad) allMeasured() bool {
	return !slices.ContainsFunc(l.writers, func(group []*zoneWriter) bool {
		return !slices.ContainsFunc(group, func(w *zoneWriter) bool { return w.measured.Load() })
	})
}

// begin starts the load, which ends by end, and returns when each writer has written to each of its zones.
func (l *zoneLoad) begin(ctx context.Context) error {
	l.start(context.Background())
	return l.await(ctx, func(w *zoneWriter, i int) bool { return w.acked[i].Load() > 0 })
}

// recovered waits until each zone has acknowledged a write that was begun after since, and returns how
// long after since that was, for each zone of each writer.
func (l *zoneLoad) recovered(ctx context.Context, since time.Time) (seconds []float64, err error) {
	l.since.Store(since.UnixNano())
	err = l.await(ctx, func(w *zoneWriter, i int) bool { return w.again[i].Load() > 0 })
	if err != nil {
		return nil, err
	}
	l.each(func(w *zoneWriter, i int) {
		seconds = append(seconds, time.Duration(w.again[i].Load()-since.UnixNano()).Seconds())
	})
	return seconds, nil
}

func (l *zoneLoad) each(do func(w *zoneWriter, i int)) {
	for _, group := range l.writers {
		for _, w := range group {
			for i := range w.zones {
				do(w, i)
			}
		}
	}
}

func (l *zoneLoad) await(ctx context.Context, done func(w *zoneWriter, i int) bool) error {
	for {
		missing := 0
		l.each(func(w *zoneWriter, i int) {
			if !done(w, i) {
				missing++
			}
		})
		if missing == 0 {
			return nil
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return fmt.Errorf("%d writers wait for their zones: %w", missing, err)
		}
	}
}

func (l *zoneLoad) acked() (all []ackedWrites) {
	l.each(func(w *zoneWriter, i int) {
		all = append(all, ackedWrites{Zone: w.zones[i], Writer: w.id, N: w.acked[i].Load()})
	})
	return all
}

// run writes to the zones in turn until ctx ends.
func (w *zoneWriter) run(ctx context.Context) {
	command := make([]byte, writeHead, writeHead+valueBytes)
	binary.BigEndian.PutUint64(command, w.id)
	command = append(command, value(int(w.id%1000))...)
	for turn := 0; ctx.Err() == nil; turn++ {
		i := turn % len(w.zones)
		binary.BigEndian.PutUint64(command[writerKeyBytes:], w.acked[i].Load()+1)
		if !w.write(ctx, i, slices.Clone(command)) {
			return
		}
	}
}

// write writes until it is acknowledged, or the context ends.
func (w *zoneWriter) write(ctx context.Context, i int, command []byte) bool {
	for ctx.Err() == nil {
		begun := time.Now()
		attempt, cancel := context.WithTimeout(ctx, w.load.attempt)
		err := w.load.system.write(attempt, w.zones[i], command)
		cancel()
		if err == nil {
			w.succeeded(i, begun, time.Now())
			return true
		}
		if sleep(ctx, retryAfter) == nil { // otherwise the load has ended, which is no failure
			w.fails, w.why = w.fails+1, err
		}
	}
	return false
}

func (w *zoneWriter) succeeded(i int, begun, ended time.Time) {
	w.acked[i].Add(1)
	if w.load.measuring.Load() {
		w.took = append(w.took, ended.Sub(begun))
		w.measured.Store(true)
	}
	since := w.load.since.Load()
	if since > 0 && begun.UnixNano() >= since && w.again[i].Load() == 0 {
		w.again[i].Store(ended.UnixNano())
	}
}

func summary(group []*zoneWriter, seconds float64) (r loadResult) {
	var took []float64
	for _, w := range group {
		for _, d := range w.took {
			took = append(took, d.Seconds()*1e3)
		}
		r.Failed += w.fails
		if w.why != nil {
			r.Why = w.why.Error()
		}
	}
	r.PerSecond = float64(len(took)) / seconds
	r.P50, r.P99 = quantile(took, 0.5), quantile(took, 0.99)
	return r
}

// quantile sorts values and returns one of them, and 0 of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

// lostWrites returns how many of the acknowledged writes the zones have lost, by linearizable reads.
func lostWrites(ctx context.Context, s zoneSystem, acked []ackedWrites) (uint64, error) {
	var lost atomic.Uint64
	err := eachZone(len(acked), func(i int) error {
		a := acked[i]
		for {
			attempt, cancel := context.WithTimeout(ctx, readMost)
			record, err := s.read(attempt, a.Zone, binary.BigEndian.AppendUint64(nil, a.Writer))
			cancel()
			if err == nil {
				last, missing := splitRecord(record)
				lost.Add(missing + a.N - min(a.N, last))
				return nil
			}
			if sleep(ctx, 4*pollEvery) != nil {
				return fmt.Errorf("read zone %d: %w", a.Zone, err)
			}
		}
	})
	return lost.Load(), err
}
