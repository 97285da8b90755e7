package storage

import (
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestEmptyKeysAndValues are keys and values like others; nil is the same where it does not
// mean that there is none.
func TestEmptyKeysAndValues(t *testing.T) {
	s := newStore(t)
	check(t, s.Set(nil, nil))
	for _, key := range [][]byte{nil, {}} {
		value, ok, err := s.Get(key)
		if value == nil || len(value) != 0 || !ok || err != nil {
			t.Errorf("got %v, %v, %v, want an empty value that is not nil", value, ok, err)
		}
		if _, swapped, err := s.CompareAndSwap(key, nil, []byte("v")); swapped || err != nil {
			t.Errorf("compare with none: got %v, %v", swapped, err)
		}
		if _, swapped, err := s.CompareAndSwap(key, []byte{}, []byte{}); !swapped || err != nil {
			t.Errorf("compare with empty: got %v, %v", swapped, err)
		}
		if _, ok, err := s.Less(key); ok || err != nil {
			t.Errorf("less than the lowest key: got %v, %v", ok, err)
		}
		if _, ok, err := s.Greater(key); ok || err != nil {
			t.Errorf("greater than the only key: got %v, %v", ok, err)
		}
	}
	if p, ok, err := s.PopFirst(); len(p.Key) != 0 || !ok || err != nil {
		t.Errorf("pop: got %v, %v, %v", p, ok, err)
	}
}

func TestBackwardRanges(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("b"), nil))
	tx := s.Begin()
	defer tx.Close()
	for name, r := range map[string]nexusraft.Reader{"store": s, "transaction": tx.Tree(s.Default())} {
		for what, pairs := range map[string]iter.Seq2[nexusraft.Pair, error]{
			"scan":    r.Scan([]byte("c"), []byte("a")),
			"reverse": r.ScanReverse([]byte("c"), []byte("a")),
			"empty":   r.Scan([]byte("b"), []byte("b")),
			"nothing": r.Scan(nil, []byte{}),
		} {
			if got := collect(t, pairs); got != nil {
				t.Errorf("%s, %s: got %q", name, what, got)
			}
		}
	}
}

// TestWriteWhileIterating writes in the loop: it sees what was there when it began.
func TestWriteWhileIterating(t *testing.T) {
	s := newStore(t)
	for _, key := range []string{"a", "b", "c"} {
		check(t, s.Set([]byte(key), []byte("old")))
	}
	var got []kv
	for p, err := range s.Scan(nil, nil) {
		check(t, err)
		got = append(got, kv{string(p.Key), string(p.Value)})
		check(t, s.Set([]byte("c"), []byte("new")))
		check(t, s.Set(append([]byte("z"), p.Key...), nil))
		check(t, s.Delete([]byte("b"), NoSync))
	}
	if diff := cmp.Diff([]kv{{"a", "old"}, {"b", "old"}, {"c", "old"}}, got); diff != "" {
		t.Errorf("loop (-want +got):\n%s", diff)
	}
	for _, err := range s.Scan(nil, nil) {
		check(t, err)
		check(t, s.Clear())
	}
	if empty, err := s.Empty(); !empty || err != nil {
		t.Errorf("cleared in a loop: got %v, %v", empty, err)
	}
}

// TestCloseWhileIterating closes in the loop itself, which Close can't wait for.
func TestCloseWhileIterating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, NewMemFS())
		check(t, s.Set([]byte("a"), nil))
		check(t, s.Set([]byte("b"), nil))
		var got []string
		for p, err := range s.Scan(nil, nil) {
			check(t, err)
			got = append(got, string(p.Key))
			if err := s.Close(); len(got) == 1 && (err == nil || !strings.Contains(err.Error(), "still running")) {
				t.Errorf("close: got %v, want it to say why it can't", err)
			}
			if _, _, err := s.Get(p.Key); !errors.Is(err, nexusraft.ErrClosed) {
				t.Errorf("a new call: got %v, want ErrClosed", err)
			}
		}
		if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
			t.Errorf("loop (-want +got):\n%s", diff)
		}
		check(t, s.shut()) // what Close has left
	})
}

// TestSnapshotClosedWhileIterating closes the snapshot that the loop reads.
func TestSnapshotClosedWhileIterating(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("a"), nil))
	check(t, s.Set([]byte("b"), nil))
	x := s.NewSnapshot()
	view := x.Reader(s.Default())
	var got []string
	for p, err := range view.Scan(nil, nil) {
		check(t, err)
		got = append(got, string(p.Key))
		x.Close()
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Errorf("loop (-want +got):\n%s", diff)
	}
	if _, _, err := view.First(); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("after it: got %v, want ErrClosed", err)
	}
}

func TestOptionsOfWrites(t *testing.T) {
	_, err := Open("data", &Options{FS: NewMemFS(), Durability: 7})
	if err == nil || !strings.Contains(err.Error(), "Durability is 7") {
		t.Errorf("got %v, want a refusal", err)
	}
}
