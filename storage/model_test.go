package storage

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Generators that collide often: few names, short keys of few letters (0xff and 0x00 among them),
// values from nothing to enough for a flush. Each call makes a new one, because a generator is not
// safe for tests that run side by side.
func genName() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"a", "b", "zone/1", "ü"})
}

func genKey() *rapid.Generator[[]byte] {
	return rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 0, 3)
}

func genValue() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Repeat(rapid.StringN(0, 4, 8).Draw(t, "value"),
			rapid.SampledFrom([]int{1, 1, 1, 2000}).Draw(t, "times"))
	})
}

func genEnd() *rapid.Generator[[]byte] {
	return rapid.OneOf(rapid.Just([]byte(nil)), genKey())
}

// TestModel runs random operations on a store and on maps, and compares all reads.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{fs: NewMemFS(), trees: make(map[string]model)}
		m.s = mustOpen(t, m.fs)
		defer func() { check(t, m.s.Close()) }()
		t.Repeat(map[string]func(*rapid.T){
			"batch":    m.batch,
			"create":   func(t *rapid.T) { m.tree(t, genName().Draw(t, "name")) },
			"drop":     m.drop,
			"snapshot": m.takeSnapshot,
			"reopen":   m.reopen,
			"scan":     m.scan,
			"":         m.compare,
		})
	})
}

type machine struct {
	fs    *MemFS
	s     *Store
	trees map[string]model

	snapshot *Snapshot // nil if there is none
	frozen   map[string]model
}

func (m *machine) tree(t *rapid.T, name string) *Tree {
	if m.trees[name] == nil {
		m.trees[name] = make(model)
	}
	return mustTree(t, m.s, name)
}

func (m *machine) batch(t *rapid.T) {
	b := m.s.NewBatch()
	defer b.Close()
	for range rapid.IntRange(0, 6).Draw(t, "operations") {
		name := genName().Draw(t, "tree")
		tree, want := m.tree(t, name), m.trees[name]
		key, value := genKey().Draw(t, "key"), genValue().Draw(t, "value")
		switch rapid.SampledFrom([]string{"set", "set", "delete", "range"}).Draw(t, "operation") {
		case "set":
			check(t, b.Set(tree, key, []byte(value)))
			want[string(key)] = value
		case "delete":
			check(t, b.Delete(tree, key))
			delete(want, string(key))
		case "range":
			end := genEnd().Draw(t, "end")
			check(t, b.DeleteRange(tree, key, end))
			for _, p := range want.scan(key, end, false) {
				delete(want, p.Key)
			}
		}
		clear(key) // the batch has a copy
	}
	check(t, b.Commit(rapid.Bool().Draw(t, "sync")))
}

func (m *machine) drop(t *rapid.T) {
	name := genName().Draw(t, "name")
	check(t, m.s.DropTree(name))
	delete(m.trees, name)
}

func (m *machine) takeSnapshot(t *rapid.T) {
	if m.snapshot != nil {
		m.snapshot.Close()
	}
	m.snapshot, m.frozen = m.s.NewSnapshot(), make(map[string]model)
	for name, tree := range m.trees {
		m.frozen[name] = maps.Clone(tree)
	}
}

func (m *machine) reopen(t *rapid.T) {
	m.snapshot = nil // Close closes it
	check(t, m.s.Close())
	m.s = mustOpen(t, m.fs)
}

func (m *machine) scan(t *rapid.T) {
	name := genName().Draw(t, "tree")
	start, end := genEnd().Draw(t, "start"), genEnd().Draw(t, "end")
	compareScans(t, m.tree(t, name), m.trees[name], start, end)
}

func (m *machine) compare(t *rapid.T) {
	names, err := m.s.Trees()
	check(t, err)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(m.trees)), names); diff != "" {
		t.Fatalf("trees (-want +got):\n%s", diff)
	}
	for name, want := range m.trees {
		compareScans(t, m.tree(t, name), want, nil, nil)
	}
	if m.snapshot == nil {
		return
	}
	for _, name := range []string{"a", "b", "zone/1", "ü"} {
		r, ok, err := m.snapshot.Tree(name)
		check(t, err)
		want, wantOK := m.frozen[name]
		if ok != wantOK {
			t.Fatalf("snapshot has tree %q: got %v, want %v", name, ok, wantOK)
		}
		if ok {
			compareScans(t, r, want, nil, nil)
		}
	}
}

func compareScans(t *rapid.T, r nexusraft.Reader, want model, start, end []byte) {
	t.Helper()
	if diff := cmp.Diff(want.scan(start, end, false), collect(t, r.Scan(start, end))); diff != "" {
		t.Fatalf("scan %q to %q (-want +got):\n%s", start, end, diff)
	}
	if diff := cmp.Diff(want.scan(start, end, true), collect(t, r.ScanReverse(start, end))); diff != "" {
		t.Fatalf("reverse scan %q to %q (-want +got):\n%s", start, end, diff)
	}
	key := genKey().Draw(t, "key")
	value, ok, err := r.Get(key)
	check(t, err)
	if wantValue, wantOK := want[string(key)]; ok != wantOK || string(value) != wantValue {
		t.Fatalf("get %q: got %q, %v, want %q, %v", key, value, ok, wantValue, wantOK)
	}
}
