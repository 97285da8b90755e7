package driver

import (
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Freshness says how new a replica's state is. Any goroutine may ask, without waiting for the group's.
// What it says stays true: a replica's state never goes back.
type Freshness struct {
	applied atomic.Uint64
	asked   atomic.Pointer[time.Time] // when the newest read came that was served; nil before the first one
}

// Has reports whether the state has the entries up to an index.
func (f *Freshness) Has(index nexusraft.Index) bool { return f.applied.Load() >= uint64(index) }

// Within reports whether the state is known to have every write that was acknowledged, by any node, more
// than age before now. The time counts from when a read was asked for, and not from its answer: what was
// acknowledged while the leader was being asked need not be in the state.
func (f *Freshness) Within(age time.Duration, now time.Time) bool {
	asked := f.asked.Load()
	return asked != nil && elapsed(*asked, now) < age
}

// elapsed is how long it is from one time to another by the monotonic clock, or by the wall clock if that
// says more: the former may stand still while the machine is suspended.
func elapsed(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

// served notes that a read which came at that time was confirmed and served. The group's goroutine alone
// calls it.
func (f *Freshness) served(asked time.Time) {
	if old := f.asked.Load(); old == nil || asked.After(*old) {
		f.asked.Store(&asked)
	}
}
