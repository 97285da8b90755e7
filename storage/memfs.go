package storage

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MemFS is a file system in memory, for tests. It can be cloned as a crash would leave it.
type MemFS struct {
	FS
	mem  *vfs.MemFS
	free atomic.Int64 // what SetDiskFree was given, and 1
}

// NewMemFS returns an empty file system.
func NewMemFS() *MemFS { return wrapMem(vfs.NewCrashableMem()) }

// CrashClone returns a copy as it could be found after a crash at this moment: all that
// was synced, and each block or directory entry that was not with a probability of
// unsyncedPercent, decided by rng. The original goes on as if nothing had happened.
// It may be called at any time from any goroutine; rng is used until it returns, and
// may be nil if unsyncedPercent is 0.
func (m *MemFS) CrashClone(rng *rand.Rand, unsyncedPercent int) *MemFS {
	return wrapMem(m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsyncedPercent, RNG: rng}))
}

func wrapMem(mem *vfs.MemFS) *MemFS { return &MemFS{FS: mem, mem: mem} }

// SetDiskFree sets how many bytes the file system says are free; until it is called, it
// doesn't say. It takes what is written all the same. A clone does not inherit it.
func (m *MemFS) SetDiskFree(bytes int64) { m.free.Store(bytes + 1) }

// GetDiskUsage implements FS.
func (m *MemFS) GetDiskUsage(dir string) (vfs.DiskUsage, error) {
	if free := m.free.Load(); free > 0 {
		return vfs.DiskUsage{AvailBytes: uint64(free - 1)}, nil
	}
	return m.FS.GetDiskUsage(dir)
}
