//go:build !unix

package budget

import "math"

// Descriptors returns how many files and connections this process may have open: these systems
// have no limit that a process could know.
func Descriptors() int { return math.MaxInt32 }
