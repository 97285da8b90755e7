package storage

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const testReserve = 8 << 20

// openReserved opens a store with a reserve of testReserve, of which log tells.
func openReserved(t *testing.T, fs FS, log *bytes.Buffer) *Store {
	t.Helper()
	o := testOptions(fs)
	o.DiskReserve = testReserve
	if log != nil {
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	s, err := Open("data", o)
	check(t, err)
	return s
}

// countingFS counts how often it is asked for its free space.
type countingFS struct {
	*MemFS
	asked atomic.Int64
}

func (f *countingFS) GetDiskUsage(dir string) (vfs.DiskUsage, error) {
	f.asked.Add(1)
	return f.MemFS.GetDiskUsage(dir)
}

func wantFull(t *testing.T, what string, err error, full bool) {
	t.Helper()
	if full != errors.Is(err, nexusraft.ErrDiskFull) || !full && err != nil {
		t.Errorf("%s: got %v, want a full disk: %v", what, err, full)
	}
}

// Room is asked at once below the reserve, again an eighth above it, and tells each once.
func TestRoomHasHysteresis(t *testing.T) {
	fs, log := NewMemFS(), &bytes.Buffer{}
	o, err := (&Options{FS: fs, DiskReserve: testReserve, Logger: slog.New(slog.NewTextHandler(log, nil))}).withDefaults()
	check(t, err)
	synctest.Test(t, func(t *testing.T) {
		r := newReserve("data", o)
		for _, step := range []struct {
			free int64
			full bool
		}{
			{testReserve, false},
			{testReserve - 1, true},
			{testReserve, true},
			{testReserve + testReserve/8 - 1, true},
			{testReserve + testReserve/8, false},
			{testReserve, false},
			{0, true},
		} {
			fs.SetDiskFree(step.free)
			time.Sleep(lookEvery)
			err := r.room(0)
			wantFull(t, "room", err, step.full)
		}
		for _, word := range []string{"data", "0 bytes free", "8388608"} {
			if err := r.room(0); !strings.Contains(err.Error(), word) {
				t.Errorf("got %q, want one that names %s", err, word)
			}
		}
	})
	if full, room := strings.Count(log.String(), "disk full"), strings.Count(log.String(), "room again"); full != 2 ||
		room != 1 {
		t.Errorf("told %d times that it is full and %d times that it is not, want 2 and 1:\n%s", full, room, log)
	}
}

func TestRoomIsCheap(t *testing.T) {
	fs := &countingFS{MemFS: NewMemFS()}
	fs.SetDiskFree(1 << 40)
	o, err := (&Options{FS: fs, DiskReserve: testReserve}).withDefaults()
	check(t, err)
	synctest.Test(t, func(t *testing.T) {
		r := newReserve("data", o)
		ask := func(times, n int) int64 {
			before := fs.asked.Load()
			for range times {
				check(t, r.room(n))
			}
			return fs.asked.Load() - before
		}
		if got := ask(1000, 1); got != 1 {
			t.Errorf("1000 small writes at once: asked %d times, want 1", got)
		}
		// The write that makes it look comes after the look, and so counts for the next one.
		if got := ask(64, testReserve/64); got != 9 {
			t.Errorf("writes of the reserve's size: asked %d times, want 9", got)
		}
		time.Sleep(lookEvery)
		if got := ask(1000, 0); got != 1 {
			t.Errorf("after %v: asked %d times, want 1", lookEvery, got)
		}
	})
}

func TestDiskReserveDefaults(t *testing.T) {
	for _, c := range []struct{ reserve, memTable, want int64 }{
		{0, 0, 256 << 20},
		{0, 8 << 20, 128 << 20},
		{0, 128 << 20, 512 << 20},
		{5, 0, 5},
		{-1, 0, -1},
	} {
		o, err := (&Options{DiskReserve: c.reserve, MemTableBytes: c.memTable}).withDefaults()
		check(t, err)
		if o.DiskReserve != c.want {
			t.Errorf("DiskReserve %d, MemTableBytes %d: got %d, want %d", c.reserve, c.memTable, o.DiskReserve, c.want)
		}
	}
	fs := NewMemFS()
	o := testOptions(fs)
	o.DiskReserve = -1
	s, err := Open("data", o)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	fs.SetDiskFree(0)
	put(t, mustTree(t, s, "t"), "k", "without a reserve")
}

// On a full disk, what would need room is refused and leaves nothing, and all else goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	fs := NewMemFS()
	s := openReserved(t, fs, nil)
	tree := mustTree(t, s, "t")
	put(t, tree, "old", "1")
	put(t, tree, "older", "1")
	fs.SetDiskFree(testReserve - 1)
	wantSoon(t, s, true)
	if got := s.DiskFree(); got != testReserve-1 {
		t.Errorf("DiskFree: got %d, want %d", got, testReserve-1)
	}

	b := s.NewBatch()
	defer b.Close()
	check(t, b.Set(tree, []byte("new"), []byte("1")))
	wantFull(t, "Commit", b.Commit(true), true)
	wantFull(t, "CommitAsync", b.CommitAsync()(), true)
	wantFull(t, "Set", tree.Set([]byte("new"), nil), true)
	wantFull(t, "Transact", s.Transact(t.Context(), func(tx *Tx) error { return tx.Tree(tree).Set([]byte("new"), nil) }),
		true)
	_, err := s.Tree("new")
	wantFull(t, "Tree", err, true)
	if _, ok, err := tree.Get([]byte("new")); ok || err != nil {
		t.Errorf("a refused write: got %v, %v", ok, err)
	}
	if value, ok, err := tree.Get([]byte("old")); !ok || err != nil || string(value) != "1" {
		t.Errorf("a read: got %q, %v, %v", value, ok, err)
	}

	wantFull(t, "Flush", s.Flush(), false)
	wantFull(t, "Delete", tree.Delete([]byte("older")), false)
	small := s.NewBatch()
	defer small.Close()
	small.UseReserve()
	for _, key := range []string{"a", "b"} {
		small.Reset()
		check(t, small.Set(tree, []byte(key), nil))
		wantFull(t, "a batch with the reserve", small.Commit(true), false)
	}

	fs.SetDiskFree(2 * testReserve)
	wantSoon(t, s, false)
	wantFull(t, "Commit with room again", b.Commit(true), false)
	crash := mustOpen(t, fs.CrashClone(nil, 0))
	defer func() { check(t, crash.Close()) }()
	var keys []string
	for _, p := range collect(t, mustTree(t, crash, "t").Scan(nil, nil)) {
		keys = append(keys, p.Key)
	}
	if got, want := strings.Join(keys, " "), "a b new old"; got != want {
		t.Errorf("after a crash: got keys %s, want %s", got, want)
	}
	check(t, s.Close())

	fs.SetDiskFree(0)
	s = openReserved(t, fs, nil)
	defer func() { check(t, s.Close()) }()
	wantFull(t, "Room of a full disk after opening", s.Room(), true)
}

// TestRemovalsOnAFullDisk: everything that only removes goes on, as it makes room.
func TestRemovalsOnAFullDisk(t *testing.T) {
	remove := map[string]func(*Store, *Tree, []byte) error{
		"Delete":         func(_ *Store, tree *Tree, key []byte) error { return tree.Delete(key) },
		"Swap":           func(_ *Store, tree *Tree, key []byte) error { _, err := tree.Swap(key, nil); return err },
		"CompareAndSwap": func(_ *Store, tree *Tree, key []byte) error { return tree.Replace(key, []byte("v"), nil) },
		"Update": func(_ *Store, tree *Tree, key []byte) error {
			_, _, err := tree.Update(key, func([]byte) ([]byte, error) { return nil, nil })
			return err
		},
		"PopFirst":   func(_ *Store, tree *Tree, _ []byte) error { _, _, err := tree.PopFirst(); return err },
		"PopLast":    func(_ *Store, tree *Tree, _ []byte) error { _, _, err := tree.PopLast(); return err },
		"PopFirstIn": func(_ *Store, tree *Tree, key []byte) error { _, _, err := tree.PopFirstIn(key, nil); return err },
		"Transact": func(s *Store, tree *Tree, key []byte) error {
			return s.Transact(t.Context(), func(tx *Tx) error {
				_, _, err := tx.Tree(tree).Get(key)
				return errors.Join(err, tx.Tree(tree).Delete(key))
			})
		},
		"DeleteRange": func(s *Store, tree *Tree, _ []byte) error { return deleteAll(s, tree) },
		"Clear":       func(_ *Store, tree *Tree, _ []byte) error { return tree.Clear() },
		"DropTree": func(s *Store, tree *Tree, _ []byte) error {
			return errors.Join(tree.Clear(), s.DropTree("dropped"))
		},
	}
	synctest.Test(t, func(t *testing.T) {
		fs := NewMemFS()
		s := openReserved(t, fs, nil)
		defer func() { check(t, s.Close()) }()
		mustTree(t, s, "dropped")
		trees := make(map[string]*Tree)
		for name := range remove {
			trees[name] = mustTree(t, s, name)
			put(t, trees[name], "k", "v")
		}
		fs.SetDiskFree(0)
		time.Sleep(lookEvery)
		wantFull(t, "Room", s.Room(), true)
		for name, remove := range remove {
			wantFull(t, name, remove(s, trees[name], []byte("k")), false)
			if empty, err := trees[name].Empty(); !empty || err != nil {
				t.Errorf("after %s: got empty %v, %v", name, empty, err)
			}
		}
	})
}

// wantSoon waits until the store has noticed that its disk is full, or that it has room.
func wantSoon(t *testing.T, s *Store, full bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for errors.Is(s.Room(), nexusraft.ErrDiskFull) != full {
		if time.Now().After(deadline) {
			t.Fatalf("Room: still %v", s.Room())
		}
		time.Sleep(lookEvery / 10)
	}
}

// TestNoSpace runs out of space in the middle of writes, in spite of the reserve: the store
// stops and says why, and what it has acknowledged is there once there is room.
func TestNoSpace(t *testing.T) {
	for _, at := range []int64{1, 50, 120} {
		disk := NewMemFS()
		var writes atomic.Int64
		s := openReserved(t, errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate) && writes.Add(1) >= at+50 {
				return syscall.ENOSPC
			}
			return nil
		})), nil)
		tree := mustTree(t, s, "t")
		acked := 0
		var err error
		for err == nil {
			if err = tree.Set(numberedKey(acked+1), make([]byte, 4<<10)); err == nil {
				acked++
			}
		}
		if !errors.Is(err, nexusraft.ErrClosed) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, nexusraft.ErrDiskFull) {
			t.Errorf("at %d: got %v, want a stopped store and its cause", at, err)
		}
		if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("at %d: Close: got %v, want the cause", at, err)
		}
		s = mustOpen(t, disk)
		tree = mustTree(t, s, "t")
		for n := 1; n <= acked; n++ {
			if _, ok, err := tree.Get(numberedKey(n)); !ok || err != nil {
				t.Errorf("at %d: acknowledged write %d of %d: got %v, %v", at, n, acked, ok, err)
			}
		}
		check(t, s.Close())
	}
}
