//go:build race

package node

import "time"

// TestTick is longer than in other builds: the race detector makes a node many times slower, and an
// election timeout of a few rounds would have every test elect leaders, whatever it is about.
const TestTick = 30 * time.Millisecond

// UnderRace is for tests that make much of something: the race detector makes that take minutes.
const UnderRace = true
