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

// failstop is the file system that Pebble sees: the store's own one until a write or sync
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
//   - The cause of death is stored before the failing call returns to Pebble. So a caller
//     that finds no cause after a commit knows that each write and sync that the commit
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
type failstop struct {
	vfs.FS
	dir     string // the store's; what is elsewhere, a backup, is none of its business
	log     *slog.Logger
	died    atomic.Pointer[error]
	gone    chan struct{} // closed once it has died, or the store is about to close
	goes    sync.Once     // closes gone
	changes closeGuard    // the changes of the disk that are under way
	traffic traffic
	synced  synced
	logs    logs
	capture atomic.Pointer[capture] // of the backup that begins, nil if there is none
	writing atomic.Bool             // Pebble has begun to write; it must not fail to open any more
	memory  *vfs.MemFS              // the files begun after death, by their base names

	mu      sync.Mutex // guards what follows
	changed *sync.Cond // of what follows
	stalled bool       // commits wait for flushes or compactions
	closing bool       // the store is not open yet, or is about to close: nothing waits
}

// compactionCategory is how Pebble labels the files that its compactions write.
const compactionCategory vfs.DiskWriteCategory = "pebble-compaction"

func newFailstop(fs vfs.FS, dir string, log *slog.Logger) *failstop {
	f := &failstop{FS: fs, dir: dir, log: log, memory: vfs.NewMem(), gone: make(chan struct{}), closing: true}
	f.logs.written = make(map[string]*atomic.Int64)
	f.changes.idle = make(chan struct{})
	f.changed = sync.NewCond(&f.mu)
	return f
}

// owns reports whether a file is the store's, or is its directory.
func (f *failstop) owns(name string) bool { return name == f.dir || f.PathDir(name) == f.dir }

// stop ends the life of the store for the reason that it is given; the first one counts.
// It is logged here since it may happen where no caller gets to know it.
func (f *failstop) stop(cause error) {
	if f.died.CompareAndSwap(nil, &cause) {
		f.goes.Do(func() { close(f.gone) })
		f.log.Error("store has stopped", "err", cause)
	}
}

// cause returns why the store is dead, nil while it lives.
func (f *failstop) cause() error {
	if p := f.died.Load(); p != nil {
		return *p
	}
	return nil
}

// do runs op, a change of the disk, and reports whether it was done. An error of op is
// the end of the store; after the end nothing is run.
func (f *failstop) do(verb, name string, op func() error) bool {
	if !f.changes.enter() {
		return false
	}
	defer f.changes.exit()
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
func (f *failstop) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(name, "", category, func() (vfs.File, error) {
		if strings.HasPrefix(f.PathBase(name), "marker.") {
			return f.createMarker(name, category)
		}
		return f.FS.Create(name, category)
	})
}

// createMarker creates one of the empty files whose names say what is valid, and syncs its
// directory before and after, as Pebble syncs it only once it has removed the marker before
// it: a crash could keep the new one without the file that it names, or neither of both.
func (f *failstop) createMarker(name string, category vfs.DiskWriteCategory) (file vfs.File, err error) {
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
func (f *failstop) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(newname, f.PathBase(oldname), category, func() (vfs.File, error) {
		f.logs.forget(f.PathBase(oldname))
		return f.FS.ReuseForWrite(oldname, newname, category)
	})
}

// create makes a file by open; reused is the base name of the one that it was before, if any.
func (f *failstop) create(
	name, reused string, category vfs.DiskWriteCategory, open func() (vfs.File, error),
) (vfs.File, error) {
	if !f.owns(name) {
		return open()
	}
	var file vfs.File
	f.writing.Store(true)
	if f.do("create", name, func() (err error) {
		if err := f.synced.begin(f.PathBase(name), reused); err != nil {
			return err
		}
		file, err = f.withDescriptor(open)
		return err
	}) {
		length := f.logs.begin(f.PathBase(name))
		return &failstopFile{File: file, failstop: f, name: name, length: length, table: path.Ext(name) == ".sst"}, nil
	}
	if category == compactionCategory && !f.needed() {
		return nil, f.cause()
	}
	return f.memory.Create(f.PathBase(name), category)
}

// needed waits until a commit waits for compactions. It reports false when the store is
// about to close and none does.
func (f *failstop) needed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.stalled && !f.closing {
		f.changed.Wait()
	}
	return f.stalled
}

// stall notes that commits have begun to wait, or have ended to.
func (f *failstop) stall(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled = on
	f.changed.Broadcast()
}

// opened is called when the store is open. Until then compactions fail after death, as the end of
// Pebble's Open waits for them.
func (f *failstop) opened() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = false
}

// release lets go of the compactions that wait, and of all that wait for the store.
func (f *failstop) release() {
	f.goes.Do(func() { close(f.gone) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	f.changed.Broadcast()
}

// Open implements vfs.FS.
func (f *failstop) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if f.cause() != nil {
		if file, err := f.memory.Open(f.PathBase(name), opts...); err == nil {
			return file, nil
		}
	}
	file, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return f.captured(name, file), nil
}

// OpenDir implements vfs.FS.
func (f *failstop) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	if f.owns(name) {
		return &failstopFile{File: dir, failstop: f, name: name, length: new(atomic.Int64)}, nil
	}
	if c := f.capture.Load(); c != nil {
		return &copiedDir{File: dir, capture: c}, nil
	}
	return dir, nil
}

// Rename implements vfs.FS. Pebble calls it only while it opens a database, when flushes and
// compactions are running that a failed Open would tear down under their feet. So it goes on, and
// Store.open finds the cause.
func (f *failstop) Rename(oldname, newname string) error {
	f.do("rename", oldname, func() error { return f.FS.Rename(oldname, newname) })
	return nil
}

// List implements vfs.FS. Pebble lists its directory once more at the end of an Open, where an
// error would do the same harm as that of a Rename. With an empty list it removes nothing.
func (f *failstop) List(dir string) ([]string, error) {
	names, err := f.FS.List(dir)
	if err != nil && dir == f.dir && f.writing.Load() {
		f.stop(fmt.Errorf("list %s: %w", dir, err))
		return nil, nil
	}
	return names, err
}

// Remove implements vfs.FS. To fail to remove a file is no reason to die: it is left
// over, and removed at the next open. After death nothing is removed, as what Pebble
// believes to be in a newer file may never have got there.
func (f *failstop) Remove(name string) error {
	if f.owns(name) && f.cause() != nil {
		return nil
	}
	if f.owns(name) {
		base := f.PathBase(name)
		if f.synced.noted(base) && !f.do("note the removal of", name, func() error { return f.synced.begin(base, "") }) {
			return nil
		}
		f.logs.forget(base)
	}
	return f.FS.Remove(name)
}

// Unwrap implements vfs.FS.
func (f *failstop) Unwrap() vfs.FS { return f.FS }

// failstopFile is a file or directory on the store's disk that Pebble writes or syncs.
type failstopFile struct {
	vfs.File
	failstop *failstop
	name     string
	length   *atomic.Int64 // of what was written
	table    bool          // Pebble reads it back, and copes with an error
}

// do runs op; what it returns is what Pebble may know of the outcome.
func (f *failstopFile) do(verb string, op func() error) error {
	if !f.failstop.do(verb, f.name, op) && f.table {
		return f.failstop.cause()
	}
	return nil
}

func (f *failstopFile) Write(p []byte) (int, error) {
	n := len(p) // vfs.File lets Write change p, not shorten it
	if err := f.do("write", func() error { _, err := f.File.Write(p); return err }); err != nil {
		return 0, err
	}
	f.length.Add(int64(n))
	f.failstop.traffic.wrote(f.name, n)
	return n, nil
}

func (f *failstopFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *failstopFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *failstopFile) sync(op func() error) error {
	defer f.failstop.traffic.synced(f.name, time.Now())
	return f.do("sync", func() error {
		name := f.failstop.PathBase(f.name)
		if err := op(); err != nil || !isNoted(name) {
			return err
		}
		return f.failstop.synced.note(name, f.length.Load())
	})
}

func (f *failstopFile) SyncTo(length int64) (fullSync bool, err error) {
	err = f.do("sync", func() (err error) { fullSync, err = f.File.SyncTo(length); return err })
	return fullSync, err
}

// Close closes the file, after death too: a handle is not the disk.
func (f *failstopFile) Close() error {
	if f.failstop.cause() != nil {
		_ = f.File.Close() // there is nothing left to lose
		return nil
	}
	return f.do("close", f.File.Close)
}
