package storage

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// nthFails fails the operation at, of any kind, from 1, or all from it on; 0 fails none.
type nthFails struct {
	count  atomic.Int64
	at     int64
	sticky bool
	last   atomic.Value // what failed
}

func (f *nthFails) String() string { return "nthFails" }

func (f *nthFails) MaybeError(op errorfs.Op) error {
	if n := f.count.Add(1); f.at != 0 && (n == f.at || f.sticky && n > f.at) {
		err := fmt.Errorf("injected failure %d at %v of %s", n, op.Kind, op.Path)
		f.last.Store(err.Error())
		return err
	}
	return nil
}

// TestEveryFailureOfOpen fails each operation of an Open in turn, reads too, of a new store, and of
// one whose process was killed, with a log to be written to tables, and compactions to be done. The
// directory can be opened again at once, and nothing is left running.
func TestEveryFailureOfOpen(t *testing.T) {
	for name, img := range map[string]image{"new": {}, "killed": busyStore(t)} {
		for _, sticky := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, sticky=%v", name, sticky), func(t *testing.T) {
				for at := int64(1); ; at++ {
					inject := &nthFails{at: at, sticky: sticky}
					failOpen(t, img, inject)
					if inject.count.Load() < at || t.Failed() {
						break
					}
				}
				awaitNoEngine(t)
			})
		}
	}
}

// busyStore is a killed store with overlapping tables and something in its log.
func busyStore(t *testing.T) image {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	for range 6 {
		for i := range 30 {
			check(t, s.Set(fmt.Appendf(nil, "%03d", i), make([]byte, 1000), NoSync))
		}
		check(t, s.db.Flush())
	}
	for i := range 50 {
		check(t, s.Set(fmt.Appendf(nil, "%03d", i), make([]byte, 1000), NoSync))
	}
	check(t, s.Flush())
	img := imageAt(t, fs.CrashClone(nil, 0), "data")
	check(t, s.Close())
	return img
}

func failOpen(t *testing.T, img image, inject *nthFails) {
	t.Helper()
	disk := NewMemFS()
	if len(img) > 0 {
		check(t, img.copyTo(disk, "data"))
	}
	done := make(chan error, 1)
	go func() {
		s, err := Open("data", testOptions(errorfs.Wrap(disk, inject)))
		if err == nil {
			err = s.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && !strings.Contains(err.Error(), "injected failure") {
			t.Errorf("%v: got %v, want the cause", inject.last.Load(), err)
		}
	case <-time.After(time.Minute):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%v: Open or Close hangs:\n%s", inject.last.Load(), stacks[:runtime.Stack(stacks, true)])
	}
	s, err := Open("data", testOptions(disk))
	if err != nil {
		t.Fatalf("%v: it can't be opened again: %v", inject.last.Load(), err)
	}
	if len(img) > 0 {
		if _, ok, err := s.Get([]byte("049")); !ok || err != nil {
			t.Errorf("%v: the last key: %v, %v", inject.last.Load(), ok, err)
		}
	}
	check(t, s.Close())
}

// awaitNoEngine waits until no goroutine of the engine is left.
func awaitNoEngine(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 4<<20)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "cockroachdb/pebble/v2.") {
			return
		}
	}
	t.Errorf("the engine is still running:\n%s", stacks[:runtime.Stack(stacks, true)])
}

// allOperations does everything that writes, and returns the first error.
func allOperations(t *testing.T, fs FS, export []byte) error {
	s, err := Open("data", testOptions(fs))
	if err != nil {
		return err
	}
	err = func() error {
		tree, err := s.Tree("tree")
		if err != nil {
			return err
		}
		x := s.NewSnapshot() // a Close ends it
		defer x.Close()
		for i := range 40 {
			if err := tree.Set(fmt.Appendf(nil, "%d", i), make([]byte, 4000), Durability(i%2)); err != nil {
				return err
			}
		}
		if _, err := s.Import(t.Context(), bytes.NewReader(export)); err != nil {
			return err
		}
		_, popped, err := tree.PopFirst()
		return errors.Join(err, s.Backup(t.Context(), "backup"), tree.Clear(), s.DropTree("tree"), s.Flush(),
			s.Transact(t.Context(), func(tx *Tx) error { return tx.Tree(s.Default()).Set([]byte("k"), nil) }), wantTrue(popped))
	}()
	return errors.Join(err, s.Close())
}

func wantTrue(ok bool) error {
	if !ok {
		return errors.New("got false")
	}
	return nil
}

// TestOpenAgainAfterAnyFailure fails each operation of a store's life in turn, reads, locks and
// removals too: once it is closed, its directory can be opened again in the same process. Unless it
// is to be thorough, one in four fails once, and one in four with all that follow.
func TestOpenAgainAfterAnyFailure(t *testing.T) {
	var export bytes.Buffer
	from := mustOpen(t, NewMemFS())
	check(t, mustTree(t, from, "imported").Set([]byte("k"), []byte("v")))
	x := from.NewSnapshot()
	_, err := x.Export(t.Context(), &export, "imported")
	check(t, err)
	x.Close()
	check(t, from.Close())
	for first, sticky := range []bool{false, true} {
		at, step := int64(1+2*first), int64(4)
		if thorough() {
			at, step = 1, 1
		}
		for ; ; at += step {
			disk := NewMemFS()
			inject := &nthFails{at: at, sticky: sticky}
			err := allOperations(t, errorfs.Wrap(disk, inject), export.Bytes())
			if inject.count.Load() < at {
				check(t, err)
				break
			}
			s, again := Open("data", testOptions(disk))
			if again != nil {
				t.Errorf("%v, which was told as %v: it can't be opened again: %v", inject.last.Load(), err, again)
				continue
			}
			check(t, s.Close())
		}
	}
	awaitNoEngine(t)
}

// TestOpenAgainAfterPanic: what has panicked can't reach the disk any more, so another Open may.
func TestOpenAgainAfterPanic(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	check(t, s.Set([]byte("k"), []byte("v")))
	err := func() (err error) {
		defer s.guard(&err)
		panic("as the engine does")
	}()
	if !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "as the engine does") {
		t.Errorf("Close: got %v, want the cause", err)
	}
	check(t, s.stopEngine()) // for the sake of the leak check
	again := mustOpen(t, fs)
	if _, ok, err := again.Get([]byte("k")); !ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
	check(t, again.Close())
}

func TestRoomOfWhatIsNotThere(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	check(t, s.Room())
	check(t, s.Close())
	if err := s.Room(); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Room of a closed store: got %v, want ErrClosed", err)
	}
	s = mustOpen(t, NewMemFS())
	s.failstop.stop(errTest)
	if err := s.Room(); !errors.Is(err, nexusraft.ErrClosed) || !errors.Is(err, errTest) {
		t.Errorf("Room of a dead store: got %v, want ErrClosed and the cause", err)
	}
	_ = s.Close() // the cause
}

func TestDropDefaultTree(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("k"), nil))
	if err := s.DropTree(""); err == nil || !strings.Contains(err.Error(), "default tree") {
		t.Errorf("got %v, want an error that names the default tree", err)
	}
	check(t, s.DropTree("absent"))
}

// TestCrashCloneBesideOpen clones all the time while stores are opened.
func TestCrashCloneBesideOpen(t *testing.T) {
	fs := NewMemFS()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 30 {
			check(t, mustOpen(t, fs).Close())
		}
	}()
	for end := time.After(time.Minute); ; {
		select {
		case <-done:
			return
		case <-end:
			t.Fatal("Open and CrashClone wait for each other")
		default:
			fs.CrashClone(nil, 0)
		}
	}
}
