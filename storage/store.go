package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

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

	dir     string
	options Options
	fence   *fence
	reserve *reserve
	lock    *pebble.Lock
	db      *pebble.DB
	gate    gate
	latches *latches
	ends    *ends
	watches watches
	turn    chan struct{} // full while a transaction has the turn, see Transact
	ids     ids
	counts  counts
	imports atomic.Uint64 // that were begun, which names their files

	recovered bool // see Stats

	unsynced  atomic.Bool // something may have been written since the last sync
	syncArmed atomic.Bool // syncInBackground is about to run
	syncTimer *time.Timer // runs it

	// poisoned says that Pebble panicked: its locks may be held, so it is left alone.
	poisoned atomic.Bool

	closing  sync.Once // runs close
	closeErr error     // what it has returned

	trees treeMap // changed by those who hold mu alone

	// mu is held by who creates, drops or imports trees, also while the disk syncs: who reads
	// must not wait for it.
	mu     sync.Mutex
	nextID uint32 // the next new tree's; stored under keyNextID

	snapMu    sync.Mutex // guards what follows
	snapshots map[*Snapshot]struct{}
}

// defaultTree is embedded under a name that hides nothing of Store.
type defaultTree = Tree

// Default returns the default tree, to be used where a *Tree is wanted, in a Batch or a Tx.
func (s *Store) Default() *Tree { return s.defaultTree }

// Open opens the store in dir, which is created if it is absent (readable by its owner
// only), unless Options.ReadOnly is set. o may be nil. One opener at a time has a store;
// another, in this process or any other one, gets an error. It returns nexusraft.ErrCorrupt if
// the stored data fails its checks, and an error that names both versions if it is of another
// format.
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
		fence:     newFence(c.FS, dir, c.Logger),
		reserve:   newReserve(dir, c),
		gate:      gate{idle: make(chan struct{})},
		latches:   newLatches(),
		ends:      newEnds(),
		turn:      make(chan struct{}, 1),
		trees:     treeMap{byName: make(map[string]*Tree)},
		snapshots: make(map[*Snapshot]struct{}),
	}
	if err := s.open(c); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

// open takes the lock, starts Pebble and reads the registry, or leaves nothing behind.
func (s *Store) open(c Options) (err error) {
	if err := s.prepareDir(c); err != nil {
		return err
	}
	if s.lock, err = pebble.LockDirectory(s.dir, c.FS); err != nil {
		return lockError(err)
	}
	s.syncTimer = time.AfterFunc(time.Hour, s.syncInBackground)
	s.syncTimer.Stop() // until syncLater arms it
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shut())
		}
	}()
	if err := s.start(c); err != nil {
		return err
	}
	if err := s.loadRegistry(); err != nil {
		return err
	}
	if err := s.sweepStaged(); err != nil {
		return err
	}
	return s.fence.cause()
}

func (s *Store) start(c Options) (err error) {
	defer s.guard(&err)
	found, err := checkIntact(c.FS, s.dir)
	if err != nil {
		return err
	}
	if !c.ReadOnly {
		if err := s.fence.synced.open(c.FS, s.dir); err != nil {
			return err
		}
	}
	db, err := pebble.Open(s.dir, c.engine(s.fence, s.lock))
	s.db = db
	if err != nil && found && s.fence.cause() == nil {
		return openFailed(err)
	}
	return err
}

// Close syncs what was written and closes the store. Calls that begin later return
// nexusraft.ErrClosed; for those that are running (a loop over a Scan is one) it waits,
// but not longer than ten seconds, after which it gives up with an error and leaves the
// store to them, and to the end of the process: what was not synced stays so. Open
// snapshots are closed. It returns the reason if the store was dead. A second Close waits for the
// first, and returns the same.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	idle := s.gate.close()
	s.fence.release()
	select {
	case <-idle:
	case <-time.After(closeTimeout):
		return fmt.Errorf("close store %s: calls are still running after %v; end them first", s.dir, closeTimeout)
	}
	s.watches.close()
	err := errors.Join(s.noteClosed(), s.shut())
	if cause := s.fence.cause(); !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

// errPoisoned is why a store can't be closed once Pebble has panicked.
var errPoisoned = errors.New("the storage engine has panicked, this process must end")

// shut ends the timer and closes snapshots, Pebble and lock, in this order. No calls may be
// running.
func (s *Store) shut() error {
	s.syncTimer.Stop()
	if s.poisoned.Load() {
		return errPoisoned
	}
	s.snapMu.Lock()
	for x := range s.snapshots {
		x.release()
	}
	s.snapMu.Unlock()
	err := s.stopEngine()
	if s.poisoned.Load() {
		return errPoisoned
	}
	return errors.Join(err, s.fence.synced.close(), s.lock.Close())
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
	defer s.gate.exit()
	return int64(s.db.Metrics().DiskSpaceUsage())
}

// enter begins a call; if it returns nil, gate.exit must follow.
func (s *Store) enter() error {
	if !s.gate.enter() {
		return fmt.Errorf("%w: store %s", nexusraft.ErrClosed, s.dir)
	}
	if err := s.dead(); err != nil {
		s.gate.exit()
		return err
	}
	return nil
}

// alive returns nil while the store lives and is open, and otherwise what its callers get.
func (s *Store) alive() error {
	if err := s.enter(); err != nil {
		return err
	}
	s.gate.exit()
	return nil
}

// dead returns nil while the store lives, and otherwise what its callers get.
func (s *Store) dead() error {
	cause := s.fence.cause()
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
	s.fence.stop(fmt.Errorf("storage engine panicked: %v", r))
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

// gate counts the calls that are running and keeps new ones out once it is closed.
// Unlike a read lock, it can be entered again by a goroutine that is inside, and those that
// enter it don't wait for each other.
type gate struct {
	users atomic.Int64 // with gateClosed added when it is closed
	empty sync.Once
	idle  chan struct{} // closed when it is closed and the last user has left
}

const gateClosed = math.MinInt64

func (g *gate) enter() bool {
	if g.users.Add(1) > 0 {
		return true
	}
	g.exit()
	return false
}

func (g *gate) exit() {
	if g.users.Add(-1) == gateClosed {
		g.empty.Do(func() { close(g.idle) })
	}
}

// close lets nobody in any more, and returns a channel that is closed when everyone has
// left. It is called once.
func (g *gate) close() (idle <-chan struct{}) {
	for {
		n := g.users.Load()
		if g.users.CompareAndSwap(n, n+1+gateClosed) { // it enters, so that it can be the last to leave
			g.exit()
			return g.idle
		}
	}
}
