package storage

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MemFS is a file system in memory, for tests. It can be cloned as a crash would leave it.
type MemFS struct {
	FS
	mem *vfs.MemFS
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
