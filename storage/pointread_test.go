package storage

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// pointKey draws from so few keys that they meet in all states.
func pointKey() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"", "a", "b", "ba", "c"})
}

// TestPointReadsAgree has all kinds of point reads look at keys in every state: written,
// overwritten and removed, alone and by range, in memory and in tables of all levels, and
// over snapshots.
func TestPointReadsAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := mustOpen(t, NewMemFS())
		defer func() { check(t, s.Close()) }()
		tree := mustTree(t, s, "t")
		beside := mustTree(t, s, "u") // the next tree's keys follow in the engine
		check(t, beside.Set(nil, []byte("beside")))
		want := make(model)
		step := 0
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				k := pointKey().Draw(t, "key")
				step++
				want[k] = fmt.Sprint(step)
				check(t, tree.Set([]byte(k), []byte(want[k])))
			},
			"delete": func(t *rapid.T) {
				k := pointKey().Draw(t, "key")
				delete(want, k)
				check(t, tree.Delete([]byte(k)))
			},
			"clear": func(t *rapid.T) {
				clear(want)
				check(t, tree.Clear())
			},
			"flush":   func(t *rapid.T) { check(t, s.db.Flush()) },
			"compact": func(t *rapid.T) { check(t, s.db.Compact(t.Context(), nil, []byte{0xff}, false)) },
			"snapshot": func(t *rapid.T) {
				x := s.NewSnapshot()
				defer x.Close()
				check(t, tree.Clear())
				compareOne(t, x.Reader(tree), want)
				clear(want)
			},
			"": func(t *rapid.T) { compareOne(t, tree, want) },
		})
	})
}

type pointReader interface {
	reader
	View(key []byte, use func(value []byte) error) (bool, error)
}

var _ = []pointReader{(*Tree)(nil), (*TreeView)(nil), (*Store)(nil)}

func compareOne(t *rapid.T, r pointReader, want model) {
	t.Helper()
	key := pointKey().Draw(t, "read")
	value, had := want[key]
	got, ok, err := r.Get([]byte(key))
	comparePointRead(t, "Get", key, value, had)(string(got), ok, err)
	got, ok, err = r.GetTo([]byte("x"), []byte(key))
	comparePointRead(t, "GetTo", key, "x"+value, had)(string(got), ok, err)
	viewed := ""
	ok, err = r.View([]byte(key), func(value []byte) error { viewed = string(value); return nil })
	comparePointRead(t, "View", key, value, had)(viewed, ok, err)
	ok, err = r.Contains([]byte(key))
	comparePointRead(t, "Contains", key, "", had)("", ok, err)
}

func comparePointRead(t *rapid.T, what, key, want string, had bool) func(string, bool, error) {
	return func(got string, ok bool, err error) {
		t.Helper()
		check(t, err)
		if got != want || ok != had {
			t.Fatalf("%s %q: got %q, %v, want %q, %v", what, key, got, ok, want, had)
		}
	}
}

func TestViewBorrows(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("k"), []byte("old")))
	check(t, s.db.Flush())
	failed := errors.New("use failed")
	var seen []string
	ok, err := s.View([]byte("k"), func(value []byte) error {
		seen = append(seen, string(value))
		check(t, s.Set([]byte("k"), []byte("new"))) // it holds nobody up
		check(t, s.db.Flush())
		check(t, s.db.Compact(t.Context(), nil, []byte{0xff}, false)) // nor is it pulled away
		seen = append(seen, string(value))
		return failed
	})
	if !ok || err != failed {
		t.Errorf("got %v, %v, want use's own error", ok, err)
	}
	if diff := cmp.Diff([]string{"old", "old"}, seen); diff != "" {
		t.Errorf("the value (-want +got):\n%s", diff)
	}
	ok, err = s.View([]byte("absent"), func([]byte) error { t.Error("use was called for an absent key"); return nil })
	if ok || err != nil {
		t.Errorf("absent: got %v, %v", ok, err)
	}
}

// TestViewSurvivesAPanic shows that a panic of the caller's function is the caller's: the
// store lives on, and nothing of it stays borrowed, or Close would not come to its end.
func TestViewSurvivesAPanic(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("k"), []byte("v")))
	check(t, s.db.Flush())
	func() {
		defer func() {
			if r := recover(); r != "mine" {
				t.Errorf("got panic %v", r)
			}
		}()
		_, _ = s.View([]byte("k"), func([]byte) error { panic("mine") })
	}()
	check(t, s.Set([]byte("k"), []byte("w")))
	if n := s.db.Metrics().TableIters; n != 0 {
		t.Errorf("%d iterators are still open", n)
	}
}

func TestPointReadsOfAClosedStore(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	check(t, s.Close())
	_, _, getErr := s.Get(nil)
	dst, _, getToErr := s.GetTo([]byte("x"), nil)
	_, viewErr := s.View(nil, func([]byte) error { return nil })
	for name, err := range map[string]error{"Get": getErr, "GetTo": getToErr, "View": viewErr} {
		if !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
	if string(dst) != "x" {
		t.Errorf("GetTo returned %q, want what it was given", dst)
	}
}
