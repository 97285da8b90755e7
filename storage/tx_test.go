package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestConflicts has a write of somebody else come between what a transaction reads and its
// commit: it must fail if and only if the transaction would have read something else.
func TestConflicts(t *testing.T) {
	get := func(key string) func(nexusraft.ReadWriter) error {
		return func(in nexusraft.ReadWriter) error { _, _, err := in.Get([]byte(key)); return err }
	}
	scan := func(start, end string, limit int) func(nexusraft.ReadWriter) error {
		return func(in nexusraft.ReadWriter) error { return readSome(in.Scan([]byte(start), []byte(end)), limit) }
	}
	reverse := func(start, end string, limit int) func(nexusraft.ReadWriter) error {
		return func(in nexusraft.ReadWriter) error {
			return readSome(in.ScanReverse([]byte(start), []byte(end)), limit)
		}
	}
	set := func(key, value string) func(*Tree) error {
		return func(tree *Tree) error { return tree.Set([]byte(key), []byte(value)) }
	}
	remove := func(key string) func(*Tree) error {
		return func(tree *Tree) error { return tree.Delete([]byte(key)) }
	}
	for _, c := range []struct {
		name     string
		read     func(nexusraft.ReadWriter) error
		write    func(*Tree) error
		conflict bool
	}{
		{"value changed", get("b"), set("b", "x"), true},
		{"value set to itself", get("b"), set("b", "b"), false},
		{"value became empty", get("b"), set("b", ""), true},
		{"value removed", get("b"), remove("b"), true},
		{"absent key set", get("a"), set("a", ""), true},
		{"other key set", get("b"), set("a", ""), false},
		{"all cleared", get("b"), func(tree *Tree) error { return tree.Clear() }, true},
		{"nothing read", func(nexusraft.ReadWriter) error { return nil }, set("b", "x"), false},
		{"own write read", func(in nexusraft.ReadWriter) error {
			return errors.Join(in.Set([]byte("b"), nil), get("b")(in))
		}, set("b", "x"), false},
		{"read, then own write", func(in nexusraft.ReadWriter) error {
			return errors.Join(get("b")(in), in.Set([]byte("b"), nil))
		}, set("b", "x"), true},

		{"phantom in a range", scan("a", "e", 9), set("c", ""), true},
		{"phantom at its start", scan("a", "e", 9), set("a", ""), true},
		{"phantom at its end", scan("a", "e", 9), set("e", ""), false},
		{"value in a range", scan("a", "e", 9), set("d", "x"), true},
		{"removed from a range", scan("a", "e", 9), remove("d"), true},
		{"pair replaced in a range", scan("a", "e", 9), func(tree *Tree) error {
			return errors.Join(remove("b")(tree), set("bb", "b")(tree))
		}, true},
		{"phantom before the stop", scan("a", "z", 2), set("c", ""), true},
		{"phantom right behind the stop", scan("a", "z", 2), set("d\x00", ""), false},
		{"value at the stop", scan("a", "z", 2), set("d", "x"), true},
		{"value behind the stop", scan("a", "z", 2), set("f", "x"), false},
		{"phantom in an empty range", scan("x", "z", 9), set("y", ""), true},

		{"reverse: phantom before the stop", reverse("a", "z", 2), set("e", ""), true},
		{"reverse: value at the stop", reverse("a", "z", 2), set("d", "x"), true},
		{"reverse: phantom behind the stop", reverse("a", "z", 2), set("c", ""), false},
		{"reverse: phantom in a range", reverse("a", "z", 9), set("a", ""), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			tree, out := mustTree(t, s, "t"), mustTree(t, s, "out")
			for _, key := range []string{"b", "d", "f"} {
				put(t, tree, key, key)
			}
			tx := s.Begin()
			defer tx.Close()
			check(t, c.read(tx.Tree(tree)))
			check(t, tx.Tree(out).Set([]byte("done"), nil))
			check(t, c.write(tree))
			err := tx.Commit()
			if errors.Is(err, ErrConflict) != c.conflict || !c.conflict && err != nil {
				t.Errorf("got %v, want a conflict: %v", err, c.conflict)
			}
			if done, err := out.Contains([]byte("done")); done == c.conflict || err != nil {
				t.Errorf("was it written: got %v, %v", done, err)
			}
		})
	}
}

// readSome reads pairs until there are limit of them.
func readSome(pairs iter.Seq2[nexusraft.Pair, error], limit int) error {
	for _, err := range pairs {
		if err != nil {
			return err
		}
		if limit--; limit == 0 {
			break
		}
	}
	return nil
}

func TestTxReadsItsMoment(t *testing.T) {
	s := newStore(t)
	put(t, s.Default(), "k", "before")
	tx := s.Begin()
	defer tx.Close()
	put(t, s.Default(), "k", "after")
	put(t, s.Default(), "l", "after")
	if got := collect(t, tx.Tree(s.Default()).Scan(nil, nil)); len(got) != 1 || got[0] != (kv{"k", "before"}) {
		t.Errorf("got %q", got)
	}
	check(t, tx.Commit()) // it has written nothing
}

// TestTxHoldsTheLatches of what it has read and of what it writes: without, something could
// come between its last look and its writes.
func TestTxHoldsTheLatches(t *testing.T) {
	s := newStore(t)
	tree := s.Default()
	for _, c := range []struct {
		name string
		do   func(in nexusraft.ReadWriter) error
		want latchSet
	}{
		{
			"get", func(in nexusraft.ReadWriter) error { _, _, err := in.Get([]byte("k")); return err },
			s.latches.of(appendKey(nil, tree.id, []byte("k"))),
		},
		{"scan", func(in nexusraft.ReadWriter) error { return lastError(in.Scan(nil, nil)) }, allLatches},
		{"reverse", func(in nexusraft.ReadWriter) error { return readSome(in.ScanReverse(nil, nil), 1) }, allLatches},
		{
			"set", func(in nexusraft.ReadWriter) error { return in.Set([]byte("l"), nil) },
			s.latches.of(appendKey(nil, tree.id, []byte("l"))),
		},
		{
			"delete", func(in nexusraft.ReadWriter) error { return in.Delete([]byte("m")) },
			s.latches.of(appendKey(nil, tree.id, []byte("m"))),
		},
	} {
		tx := s.Begin()
		check(t, c.do(tx.Tree(tree)))
		_, written := tx.written()
		if got := tx.latches | written; got != c.want {
			t.Errorf("%s: got %b, want %b", c.name, got, c.want)
		}
		tx.Close()
	}
}

func TestTxMisuse(t *testing.T) {
	s, other := newStore(t), newStore(t)
	put(t, s.Default(), "k", "v")
	wrong := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to say %q", what, err, want)
		}
	}
	tx := s.Begin()
	in := tx.Tree(s.Default())
	for _, err := range in.Scan(nil, nil) {
		check(t, err)
		wrong("commit in a loop", tx.Commit(), "loop")
	}
	_, _, err := tx.Tree(other.Default()).Get(nil)
	wrong("read another store", err, "is of store")
	wrong("scan another store", lastError(tx.Tree(other.Default()).Scan(nil, nil)), "is of store")
	check(t, tx.Tree(other.Default()).Set([]byte("k"), nil))
	wrong("write another store", tx.Commit(), "is of store")
	wrong("commit again", tx.Commit(), "ended")
	_, _, err = in.Get([]byte("k"))
	wrong("read after the end", err, "ended")
	tx.Close()

	tx = s.Begin()
	defer tx.Close()
	tree := mustTree(t, s, "t")
	check(t, tx.Tree(tree).Set([]byte("k"), nil))
	check(t, s.DropTree("t"))
	wrong("write a dropped tree", tx.Commit(), "dropped")
}

// TestTransactRunsAgain counts how often it runs, and what it leaves.
func TestTransactRunsAgain(t *testing.T) {
	for _, conflicts := range []int{0, 1, 7, maxAttempts - 1, maxAttempts} {
		t.Run(fmt.Sprint(conflicts), func(t *testing.T) {
			s := newStore(t)
			runs := 0
			err := s.Transact(t.Context(), func(tx *Tx) error {
				in := tx.Tree(s.Default())
				old, _, err := in.Get([]byte("k"))
				if runs++; runs <= conflicts {
					put(t, s.Default(), "k", fmt.Sprint(runs))
				}
				return errors.Join(err, in.Set([]byte("k"), append(old, '!')))
			})
			value, _, getErr := s.Get([]byte("k"))
			check(t, getErr)
			if conflicts == maxAttempts {
				if !errors.Is(err, ErrConflict) || runs != maxAttempts || string(value) != fmt.Sprint(conflicts) {
					t.Errorf("got %v after %d runs, %q", err, runs, value)
				}
				return
			}
			check(t, err)
			if !strings.HasSuffix(string(value), "!") || runs != conflicts+1 {
				t.Errorf("got %q after %d runs", value, runs)
			}
		})
	}
}

func TestTransactEndsWithItsContext(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Transact(ctx, func(tx *Tx) error {
		put(t, s.Default(), "k", "other")
		cancel()
		in := tx.Tree(s.Default())
		_, _, err := in.Get([]byte("k"))
		return errors.Join(err, in.Set([]byte("k"), []byte("mine")))
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	s.turn <- struct{}{} // somebody has the turn, and keeps it
	defer func() { <-s.turn }()
	ctx, cancel = context.WithCancel(t.Context())
	runs := 0
	err = s.Transact(ctx, func(tx *Tx) error {
		runs++
		put(t, s.Default(), "k", "again")
		defer cancel()
		in := tx.Tree(s.Default())
		_, _, err := in.Get([]byte("k"))
		return errors.Join(err, in.Set([]byte("k"), nil))
	})
	if !errors.Is(err, context.Canceled) || runs != 1 {
		t.Errorf("without a turn: got %v after %d runs", err, runs)
	}
	if value, _, err := s.Get([]byte("k")); string(value) != "again" || err != nil {
		t.Errorf("got %q, %v", value, err)
	}
}

// TestTransactCounts has many goroutines count in one key, each way that there is.
func TestTransactCounts(t *testing.T) {
	s := newStore(t)
	increment := func(old []byte) []byte {
		var n int
		_, _ = fmt.Sscan(string(old), &n)
		return fmt.Append(nil, n+1)
	}
	const workers, rounds = 32, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range rounds {
				var err error
				switch i % 3 {
				case 0:
					_, _, err = s.Update([]byte("k"), func(old []byte) ([]byte, error) { return increment(old), nil }, NoSync)
				default:
					err = s.Transact(t.Context(), func(tx *Tx) error {
						in := tx.Tree(s.Default())
						old, _, err := in.Get([]byte("k"))
						return errors.Join(err, in.Set([]byte("k"), increment(old)))
					}, Durability(i%2))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if value, _, err := s.Get([]byte("k")); string(value) != fmt.Sprint(workers*rounds) || err != nil {
		t.Errorf("got %s, %v, want %d", value, err, workers*rounds)
	}
}

// TestLargeReadIsSettledBeforehand: what a transaction has scanned is read again before its commit
// while others write, and its commit reads it once more only if they have touched it.
func TestLargeReadIsSettledBeforehand(t *testing.T) {
	s := newStore(t)
	tree, other := mustTree(t, s, "t"), mustTree(t, s, "other")
	fill := func() {
		b := s.NewBatch()
		defer b.Close()
		for i := range 2 * settleScanned {
			check(t, b.Set(tree, numberedKey(i), []byte("v")))
		}
		check(t, b.Commit(false))
	}
	inside, beyond := numberedKey(7), []byte("z")
	for name, tc := range map[string]struct {
		write    func() error
		met      bool
		conflict bool
	}{
		"nothing":                {func() error { return nil }, false, false},
		"another tree":           {func() error { return other.Set(inside, nil, NoSync) }, false, false},
		"beyond what was read":   {func() error { return tree.Set(beyond, nil, NoSync) }, false, false},
		"a key":                  {func() error { return tree.Set(inside, []byte("new"), NoSync) }, true, true},
		"a key, the same value":  {func() error { return tree.Set(numberedKey(8), []byte("v"), NoSync) }, true, false},
		"a range that begins in": {func() error { return s.deleteRange(tree, numberedKey(9), nil) }, true, true},
		"a range before it":      {func() error { return s.deleteRange(other, nil, nil) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			fill()
			tx := s.Begin()
			defer tx.Close()
			for _, err := range tx.Tree(tree).Scan(nil, beyond) {
				check(t, err)
			}
			check(t, tx.Tree(other).Set([]byte("out"), nil))
			wire, err := tx.settle()
			check(t, err)
			defer s.watches.lift(wire)
			check(t, tc.write())
			if wire.met != tc.met {
				t.Errorf("the wire is met: %v, want %v", wire.met, tc.met)
			}
			if err := tx.check(wire); errors.Is(err, ErrConflict) != tc.conflict {
				t.Errorf("the check returned %v, want a conflict: %v", err, tc.conflict)
			}
		})
	}
	if s.watches.forget(); s.watches.used.Load() {
		t.Error("a wire is left behind")
	}
}

// deleteRange removes a range of a tree.
func (s *Store) deleteRange(tree *Tree, start, end []byte) error {
	b := s.NewBatch()
	defer b.Close()
	if err := b.DeleteRange(tree, start, end); err != nil {
		return err
	}
	return b.Commit(false)
}
