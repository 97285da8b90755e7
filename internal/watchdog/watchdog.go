// Package watchdog says how long a store's sync has been running, and when that is too long.
package watchdog

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A sync that takes longer than unhealthySync is reported; one that takes longer than
// fatalSync ends the process: the disk won't come back, and a restart tells the operator.
const (
	unhealthySync = 5 * time.Second
	fatalSync     = 60 * time.Second
)

// Watchdog knows the age of the store's oldest unfinished sync, in the seconds that it has
// itself seen pass: a process that was stopped for a while has not waited for its disk. One goroutine
// calls Watch; Problem may be called from many. The zero value is ready for use.
type Watchdog struct {
	mu      sync.Mutex // guards writers
	writers []*Writer
}

// Writer is a goroutine that writes, one write at a time: it alone calls Begin and End.
type Writer struct {
	syncs   atomic.Uint64 // begun
	running atomic.Bool
	seen    atomic.Int64 // seconds for which the running sync has been seen to run
	last    uint64       // syncs as of Watch's last look
}

// NewWriter returns a writer whose syncs are watched from now on.
func (d *Watchdog) NewWriter() *Writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := new(Writer)
	d.writers = append(d.writers, w)
	return w
}

// all returns the writers that there are.
func (d *Watchdog) all() []*Writer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.writers)
}

// Begin says that a write begins, which is synced or not. End must follow.
func (w *Writer) Begin(sync bool) {
	if sync {
		w.syncs.Add(1)
		w.running.Store(true)
	}
}

// End says that the write has ended.
func (w *Writer) End() {
	w.running.Store(false)
	w.seen.Store(0)
}

// age is that of the oldest running sync, 0 if none runs.
func (d *Watchdog) age() (oldest time.Duration) {
	for _, w := range d.all() {
		oldest = max(oldest, time.Duration(w.seen.Load())*time.Second)
	}
	return oldest
}

// Problem says what is wrong, "" if nothing is.
func (d *Watchdog) Problem() string {
	if age := d.age(); age > unhealthySync {
		return fmt.Sprintf("the disk has not finished a sync for %v", age)
	}
	return ""
}

// Watch looks at each second, reports a problem as it comes and "" as it goes, and returns an error once a
// sync is too old, or nil when stop is closed.
func (d *Watchdog) Watch(stop <-chan struct{}, second <-chan time.Time, report func(problem string)) error {
	var last string
	for {
		select {
		case <-stop:
			return nil
		case <-second:
		}
		for _, w := range d.all() {
			w.look()
		}
		if d.age() > fatalSync {
			return fmt.Errorf("the disk has not finished a sync for %v: the node stops", fatalSync)
		}
		if p := d.Problem(); (p == "") != (last == "") {
			report(p)
			last = p
		}
	}
}

// look counts a second for a sync that was running at the last look, too.
func (w *Writer) look() {
	current := w.syncs.Load()
	if w.running.Load() && current == w.last {
		w.seen.Add(1)
	} else {
		w.seen.Store(0)
	}
	w.last = current
}
