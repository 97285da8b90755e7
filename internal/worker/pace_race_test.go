//go:build race

package worker

import "time"

// testTick is longer than in other builds: the race detector makes a worker many times slower.
const testTick = 15 * time.Millisecond

// crashStride is at which of the disk's operations TestZonesAfterACrashAtAnyStep crashes: each so many.
const crashStride = 6

// manyZones is how many zones TestManyZonesOnSeveralWorkers has.
const manyZones = 100
