//go:build !linux && !darwin

package program

import "math"

// resourceLimit returns math.MaxUint64: these systems have no limit that a process could know.
func resourceLimit() uint64 { return math.MaxUint64 }
