// Package watchdog says how long a store's sync has been running, and when that is too long.
package watchdog

import (
	"fmt"
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
// calls Begin and End, another one Watch; Problem may be called from many. The zero value is ready for use.
type Watchdog struct {
	syncs   atomic.Uint64 // begun
	running atomic.Bool
	seen    atomic.Int64 // seconds for which the running sync has been seen to run
}

// Begin says that a write begins, which is synced or not. End must follow.
func (d *Watchdog) Begin(sync bool) {
	if sync {
		d.syncs.Add(1)
		d.running.Store(true)
	}
}

// End says that the write has ended.
func (d *Watchdog) End() {
	d.running.Store(false)
	d.seen.Store(0)
}

// age is that of the running sync, 0 if none runs.
func (d *Watchdog) age() time.Duration { return time.Duration(d.seen.Load()) * time.Second }

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
	var current uint64
	for {
		select {
		case <-stop:
			return nil
		case <-second:
		}
		current = d.look(current)
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
func (d *Watchdog) look(last uint64) (current uint64) {
	current = d.syncs.Load()
	if d.running.Load() && current == last {
		d.seen.Add(1)
	} else {
		d.seen.Store(0)
	}
	return current
}
