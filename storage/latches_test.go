package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// BenchmarkLatches is what the latches cost a batch of 8 keys, of which BenchmarkBatchCommit
// shows the rest.
func BenchmarkLatches(b *testing.B) {
	l := newLatches()
	keys := make([][]byte, 8)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%020d", i)
	}
	for b.Loop() {
		var set latchSet
		for _, key := range keys {
			set |= l.of(key)
		}
		l.lock(set)
		l.unlock(set)
	}
}

// TestLatchesKeepWritersApart has each kind of write meet one that is in the middle of its
// decision: it must wait if it could change what was read, and must not otherwise.
func TestLatchesKeepWritersApart(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	key := []byte("k")
	other := otherStripe(s, tree, key)
	for name, c := range map[string]struct {
		write func() error
		waits bool
	}{
		"set":           {func() error { return tree.Set(key, nil) }, true},
		"delete":        {func() error { return tree.Delete(key) }, true},
		"clear":         {func() error { return tree.Clear() }, true},
		"pop":           {func() error { _, _, err := tree.PopFirst(); return err }, true},
		"batch":         {func() error { return commitSet(s, tree, other, key) }, true},
		"another key":   {func() error { return tree.Set(other, nil) }, false},
		"another batch": {func() error { return commitSet(s, tree, other) }, false},
		"flush":         {s.Flush, false},
		"read":          {func() error { _, _, err := tree.Get(key); return err }, false},
		"scan":          {func() error { return lastError(tree.Scan(nil, nil)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			check(t, tree.atKey(key, nil, func(*Batch) error {
				go func() { done <- c.write() }()
				if !c.waits {
					return <-done // or the test ends by its deadline
				}
				select {
				case err := <-done:
					return errors.Join(errors.New("it did not wait"), err)
				case <-time.After(10 * time.Millisecond): // none of them takes a hundredth of it
					return nil
				}
			}))
			if c.waits {
				check(t, <-done)
			}
		})
	}
}

// otherStripe returns a key that has nothing to do with key's latch.
func otherStripe(s *Store, tree *Tree, key []byte) []byte {
	for i := 0; ; i++ {
		other := fmt.Appendf(nil, "other %d", i)
		if s.latches.of(appendKey(nil, tree.id, other)) != s.latches.of(appendKey(nil, tree.id, key)) {
			return other
		}
	}
}

func commitSet(s *Store, tree *Tree, keys ...[]byte) error {
	b := s.NewBatch()
	defer b.Close()
	for _, key := range keys {
		if err := b.Set(tree, key, nil); err != nil {
			return err
		}
	}
	return b.Commit(true)
}

func TestLatchesCoverWhatABatchWrites(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	b := s.NewBatch()
	defer b.Close()
	var want latchSet
	for i := range 10 {
		key := bytes.Repeat([]byte{byte(i)}, i)
		check(t, b.Set(tree, key, nil))
		want |= s.latches.of(appendKey(nil, tree.id, key))
		check(t, b.Delete(tree, append(key, 1)))
		want |= s.latches.of(appendKey(nil, tree.id, append(key, 1)))
	}
	if b.latches != want {
		t.Errorf("got %b, want %b", b.latches, want)
	}
	check(t, b.DeleteRange(tree, []byte("a"), []byte("b")))
	if b.latches != allLatches {
		t.Errorf("with a range: got %b, want all", b.latches)
	}
	b.Reset()
	if b.latches != 0 {
		t.Errorf("after Reset: got %b", b.latches)
	}
}
