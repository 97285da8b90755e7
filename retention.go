package nexusraft

import "time"

// Retention says which of a zone's events are kept: the newest. Whatever it says, they take not
// much more than 64 MiB.
type Retention struct {
	Count uint64        // 0 turns the zone's events off
	Age   time.Duration // by the zone's time; 0: for ever
}

// DefaultRetention returns what a zone keeps unless a command has changed that. Changing it changes
// history: applying a command depends on it.
func DefaultRetention() Retention { return Retention{Count: 10_000, Age: 24 * time.Hour} }
