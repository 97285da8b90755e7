package program

import (
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// collectAt is the part of a process's memory limit at which Go collects garbage however little
// there is of it. What is above is for what Go doesn't count: the store's cache and buffers, stacks
// of threads.
const collectAt = 0.8

// HeedMemoryLimit tells Go's collector of garbage how much memory this process may have, by its
// control group and its resource limits. Otherwise garbage alone could end the process, as the
// collector lets it grow to as much as is in use. The environment variable GOMEMLIMIT, if there is
// one, holds instead; AUTOMEMLIMIT may be another part of the limit, or "off". Call it once, before
// anything large is allocated.
func HeedMemoryLimit(logger *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(collectAt), memlimit.WithProvider(memoryLimit))
	switch {
	case err != nil:
		logger.Warn("the limit of memory is not heeded", "err", err)
	case limit < math.MaxInt64:
		logger.Info("garbage is collected in time for the limit of memory", "collected_at_bytes", limit)
	}
}

// memoryLimit returns how many bytes this process may have, or memlimit.ErrNoLimit.
func memoryLimit() (uint64, error) {
	least := resourceLimit()
	if group, err := memlimit.FromCgroup(); err == nil { // else there is none, or none that can be read
		least = min(least, group)
	}
	if least >= math.MaxInt64 { // or what other systems call infinite
		return 0, memlimit.ErrNoLimit
	}
	return least, nil
}
