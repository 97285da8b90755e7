package storage

import (
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// reader is what can be read of a Tree, of a TreeView and of a Store.
type reader interface {
	nexusraft.Reader
	GetTo(dst, key []byte) ([]byte, bool, error)
	Contains(key []byte) (bool, error)
	Empty() (bool, error)
	Len() (int, error)
	First() (nexusraft.Pair, bool, error)
	Last() (nexusraft.Pair, bool, error)
	Less(key []byte) (nexusraft.Pair, bool, error)
	Greater(key []byte) (nexusraft.Pair, bool, error)
	Prefix(prefix []byte) iter.Seq2[nexusraft.Pair, error]
	PrefixReverse(prefix []byte) iter.Seq2[nexusraft.Pair, error]
}

var _ = []reader{(*Tree)(nil), (*TreeView)(nil), (*Store)(nil)}

// compareReads compares every read with the model's answer.
func compareReads(t *rapid.T, r reader, want model) {
	t.Helper()
	compareScans(t, r, want, genEnd().Draw(t, "start"), genEnd().Draw(t, "end"))
	all := want.scan(nil, nil, false)
	n, err := r.Len()
	check(t, err)
	empty, err := r.Empty()
	check(t, err)
	if n != len(all) || empty != (n == 0) {
		t.Fatalf("got %d keys, empty %v, want %d", n, empty, len(all))
	}
	key := genKey().Draw(t, "key")
	value, had := want[string(key)]
	got, ok, err := r.GetTo([]byte("x"), key)
	check(t, err)
	if ok != had || string(got) != "x"+value {
		t.Fatalf("GetTo %q: got %q, %v, want %q, %v", key, got, ok, "x"+value, had)
	}
	contains, err := r.Contains(key)
	check(t, err)
	if contains != had {
		t.Fatalf("Contains %q: got %v", key, contains)
	}
	comparePair(t, "First")(r.First())(all)
	comparePair(t, "Last")(r.Last())(want.scan(nil, nil, true))
	comparePair(t, "Less")(r.Less(key))(want.scan(nil, append([]byte{}, key...), true))
	comparePair(t, "Greater")(r.Greater(key))(want.scan(append(slices.Clone(key), 0), nil, false))
	comparePrefix(t, r, want, genKey().Draw(t, "prefix"))
}

// comparePair compares a pair that was read with the first one of a list.
func comparePair(t *rapid.T, what string) func(p nexusraft.Pair, ok bool, err error) func(want []kv) {
	return func(p nexusraft.Pair, ok bool, err error) func([]kv) {
		return func(want []kv) {
			t.Helper()
			check(t, err)
			if got := (kv{string(p.Key), string(p.Value)}); ok != (len(want) > 0) || ok && got != want[0] {
				t.Fatalf("%s: got %q, %v, want the first of %q", what, got, ok, want)
			}
		}
	}
}

func comparePrefix(t *rapid.T, r reader, all model, prefix []byte) {
	t.Helper()
	var want []kv
	for _, p := range all.scan(nil, nil, false) {
		if strings.HasPrefix(p.Key, string(prefix)) {
			want = append(want, p)
		}
	}
	if diff := cmp.Diff(want, collect(t, r.Prefix(prefix))); diff != "" {
		t.Fatalf("prefix %q (-want +got):\n%s", prefix, diff)
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, collect(t, r.PrefixReverse(prefix))); diff != "" {
		t.Fatalf("reverse prefix %q (-want +got):\n%s", prefix, diff)
	}
}

func TestReadsReturnCopies(t *testing.T) {
	s := newStore(t)
	check(t, s.Set([]byte("k"), []byte("v")))
	for range 2 { // the second round reads what the first one has spoilt
		value, _, err := s.Get([]byte("k"))
		check(t, err)
		first, _, err := s.First()
		check(t, err)
		if string(value) != "v" || string(first.Key) != "k" || string(first.Value) != "v" {
			t.Errorf("got %q, %q", value, first)
		}
		clear(value)
		clear(first.Key)
		clear(first.Value)
	}
}
