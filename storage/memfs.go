package storage

import (
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MemFS is a file system in memory, for tests. It can be cloned as a crash would leave it.
type MemFS struct {
	FS
	mem *vfs.MemFS

	// nested is held, shared, by the operations that take mem's own lock twice, and by those that
	// clone: mem would have them wait for each other.
	nested sync.RWMutex

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
	m.nested.Lock()
	defer m.nested.Unlock()
	return wrapMem(m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsyncedPercent, RNG: rng}))
}

func wrapMem(mem *vfs.MemFS) *MemFS { return &MemFS{FS: mem, mem: mem} }

// SetDiskFree sets how many bytes the file system says are free; until it is called, it
// doesn't say. It takes what is written all the same. A clone does not inherit it.
func (m *MemFS) SetDiskFree(bytes int64) { m.free.Store(bytes + 1) }

// Lock implements FS.
func (m *MemFS) Lock(name string) (io.Closer, error) {
	m.nested.RLock()
	defer m.nested.RUnlock()
	return m.FS.Lock(name)
}

// ReuseForWrite implements FS.
func (m *MemFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	m.nested.RLock()
	defer m.nested.RUnlock()
	return m.FS.ReuseForWrite(oldname, newname, category)
}

// GetDiskUsage implements FS.
func (m *MemFS) GetDiskUsage(dir string) (vfs.DiskUsage, error) {
	if free := m.free.Load(); free > 0 {
		return vfs.DiskUsage{AvailBytes: uint64(free - 1)}, nil
	}
	return m.FS.GetDiskUsage(dir)
}
