//go:build linux || darwin

package program

import (
	"math"
	"syscall"
)

// resourceLimit returns the least of the limits of this process's memory (ulimit -d and -v) in bytes,
// or math.MaxUint64.
func resourceLimit() uint64 {
	least := uint64(math.MaxUint64)
	for _, resource := range []int{syscall.RLIMIT_DATA, syscall.RLIMIT_AS} {
		var l syscall.Rlimit
		if syscall.Getrlimit(resource, &l) == nil {
			least = min(least, l.Cur)
		}
	}
	return least
}
