//go:build !race

package worker

import "time"

// testTick is the tick interval of a worker that runs.
const testTick = 5 * time.Millisecond

// crashStride is at which of the disk's operations TestZonesAfterACrashAtAnyStep crashes: each so many.
const crashStride = 1

// manyZones is how many zones TestManyZonesOnSeveralWorkers has.
const manyZones = 1000
