package storage

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// failingFS fails one change of the disk, or all from that one on.
type failingFS struct {
	count  atomic.Int64 // of the changes so far
	at     int64        // the one that fails, from 1; 0 for none
	sticky bool
	only   func(errorfs.Op) bool
}

func (f *failingFS) String() string { return "failingFS" }

func (f *failingFS) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileSync,
		errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileClose:
	default:
		return nil
	}
	if f.only != nil && !f.only(op) {
		return nil
	}
	if n := f.count.Add(1); f.at != 0 && (n == f.at || f.sticky && n > f.at) {
		return fmt.Errorf("injected failure %d at %v of %s", n, op.Kind, op.Path)
	}
	return nil
}

// outcome is what a run of workload was told.
type outcome struct {
	synced int // the last batch that was acknowledged with sync
	last   int // the last batch that was begun
	err    error
}

// workloadBatches is enough for a few flushes.
const workloadBatches = 36

// workload opens a store, commits numbered batches until an error, tries every call if
// there was one, and closes the store.
func workload(t *testing.T, fs FS) (out outcome) {
	s, err := Open("data", testOptions(fs))
	if err != nil {
		return outcome{err: err}
	}
	defer func() {
		if err := s.Close(); out.err == nil {
			out.err = err
		}
	}()
	trees := make([]*Tree, crashTrees)
	for i := range trees {
		if trees[i], err = s.Tree(fmt.Sprint(i)); err != nil {
			return outcome{err: err}
		}
	}
	for out.last < workloadBatches {
		out.last++
		sync := out.last%3 == 0
		if out.err = tryNumbered(s, trees, out.last, sync); out.err != nil {
			everyCall(t, s, trees[0], s.NewBatch(), nil)
			return out
		}
		if sync {
			out.synced = out.last
		}
	}
	return out
}

func tryNumbered(s *Store, trees []*Tree, n int, sync bool) error {
	b := s.NewBatch()
	defer b.Close()
	for i, tree := range trees {
		if err := b.Set(tree, numberedKey(n), fmt.Appendf(nil, "%d %d %02000d", i, n, 0)); err != nil {
			return err
		}
	}
	return b.Commit(sync)
}

// TestEveryFailure fails each change of the disk in turn. Whatever Pebble was doing: the
// process goes on, no call hangs, all calls say why, and what was acknowledged is there.
func TestEveryFailure(t *testing.T) {
	clean := &failingFS{}
	if out := workload(t, errorfs.Wrap(NewMemFS(), clean)); out.err != nil || out.synced != workloadBatches {
		t.Fatalf("without failures: got %+v", out)
	}
	total := clean.count.Load()
	if total < 60 {
		t.Fatalf("only %d changes to fail", total)
	}
	for _, sticky := range []bool{false, true} {
		var hit atomic.Int64
		t.Run(fmt.Sprintf("sticky=%v", sticky), func(t *testing.T) {
			for at := int64(1); at <= total; at++ {
				t.Run(fmt.Sprint(at), func(t *testing.T) {
					t.Parallel()
					if oneFailure(t, at, sticky) {
						hit.Add(1)
					}
				})
			}
		})
		if got, want := hit.Load(), total/2; got < want {
			t.Errorf("sticky=%v: %d failures were noticed, want at least %d", sticky, got, want)
		}
	}
}

// oneFailure reports whether the failure was hit.
func oneFailure(t *testing.T, at int64, sticky bool) bool {
	disk := NewMemFS()
	inject := &failingFS{at: at, sticky: sticky}
	out := workload(t, errorfs.Wrap(disk, inject))
	hit := inject.count.Load() >= at
	if hit && (out.err == nil || !strings.Contains(out.err.Error(), "injected failure")) {
		t.Errorf("got %v, want the injected failure", out.err)
	}
	if crash := disk.CrashClone(nil, 0); out.synced > 0 {
		verifyPrefix(t, crash, out.synced, out.last)
		verifyPrefix(t, disk, out.synced, out.last)
	}
	return hit
}

// TestFailedSync has many goroutines in Commit when the log's sync fails.
func TestFailedSync(t *testing.T) {
	var broken atomic.Bool
	inject := &failingFS{at: 1, sticky: true, only: func(op errorfs.Op) bool {
		return broken.Load() && strings.HasSuffix(op.Path, ".log") && op.Kind != errorfs.OpFileWrite
	}}
	disk := NewMemFS()
	s := mustOpen(t, errorfs.Wrap(disk, inject))
	tree := mustTree(t, s, "t")
	var wg sync.WaitGroup
	var acknowledged sync.Map
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d", w, i)
				b := s.NewBatch()
				err := b.Set(tree, []byte(key), nil)
				if err == nil {
					err = b.Commit(true)
				}
				b.Close()
				if err != nil {
					if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "injected failure") {
						t.Errorf("got %v, want ErrClosed with the cause", err)
					}
					return
				}
				acknowledged.Store(key, true)
				if i == 20 {
					broken.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err == nil {
		t.Error("Close: want the cause")
	}
	s = mustOpen(t, disk.CrashClone(nil, 0))
	defer func() { check(t, s.Close()) }()
	tree = mustTree(t, s, "t")
	acknowledged.Range(func(key, _ any) bool {
		if _, ok, err := tree.Get([]byte(key.(string))); !ok || err != nil {
			t.Errorf("acknowledged key %v: got %v, %v", key, ok, err)
		}
		return true
	})
}

// TestFailedTables breaks the disk for tables only, so that commits pile up behind
// flushes and compactions that can't end: each must get its answer.
func TestFailedTables(t *testing.T) {
	for _, at := range []int64{1, 40, 200} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			inject := &failingFS{at: at, sticky: true, only: func(op errorfs.Op) bool {
				return strings.HasSuffix(op.Path, ".sst")
			}}
			s := mustOpen(t, errorfs.Wrap(NewMemFS(), inject))
			tree := mustTree(t, s, "t")
			value := make([]byte, 20<<10)
			done := make(chan error, 4)
			for w := range cap(done) {
				go func() {
					for i := 0; ; i++ {
						b := s.NewBatch()
						err := b.Set(tree, fmt.Appendf(nil, "%d/%d", i, w), value)
						if err == nil {
							err = b.Commit(false)
						}
						b.Close()
						if err != nil {
							done <- err
							return
						}
					}
				}()
			}
			for range cap(done) {
				select {
				case err := <-done:
					if !errors.Is(err, nexusraft.ErrClosed) {
						t.Errorf("got %v, want ErrClosed", err)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("a commit hangs")
				}
			}
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), "injected failure") {
				t.Errorf("Close: got %v, want the cause", err)
			}
		})
	}
}
