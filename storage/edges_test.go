package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestRestoreFromPartial: the natural way to rescue an interrupted copy must not delete it.
func TestRestoreFromPartial(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "x.partial")
	s, err := Open(src, testOptions(nil))
	check(t, err)
	check(t, s.Set([]byte("k"), []byte("v")))
	check(t, s.Close())
	err = Restore(t.Context(), src, filepath.Join(dir, "x"), nil)
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if _, statErr := os.Stat(filepath.Join(src, "LOCK")); statErr != nil {
		t.Errorf("the backup was removed: %v", statErr)
	}
}

// TestBackupOfPartial: nor a store that lives where the copy would be made.
func TestBackupOfPartial(t *testing.T) {
	for _, name := range []string{"x.partial", "x.partial/db"} {
		dir := t.TempDir()
		src := filepath.Join(dir, name)
		s, err := Open(src, testOptions(nil))
		check(t, err)
		check(t, s.Set([]byte("k"), []byte("v")))
		err = s.Backup(t.Context(), filepath.Join(dir, "x"))
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
		check(t, s.Close())
		if exists, err := Exists(src, nil); !exists {
			t.Errorf("%s: the live store is gone: %v", name, err)
		}
	}
}

// TestFailstopUncleanDir: the engine's files are behind failstop, whatever the directory is called.
func TestFailstopUncleanDir(t *testing.T) {
	for _, dir := range []string{"./data", "data/"} {
		t.Chdir(t.TempDir())
		mem := vfs.Default
		f := &failingFS{only: func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		}}
		s, err := Open(dir, testOptions(errorfs.Wrap(mem, f)))
		check(t, err)
		if !s.failstop.owns(s.options.FS.PathJoin(s.dir, "000002.log")) {
			t.Errorf("%s: failstop does not own the log", dir)
			check(t, s.Close())
			continue
		}
		check(t, s.Close())
	}
}

// TestDoubleOpenExplicitFS: two names for one directory are one lock, also if the file system is
// given.
func TestDoubleOpenExplicitFS(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(dir, link))
	o := testOptions(vfs.Default)
	s, err := Open(dir, o)
	check(t, err)
	defer s.Close()
	s2, err := Open(link, o)
	if err == nil {
		t.Errorf("a second opener was let in; it closes with %v", s2.Close())
	}
}

// blockFS blocks syncs of logs while closed.
type blockFS struct {
	vfs.FS
	mu      sync.Mutex
	blocked chan struct{}
	hit     chan struct{}
}
type blockFile struct {
	vfs.File
	g *blockFS
}

func (g *blockFS) wait() {
	g.mu.Lock()
	c := g.blocked
	g.mu.Unlock()
	if c != nil {
		select {
		case g.hit <- struct{}{}:
		default:
		}
		<-c
	}
}

func (g *blockFS) block() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	g.blocked, g.hit = c, make(chan struct{}, 1)
	return func() { g.mu.Lock(); g.blocked = nil; g.mu.Unlock(); close(c) }
}

func (g *blockFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, c)
	if err != nil || !isLog(name) {
		return f, err
	}
	return &blockFile{f, g}, nil
}

func (g *blockFS) ReuseForWrite(o, n string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(o, n, c)
	if err != nil || !isLog(n) {
		return f, err
	}
	return &blockFile{f, g}, nil
}
func (f *blockFile) Sync() error                  { f.g.wait(); return f.File.Sync() }
func (f *blockFile) SyncData() error              { f.g.wait(); return f.File.SyncData() }
func (f *blockFile) SyncTo(n int64) (bool, error) { f.g.wait(); return f.File.SyncTo(n) }

// TestReadersDontWaitForNewTrees: nobody who reads waits while somebody creates a tree.
func TestReadersDontWaitForNewTrees(t *testing.T) {
	g := &blockFS{FS: NewMemFS()}
	s := mustOpen(t, g)
	old := s.NewSnapshot()
	release := g.block()
	done := make(chan error, 1)
	go func() { _, err := s.Tree("new"); done <- err }()
	<-g.hit
	for name, read := range map[string]func(){
		"NewSnapshot":  func() { s.NewSnapshot().Close() },
		"Begin":        func() { s.Begin().Close() },
		"OpenTree":     func() { _, _, _ = s.OpenTree("x") },
		"Trees":        func() { _, _ = s.Trees() },
		"Close of one": func() { old.Close() },
	} {
		got := make(chan struct{})
		go func() { read(); close(got) }()
		select {
		case <-got:
		case <-time.After(time.Second):
			t.Errorf("%s waits for the disk", name)
		}
	}
	release()
	check(t, <-done)
	check(t, s.Close())
}

// TestSnapshotForeignTree: a tree of another store is refused.
func TestSnapshotForeignTree(t *testing.T) {
	a, b := newStore(t), newStore(t)
	put(t, mustTree(t, a, "x"), "k", "of a")
	tb := mustTree(t, b, "y")
	snap := a.NewSnapshot()
	defer snap.Close()
	v, ok, err := snap.Reader(tb).Get([]byte("k"))
	if err == nil {
		t.Errorf("tree y of store b, read in a snapshot of a: %q %v %v", v, ok, err)
	}
}

// TestTxAfterEnd: what is written through a transaction that has ended is refused.
func TestTxAfterEnd(t *testing.T) {
	s := newStore(t)
	tx := s.Begin()
	v := tx.Tree(s.Default())
	check(t, v.Set([]byte("k"), []byte("v")))
	check(t, tx.Commit())
	if err := v.Set([]byte("k2"), []byte("v")); err == nil {
		t.Error("Set after Commit: nil")
	}
	if _, ok, err := v.Get([]byte("k2")); err == nil {
		t.Errorf("Get after Commit: %v %v", ok, err)
	}
	if err := tx.Tree(s.Default()).Delete([]byte("k")); err == nil {
		t.Error("Delete after Commit: nil")
	}
}

func TestBatchOfClosed(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	tree := s.Default()
	check(t, s.Close())
	b := s.NewBatch()
	defer b.Close()
	if err := b.Set(tree, []byte("k"), nil); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Set of a batch of a closed store: %v", err)
	}
	if err := s.Transact(context.Background(), func(tx *Tx) error { return nil }); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Transact of a closed store: %v", err)
	}
}

func TestDropTwice(t *testing.T) {
	s := newStore(t)
	for range 200 {
		mustTree(t, s, "x")
		var wg sync.WaitGroup
		var errs [4]error
		for i := range errs {
			wg.Go(func() { errs[i] = s.DropTree("x") })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
	}
}
