package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// closeTimeout is how long Close waits for calls that are still running.
const closeTimeout = 10 * time.Second

// Store is an open store. All its methods, and those of its trees, may be called from
// any goroutine.
//
// A store has all the methods of a Tree: those of its default tree, which has no name and
// can't be dropped.
type Store struct {
	*defaultTree

	dir      string
	options  Options
	failstop *failstop
	reserve  *reserve
	lock     *pebble.Lock // the engine's view of held
	held     io.Closer    // the lock of the directory
	db       *pebble.DB
	calls    closeGuard
	latches  *latches
	ends     *ends
	watches  watches
	turn     chan struct{} // full while a transaction has the turn, see Transact
	copying  chan struct{} // full while the engine copies itself, see checkpoint
	ids      ids
	counts   counts
	imports  atomic.Uint64 // that were begun, which names their files

	recovered bool // see Stats
	temporary bool // Close removes the directory

	unsynced  atomic.Bool // something may have been written since the last sync
	syncArmed atomic.Bool // syncInBackground is about to run
	syncTimer *time.Timer // runs it

	// poisoned says that Pebble panicked: its locks may be held, so it is left alone.
	poisoned atomic.Bool

	closing  sync.Once // runs close
	closeErr error     // what it has returned

	trees treeMap // changed under mu alone

	// mu is held while trees are created, dropped or imported, also while the disk syncs: a read
	// must not wait for it.
	mu     sync.Mutex
	nextID uint32 // the next new tree's; stored under keyNextID
	raised bool   // the format is raisedFormat

	snapMu    sync.Mutex // guards what follows
	snapshots map[*Snapshot]struct{}
}

// defaultTree is embedded under a name that hides nothing of Store.
type defaultTree = Tree

// Default returns the default tree, to be used where a *Tree is wanted, in a Batch or a Tx.
func (s *Store) Default() *Tree { return s.defaultTree }

// Open opens the store in dir, which is created, readable by its owner only, unless it exists or
// Options.ReadOnly is set. o may be nil. A store has one opener at a time, in all processes.
//
// It returns nexusraft.ErrCorrupt if the stored data fails its checks, nexusraft.ErrDiskFull if
// there is less room than Open itself needs (what is in the write-ahead log only, and some KiB),
// and nexusraft.ErrRefused if the store is in use, is of another format (it names both), or is to
// be read only and is not there.
func Open(dir string, o *Options) (*Store, error) {
	c, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	// Locks are kept by name: two names for one directory must not be two locks.
	if dir, err = realName(c.FS, dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		dir:       dir,
		options:   c,
		failstop:  newFailstop(c.FS, dir, c.Logger),
		reserve:   newReserve(dir, c),
		calls:     closeGuard{idle: make(chan struct{})},
		latches:   newLatches(),
		ends:      newEnds(),
		turn:      make(chan struct{}, 1),
		copying:   make(chan struct{}, 1),
		trees:     treeMap{byName: make(map[string]*Tree)},
		snapshots: make(map[*Snapshot]struct{}),
	}
	if err := s.open(c); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, explainNoSpace(err))
	}
	return s, nil
}

// explainNoSpace says what to do where the disk was too full for an Open.
func explainNoSpace(err error) error {
	if !vfs.IsNoSpaceError(err) || errors.Is(err, nexusraft.ErrDiskFull) {
		return err
	}
	return fmt.Errorf("%w: make room on its disk and open it again, nothing that was synced is lost: %w",
		nexusraft.ErrDiskFull, err)
}

// open takes the lock, starts Pebble and reads the registry, or leaves nothing behind.
func (s *Store) open(c Options) (err error) {
	if err := s.prepareDir(c); err != nil {
		return err
	}
	if err := s.takeLock(c); err != nil {
		return lockError(err)
	}
	s.syncTimer = time.AfterFunc(time.Hour, s.syncInBackground)
	s.syncTimer.Stop() // until syncLater arms it
	defer func() {
		if err != nil {
			s.failstop.release() // what the engine has begun waits for nothing
			err = errors.Join(err, s.shut())
		}
	}()
	if err := s.start(c); err != nil {
		return err
	}
	if err := s.loadRegistry(); err != nil {
		return err
	}
	if err := s.sweepIngests(); err != nil {
		return err
	}
	s.failstop.opened()
	return s.failstop.cause()
}

func (s *Store) start(c Options) (err error) {
	defer s.guard(&err)
	if err := s.checkBackup(c); err != nil {
		return err
	}
	found, err := checkIntact(c.FS, s.dir)
	if lost, ok := errors.AsType[*lostNotesError](err); ok {
		return cmp.Or(s.checkForeign(c), error(lost))
	}
	if err != nil {
		return err
	}
	if !c.ReadOnly {
		if err := s.failstop.synced.open(c.FS, s.dir); err != nil {
			return err
		}
	}
	db, err := pebble.Open(s.dir, c.engine(s.failstop, s.lock))
	s.db = db
	if err != nil && found && s.failstop.cause() == nil {
		return openFailed(err)
	}
	return err
}

// checkBackup verifies the files of a backup, and makes a store of it that is opened to be written.
func (s *Store) checkBackup(c Options) error {
	backup, err := isBackup(c.FS, s.dir)
	if err != nil {
		return err
	}
	if backup {
		if err := checkChecksums(context.Background(), c.FS, s.dir); err != nil {
			return err
		}
	}
	if c.ReadOnly {
		return nil
	}
	return endBackup(c.FS, s.dir)
}

// Close syncs what was written and closes the store, its snapshots and its watches. Calls that
// begin later return nexusraft.ErrClosed. Close waits for those that are running (a loop over a
// Scan is one), ten seconds at most; then it returns an error and leaves the store open until the
// process ends, and what was not synced as it is. If the store was dead, it returns why. A second
// Close waits for the first, and returns the same.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	idle := s.calls.close()
	s.failstop.release()
	select {
	case <-idle:
	case <-time.After(closeTimeout):
		return fmt.Errorf("close store %s: calls are still running after %v; end them first", s.dir, closeTimeout)
	}
	s.watches.close()
	err := s.end()
	if cause := s.failstop.cause(); !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

// end closes what is open. No calls are running.
func (s *Store) end() error {
	if s.temporary {
		return errors.Join(s.shut(), s.options.FS.RemoveAll(s.dir))
	}
	return errors.Join(s.noteClosed(), s.shut())
}

// takeLock takes the lock of the directory, which is kept here: an engine that has panicked never
// gives it back.
func (s *Store) takeLock(c Options) (err error) {
	if c.ReadOnly {
		s.held, err = lockToRead(c.FS, s.dir)
	} else {
		s.held, err = c.FS.Lock(c.FS.PathJoin(s.dir, "LOCK"))
	}
	if err != nil {
		return err
	}
	s.lock, err = pebble.LockDirectory(s.dir, lockedFS{c.FS})
	return err // never, as it is locked
}

// lockedFS is a file system whose locks are taken already.
type lockedFS struct{ FS }

// Lock implements FS.
func (lockedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// shut ends the timer and closes snapshots, Pebble and lock, in this order. No calls may be
// running.
func (s *Store) shut() error {
	s.syncTimer.Stop()
	if s.poisoned.Load() {
		return s.abandon()
	}
	s.snapMu.Lock()
	for x := range s.snapshots {
		x.release()
	}
	s.snapMu.Unlock()
	err := s.stopEngine()
	if s.poisoned.Load() {
		return s.abandon()
	}
	return errors.Join(err, s.failstop.synced.close(), s.lock.Close(), s.held.Close())
}

// abandon leaves an engine that has panicked to itself: its locks may be held. It can't reach the
// disk any more, once the changes have ended that were under way, so another Open may.
func (s *Store) abandon() error {
	select {
	case <-s.failstop.changes.close():
		return errors.Join(s.failstop.synced.close(), s.held.Close())
	case <-time.After(closeTimeout):
		return fmt.Errorf("the storage engine has panicked, and the disk does not answer for %v; end this process",
			closeTimeout)
	}
}

func (s *Store) stopEngine() (err error) {
	defer s.guard(&err)
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

// DiskBytes returns how much of the disk the store uses, including what waits to be
// removed, in bytes; 0 if it is closed.
func (s *Store) DiskBytes() int64 {
	if s.enter() != nil {
		return 0
	}
	defer s.calls.exit()
	return int64(s.db.Metrics().DiskSpaceUsage())
}

// enter begins a call; if it returns nil, calls.exit must follow.
func (s *Store) enter() error {
	if !s.calls.enter() {
		return fmt.Errorf("%w: store %s", nexusraft.ErrClosed, s.dir)
	}
	if err := s.dead(); err != nil {
		s.calls.exit()
		return err
	}
	return nil
}

// alive returns nil while the store lives and is open, and otherwise what its callers get.
func (s *Store) alive() error {
	if err := s.enter(); err != nil {
		return err
	}
	s.calls.exit()
	return nil
}

// dead returns nil while the store lives, and otherwise what its callers get.
func (s *Store) dead() error {
	cause := s.failstop.cause()
	if cause == nil {
		return nil
	}
	return fmt.Errorf("%w: store %s has stopped for good and must be opened again: %w", nexusraft.ErrClosed, s.dir, cause)
}

// guard, deferred around a call of Pebble, turns its panic into a dead store and err.
func (s *Store) guard(err *error) {
	if r := recover(); r != nil {
		s.poison(r, err)
	}
}

// guardWhile is guard for a function that also calls the caller's code: a panic there, while
// engine is false, is the caller's own and goes on.
func (s *Store) guardWhile(engine *bool, err *error) {
	if !*engine {
		return
	}
	if r := recover(); r != nil {
		s.poison(r, err)
	}
}

func (s *Store) poison(r any, err *error) {
	s.poisoned.Store(true)
	s.failstop.stop(fmt.Errorf("storage engine panicked: %v", r))
	*err = s.dead()
}

// canonical returns the one absolute name, without symbolic links, of a directory that
// may not exist yet.
func canonical(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(abs) != abs {
		parent, err := canonical(filepath.Dir(abs))
		return filepath.Join(parent, filepath.Base(abs)), err
	}
	return real, err
}

// prepareDir makes sure that there is a directory for a store, or, for one that is only to
// be read, a store.
func (s *Store) prepareDir(c Options) error {
	if !c.ReadOnly {
		if err := makeDir(c.FS, s.dir); err != nil {
			return fmt.Errorf("create the directory: %w", err)
		}
		return nil
	}
	exists, err := Exists(s.dir, &c)
	if err == nil && !exists {
		err = fmt.Errorf("%w: there is no store, and Options.ReadOnly creates none", nexusraft.ErrRefused)
	}
	return err
}

// makeDir creates a directory with its parents so that it outlives a crash.
func makeDir(f FS, dir string) error {
	if _, err := f.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := f.PathDir(dir)
	if parent == dir {
		return nil
	}
	if err := makeDir(f, parent); err != nil {
		return err
	}
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(f, parent)
}
