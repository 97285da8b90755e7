package node

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

// watchdog knows the age of the store's oldest unfinished sync, in the seconds that it has
// itself seen pass: a process that was stopped for a while has not waited for its disk.
type watchdog struct {
	syncs   atomic.Uint64 // begun
	running atomic.Bool
	seen    atomic.Int64 // seconds for which the running sync has been seen to run
}

func (d *watchdog) begin(sync bool) {
	if sync {
		d.syncs.Add(1)
		d.running.Store(true)
	}
}

func (d *watchdog) end() {
	d.running.Store(false)
	d.seen.Store(0)
}

// age is that of the running sync, 0 if none runs.
func (d *watchdog) age() time.Duration { return time.Duration(d.seen.Load()) * time.Second }

// problem says what is wrong, "" if nothing is.
func (d *watchdog) problem() string {
	if age := d.age(); age > unhealthySync {
		return fmt.Sprintf("the disk has not finished a sync for %v", age)
	}
	return ""
}

// watch reports health as it changes, and returns an error once a sync is too old.
func (d *watchdog) watch(stop <-chan struct{}, second <-chan time.Time, report func(problem string)) error {
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
		if p := d.problem(); (p == "") != (last == "") {
			report(p)
			last = p
		}
	}
}

// look counts a second for a sync that was running at the last look, too.
func (d *watchdog) look(last uint64) (current uint64) {
	current = d.syncs.Load()
	if d.running.Load() && current == last {
		d.seen.Add(1)
	} else {
		d.seen.Store(0)
	}
	return current
}
