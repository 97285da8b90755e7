package storage

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestReadersWaitForNobody stops the disk in the middle of a sync, with a writer in it, holds
// all latches as a writer does that decides what to write, and has a reader in the
// middle of a loop: all kinds of reads come to their end.
func TestReadersWaitForNobody(t *testing.T) {
	var stopped atomic.Bool
	inSync, release := make(chan struct{}, 100), make(chan struct{})
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		isSync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
		if stopped.Load() && isSync && strings.HasSuffix(op.Path, ".log") {
			inSync <- struct{}{}
			<-release
		}
		return nil
	})))
	defer func() { check(t, s.Close()) }()
	tree := mustTree(t, s, "t")
	check(t, tree.Set([]byte("a"), []byte("1")))
	check(t, tree.Set([]byte("b"), []byte("2")))
	stopped.Store(true)
	written := make(chan error, 1)
	go func() { written <- tree.Set([]byte("a"), []byte("3")) }()
	<-inSync
	s.latches.lock(allLatches)

	for _, err := range tree.Scan(nil, nil) {
		check(t, err)
		for name, read := range readsOf(s, tree) {
			done := make(chan error, 1)
			go func() { done <- read() }()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(time.Minute):
				t.Errorf("%s waits", name)
			}
		}
	}
	select {
	case err := <-written:
		t.Errorf("the writer did not wait for the disk: %v", err)
	default:
	}
	s.latches.unlock(allLatches)
	stopped.Store(false)
	close(release)
	check(t, <-written)
}

// readsOf are the kinds of reads.
func readsOf(s *Store, tree *Tree) map[string]func() error {
	return map[string]func() error{
		"get":      func() error { _, _, err := tree.Get([]byte("a")); return err },
		"get to":   func() error { _, _, err := tree.GetTo(nil, []byte("a")); return err },
		"contains": func() error { _, err := tree.Contains([]byte("a")); return err },
		"length":   func() error { _, err := tree.Len(); return err },
		"last":     func() error { _, _, err := tree.Last(); return err },
		"less":     func() error { _, _, err := tree.Less([]byte("b")); return err },
		"greater":  func() error { _, _, err := tree.Greater([]byte("a")); return err },
		"scan":     func() error { return lastError(tree.Scan(nil, nil)) },
		"prefix":   func() error { return lastError(tree.PrefixReverse([]byte("a"))) },
		"checksum": func() error { _, err := tree.Checksum(nil, nil); return err },
		"trees":    func() error { _, err := s.Trees(); return err },
		"statistics": func() error {
			s.Stats()
			return nil
		},
		"snapshot": func() error {
			x := s.NewSnapshot()
			defer x.Close()
			return lastError(x.Reader(tree).ScanReverse(nil, nil))
		},
		"transaction that reads": func() error {
			tx := s.Begin()
			defer tx.Close()
			if err := lastError(tx.Tree(tree).Scan(nil, nil)); err != nil {
				return err
			}
			return tx.Commit()
		},
	}
}
