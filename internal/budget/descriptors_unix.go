//go:build unix

package budget

import (
	"math"
	"syscall"
)

// Descriptors returns how many files and connections this process may have open; it raises the
// soft limit to the hard one first.
func Descriptors() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return math.MaxInt32 // the limit is unknown: accept goes on after an error
	}
	if l.Cur < l.Max {
		raised := l
		raised.Cur = raised.Max
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			l = raised
		}
	}
	return int(min(uint64(l.Cur), math.MaxInt32))
}
