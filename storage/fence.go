package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence is the file system that Pebble sees: the store's own one until a write or sync
// of it fails, and from then on a disk that can't be changed any more.
//
// The problem: Pebble can't live with a failed write of its log or manifest. It panics
// while it holds its commit lock, so that other committers wait for ever; where it
// rotates its log it panics in a way that no recover can stop; and a failed manifest
// ends the process from a goroutine where nobody can catch it. It also retries what a
// disk should be asked only once: after a failed sync, nobody knows what is on it.
//
// The invariants:
//
//   - The cause of death is stored before the failing call returns to Pebble. So who
//     finds no cause after a commit knows that each write and sync that the commit
//     waited for was real.
//   - After death the disk stays as it is: as after a crash at that moment.
//
// The outline: Pebble is told that its log, manifest and markers go on well, and what it
// writes there is dropped; it never reads them back. Tables it does read back, so a
// table that was begun before death fails (Pebble copes with that: it tries again under
// a new name), and those that a flush begins after death live in memory, bounded by the
// memory tables that they come from; thus commits that wait for a flush come to their
// end, with an error. Compactions, which could fill the memory, wait until a commit waits
// for them, and fail once the store is closed.
//
// Rejected: returning the errors and recovering from the panics (the locks stay held,
// and not all can be recovered); blocking in the failing call (commits and Close would
// wait for ever).
type fence struct {
	vfs.FS
	dir     string // the store's; what is elsewhere, a backup, is none of its business
	log     *slog.Logger
	died    atomic.Pointer[error]
	gone    chan struct{} // closed once it has died, or the store is about to close
	goes    sync.Once     // closes gone
	traffic traffic
	synced  synced
	memory  *vfs.MemFS // the files begun after death, by their base names

	mu      sync.Mutex // guards what follows
	changed *sync.Cond // of what follows
	stalled bool       // commits wait for flushes or compactions
	closing bool       // the store is about to close
}

// compactionCategory is how Pebble labels the files that its compactions write.
const compactionCategory vfs.DiskWriteCategory = "pebble-compaction"

func newFence(fs vfs.FS, dir string, log *slog.Logger) *fence {
	f := &fence{FS: fs, dir: dir, log: log, memory: vfs.NewMem(), gone: make(chan struct{})}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// owns reports whether a file is the store's, or is its directory.
func (f *fence) owns(name string) bool { return name == f.dir || f.PathDir(name) == f.dir }

// stop ends the life of the store for the reason that it is given; the first one counts.
// It is logged here since it may happen where no caller gets to know it.
func (f *fence) stop(cause error) {
	if f.died.CompareAndSwap(nil, &cause) {
		f.goes.Do(func() { close(f.gone) })
		f.log.Error("store has stopped", "err", cause)
	}
}

// cause returns why the store is dead, nil while it lives.
func (f *fence) cause() error {
	if p := f.died.Load(); p != nil {
		return *p
	}
	return nil
}

// do runs op, a change of the disk, and reports whether it was done. An error of op is
// the end of the store; after the end nothing is run.
func (f *fence) do(verb, name string, op func() error) bool {
	if f.cause() != nil {
		return false
	}
	if err := op(); err != nil {
		f.stop(fmt.Errorf("%s %s: %w", verb, name, err))
		return false
	}
	return true
}

// Create implements vfs.FS.
func (f *fence) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(name, category, func() (vfs.File, error) {
		if strings.HasPrefix(f.PathBase(name), "marker.") {
			return f.createMarker(name, category)
		}
		return f.FS.Create(name, category)
	})
}

// createMarker creates one of the empty files whose names say what is valid, and syncs its
// directory before and after, as Pebble syncs it only once it has removed the marker before
// it: a crash could keep the new one without the file that it names, or neither of both.
func (f *fence) createMarker(name string, category vfs.DiskWriteCategory) (file vfs.File, err error) {
	dir := f.PathDir(name)
	if err := syncDir(f.FS, dir); err != nil {
		return nil, err
	}
	if file, err = f.FS.Create(name, category); err != nil {
		return nil, err
	}
	if err := syncDir(f.FS, dir); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// ReuseForWrite implements vfs.FS. Pebble calls it to recycle log files.
func (f *fence) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(newname, category, func() (vfs.File, error) {
		f.synced.forget(f.PathBase(oldname))
		return f.FS.ReuseForWrite(oldname, newname, category)
	})
}

func (f *fence) create(name string, category vfs.DiskWriteCategory, open func() (vfs.File, error)) (vfs.File, error) {
	if !f.owns(name) {
		return open()
	}
	var file vfs.File
	if f.do("create", name, func() (err error) {
		if err := f.synced.begin(f.PathBase(name)); err != nil {
			return err
		}
		file, err = open()
		return err
	}) {
		return &fencedFile{File: file, fence: f, name: name, table: path.Ext(name) == ".sst"}, nil
	}
	if category == compactionCategory && !f.needed() {
		return nil, f.cause()
	}
	return f.memory.Create(f.PathBase(name), category)
}

// needed waits until a commit waits for compactions. It reports false when the store is
// about to close and none does.
func (f *fence) needed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.stalled && !f.closing {
		f.changed.Wait()
	}
	return f.stalled
}

// stall notes that commits have begun to wait, or have ended to.
func (f *fence) stall(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled = on
	f.changed.Broadcast()
}

// release lets go of the compactions that wait, and of all that wait for the store.
func (f *fence) release() {
	f.goes.Do(func() { close(f.gone) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	f.changed.Broadcast()
}

// Open implements vfs.FS.
func (f *fence) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if f.cause() != nil {
		if file, err := f.memory.Open(f.PathBase(name), opts...); err == nil {
			return file, nil
		}
	}
	return f.FS.Open(name, opts...)
}

// OpenDir implements vfs.FS.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil || !f.owns(name) {
		return dir, err
	}
	return &fencedFile{File: dir, fence: f, name: name}, nil
}

// Rename implements vfs.FS. Pebble calls it only while it opens a database.
func (f *fence) Rename(oldname, newname string) error {
	f.do("rename", oldname, func() error { return f.FS.Rename(oldname, newname) })
	return f.cause()
}

// Remove implements vfs.FS. To fail to remove a file is no reason to die: it is left
// over, and removed at the next open. After death nothing is removed, as what Pebble
// believes to be in a newer file may never have got there.
func (f *fence) Remove(name string) error {
	if f.owns(name) && f.cause() != nil {
		return nil
	}
	if f.owns(name) {
		f.synced.forget(f.PathBase(name))
	}
	return f.FS.Remove(name)
}

// Unwrap implements vfs.FS.
func (f *fence) Unwrap() vfs.FS { return f.FS }

// fencedFile is a file or directory on the store's disk that Pebble writes or syncs.
type fencedFile struct {
	vfs.File
	fence  *fence
	name   string
	length int64 // of what was written
	table  bool  // Pebble reads it back, and copes with an error
}

// do runs op; what it returns is what Pebble may know of the outcome.
func (f *fencedFile) do(verb string, op func() error) error {
	if !f.fence.do(verb, f.name, op) && f.table {
		return f.fence.cause()
	}
	return nil
}

func (f *fencedFile) Write(p []byte) (int, error) {
	n := len(p) // vfs.File lets Write change p, not shorten it
	if err := f.do("write", func() error { _, err := f.File.Write(p); return err }); err != nil {
		return 0, err
	}
	f.length += int64(n)
	f.fence.traffic.wrote(f.name, n)
	return n, nil
}

func (f *fencedFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *fencedFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *fencedFile) sync(op func() error) error {
	defer f.fence.traffic.synced(f.name, time.Now())
	return f.do("sync", func() error {
		name := f.fence.PathBase(f.name)
		if err := op(); err != nil || !isNoted(name) {
			return err
		}
		return f.fence.synced.note(name, f.length)
	})
}

func (f *fencedFile) SyncTo(length int64) (fullSync bool, err error) {
	err = f.do("sync", func() (err error) { fullSync, err = f.File.SyncTo(length); return err })
	return fullSync, err
}

// Close closes the file, after death too: a handle is not the disk.
func (f *fencedFile) Close() error {
	if f.fence.cause() != nil {
		_ = f.File.Close() // there is nothing left to lose
		return nil
	}
	return f.do("close", f.File.Close)
}
