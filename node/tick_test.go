//go:build !race

package node

import "time"

// TestTick is the tick interval of the tests' nodes, short, so that they wait little.
const TestTick = 10 * time.Millisecond

// UnderRace: the race detector is not there.
const UnderRace = false
