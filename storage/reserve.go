package storage

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// reserve keeps writes away from the last bytes of the store's disk, and so Pebble from
// ENOSPC, which a store does not survive (see failstop).
//
// What the reserve is for: the memory tables that were written already (at most three, which
// are still to become tables on the disk, while their logs go only afterwards), a compaction,
// whose outputs are beside its inputs until it ends, and the batches that may use it. With
// the default sizes that is 192 MiB of memory tables, a compaction of some 50 MiB (Pebble runs
// one at a time and bounds most of them by 25 tables of 2 MiB), and the rest for batches.
//
// The invariants:
//
//   - Between two looks at the disk less than an eighth of the reserve is written by batches
//     that may not use it, or less than lookEvery passes.
//   - full changes from nil only below bytes, and back only at bytes and an eighth, so that
//     it doesn't flap where compactions give space back and take it.
type reserve struct {
	fs    FS
	dir   string
	bytes int64 // 0 if there is no reserve
	log   *slog.Logger

	start   time.Time
	next    atomic.Int64 // when to look again, since start
	written atomic.Int64 // by batches, since the last look
	large   atomic.Int64 // of batches of an eighth of the reserve and more, while they are written
	full    atomic.Pointer[error]

	looking sync.Mutex // held by the one goroutine that looks; the others go on with what is known
}

// lookEvery is how long a look at the disk is good for.
const lookEvery = 250 * time.Millisecond

func newReserve(dir string, o Options) *reserve {
	return &reserve{fs: o.FS, dir: dir, bytes: max(o.DiskReserve, 0), log: o.Logger, start: time.Now()}
}

// room returns nil if n bytes may be written, and then done must follow; or nexusraft.ErrDiskFull.
func (r *reserve) room(n int) error {
	if r.bytes == 0 {
		return nil
	}
	if int64(n) >= r.bytes/8 {
		return r.roomForLarge(int64(n))
	}
	due := r.written.Add(int64(n)) >= r.bytes/8 || time.Since(r.start) >= time.Duration(r.next.Load())
	if due && r.looking.TryLock() {
		r.look(int64(n))
		r.looking.Unlock()
	}
	if full := r.full.Load(); full != nil {
		return *full
	}
	return nil
}

// roomForLarge is room for a batch that could use up the reserve alone. It looks for itself,
// and takes what the others before it are about to write as written. It counts twice: a
// batch is in the log, and then in a table.
func (r *reserve) roomForLarge(n int64) error {
	r.looking.Lock()
	defer r.looking.Unlock()
	r.look(n)
	if full := r.full.Load(); full != nil {
		return *full
	}
	if free, ok := r.free(); ok && free-2*(r.large.Load()+n) < r.bytes {
		return r.fullError(free, fmt.Sprintf(", and the batch has %d", n))
	}
	r.large.Add(n)
	return nil
}

// done follows each room that has returned nil, once the n bytes are written.
func (r *reserve) done(n int) {
	if r.bytes > 0 && int64(n) >= r.bytes/8 {
		r.large.Add(-int64(n))
	}
}

// look asks for the free space, of which n bytes are about to be used. A file system that
// can't tell has room: to ask in vain is no reason to refuse a write.
func (r *reserve) look(n int64) {
	r.written.Store(n)
	r.next.Store(int64(time.Since(r.start) + lookEvery))
	free, ok := r.free()
	was := r.full.Load() != nil
	switch {
	case ok && (free < r.bytes || was && free < r.bytes+r.bytes/8):
		err := r.fullError(free, "")
		r.full.Store(&err)
		if !was {
			r.log.Warn("disk full, writes are refused", "path", r.dir, "free", free, "reserve", r.bytes)
		}
	case was:
		r.full.Store(nil)
		r.log.Info("disk has room again", "path", r.dir, "free", free, "reserve", r.bytes)
	}
}

func (r *reserve) fullError(free int64, more string) error {
	return fmt.Errorf("%w: the disk of store %s has %d bytes free, of which %d are its reserve%s; make room on it",
		nexusraft.ErrDiskFull, r.dir, free, r.bytes, more)
}

// free returns how many bytes of the disk this process may still use, and whether that is known.
func (r *reserve) free() (int64, bool) {
	usage, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		return 0, false
	}
	return int64(min(usage.AvailBytes, 1<<62)), true
}

// Room returns nil while the store takes writes, and nexusraft.ErrDiskFull, with how much of its
// disk is free, while that is less than Options.DiskReserve; having been full, it has room when an
// eighth more is free. It is cheap: it asks the file system at most every 250 ms, and after each
// eighth of the reserve that was written. Of a store that is closed or dead it returns what every
// call does.
func (s *Store) Room() error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.reserve.room(0)
}

// DiskFree returns how many bytes of the store's disk this process may still use, the
// reserve included; 0 if the file system doesn't say.
func (s *Store) DiskFree() int64 {
	free, _ := s.reserve.free()
	return free
}

// UseReserve lets the batch be committed when the disk is full, too: for the few small writes
// that must go on then. It holds until Close, over any Reset. A batch that only removes
// needs no leave.
func (b *Batch) UseReserve() { b.reserved = true }

// refused returns why the batch may not be written now. What removes makes room.
func (b *Batch) refused() error {
	if b.reserved || !b.sets {
		return nil
	}
	if err := b.s.reserve.room(b.b.Len()); err != nil {
		return fmt.Errorf("commit batch, nothing was written: %w", err)
	}
	return nil
}
