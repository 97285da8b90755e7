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

// watchdog knows the age of the store's oldest unfinished sync.
type watchdog struct {
	started atomic.Int64 // when the running sync began, nanoseconds since start; 0: none runs
	start   time.Time
}

func (d *watchdog) begin(sync bool) {
	if sync {
		d.started.Store(int64(time.Since(d.start)) + 1)
	}
}

func (d *watchdog) end() { d.started.Store(0) }

// age is that of the running sync, 0 if none runs.
func (d *watchdog) age() time.Duration {
	if at := d.started.Load(); at != 0 {
		return time.Since(d.start) - time.Duration(at)
	}
	return 0
}

// problem says what is wrong, "" if nothing is.
func (d *watchdog) problem() string {
	if age := d.age(); age > unhealthySync {
		return fmt.Sprintf("the disk has not finished a sync for %v", age.Round(time.Second))
	}
	return ""
}

// watch reports health as it changes, and returns an error once a sync is too old.
func (d *watchdog) watch(stop <-chan struct{}, report func(problem string)) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := ""
	for {
		select {
		case <-stop:
			return nil
		case <-ticker.C:
		}
		if d.age() > fatalSync {
			return fmt.Errorf("the disk has not finished a sync for %v: the node stops", fatalSync)
		}
		if p := d.problem(); (p == "") != (last == "") {
			report(p)
			last = p
		}
	}
}
