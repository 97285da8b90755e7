package storage

import (
	"crypto/sha256"
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestOverlayModel stacks overlays on a tree and compares each level with a map.
func TestOverlayModel(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tree := mustTree(t, s, "t")
	rapid.Check(t, func(t *rapid.T) {
		b := s.NewBatch()
		defer b.Close()
		check(t, b.DeleteRange(tree, nil, nil))
		stored := make(model)
		for _, key := range rapid.SliceOfN(genKey(), 0, 8).Draw(t, "stored") {
			stored[string(key)] = "stored"
			check(t, b.Set(tree, key, []byte("stored")))
		}
		check(t, b.Commit(false))
		st := &stack{t: tree, levels: []level{{NewOverlay(tree), stored, maps.Clone(stored)}}}
		t.Repeat(map[string]func(*rapid.T){
			"write": st.write,
			"range": st.deleteRange,
			"push":  st.push,
			"pop":   st.pop,
			"reset": st.reset,
			"flush": st.flush,
			"":      st.compare,
		})
	})
}

// level is an overlay, what it lies on, and what it should read as.
type level struct {
	o          *Overlay
	base, want model
}

type stack struct {
	t      *Tree
	levels []level
}

func (st *stack) top() *level { return &st.levels[len(st.levels)-1] }

func (st *stack) write(t *rapid.T) {
	top, key := st.top(), genKey().Draw(t, "key")
	if rapid.Bool().Draw(t, "delete") {
		check(t, top.o.Delete(key))
		delete(top.want, string(key))
	} else {
		value := []byte(genValue().Draw(t, "value"))
		check(t, top.o.Set(key, value))
		top.want[string(key)] = string(value)
		clear(value)
	}
	clear(key) // the overlay has copies
}

func (st *stack) deleteRange(t *rapid.T) {
	top, start, end := st.top(), genEnd().Draw(t, "start"), genEnd().Draw(t, "end")
	check(t, top.o.DeleteRange(start, end))
	maps.DeleteFunc(top.want, func(k, _ string) bool {
		return k >= string(start) && (end == nil || k < string(end))
	})
	clear(start)
	clear(end)
}

func (st *stack) push(t *rapid.T) {
	if len(st.levels) == 4 {
		t.Skip("high enough")
	}
	top := st.top()
	st.levels = append(st.levels, level{NewOverlay(top.o), maps.Clone(top.want), maps.Clone(top.want)})
}

func (st *stack) pop(t *rapid.T) {
	if len(st.levels) == 1 {
		t.Skip("nothing to pop")
	}
	top := *st.top()
	st.levels = st.levels[:len(st.levels)-1]
	if rapid.Bool().Draw(t, "merge") {
		top.o.MergeInto(st.top().o)
		st.top().want = top.want
	}
}

func (st *stack) reset(*rapid.T) {
	top := st.top()
	top.o.Reset()
	top.want = maps.Clone(top.base)
}

// flush writes the lowest level to the tree, which changes what nobody reads.
func (st *stack) flush(t *rapid.T) {
	lowest := &st.levels[0]
	b := st.t.s.NewBatch()
	defer b.Close()
	check(t, lowest.o.WriteTo(b, st.t))
	if b.Len() != lowest.o.Len() {
		t.Fatalf("batch has %d writes, want %d", b.Len(), lowest.o.Len())
	}
	check(t, b.Commit(false))
	lowest.o.Reset()
	lowest.base = maps.Clone(lowest.want)
	compareScans(t, st.t, lowest.want, nil, nil)
}

func (st *stack) compare(t *rapid.T) {
	start, end := genEnd().Draw(t, "start"), genEnd().Draw(t, "end")
	for _, l := range st.levels {
		compareScans(t, l.o, l.want, start, end)
		size := 0
		l.o.writes.Scan(func(w write) bool { size += w.size(); return true })
		l.o.deleted.each(func(s span) bool { size += s.size(); return true })
		if l.o.Bytes() != size {
			t.Fatalf("Bytes: got %d, want %d", l.o.Bytes(), size)
		}
	}
}

func TestOverlayWriteWhileIterating(t *testing.T) {
	tree := mustTree(t, newStore(t), "t")
	put(t, tree, "b", "base")
	o := NewOverlay(NewOverlay(tree))
	for _, k := range []string{"a", "c", "e"} {
		check(t, o.Set([]byte(k), []byte("old")))
	}
	var got []kv
	for p, err := range o.Scan(nil, nil) {
		check(t, err)
		got = append(got, kv{string(p.Key), string(p.Value)})
		check(t, o.Set(append([]byte("z"), p.Key...), nil))
		check(t, o.Set([]byte("c"), []byte("new")))
		check(t, o.Delete([]byte("e")))
	}
	want := []kv{{"a", "old"}, {"b", "base"}, {"c", "old"}, {"e", "old"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("loop (-want +got):\n%s", diff)
	}
	want = []kv{{"zc", ""}, {"zb", ""}, {"za", ""}, {"c", "new"}}
	if diff := cmp.Diff(want, collect(t, o.ScanReverse([]byte("c"), []byte("zd")))); diff != "" {
		t.Errorf("after the loop (-want +got):\n%s", diff)
	}
}

func TestOverlayStopsEarly(t *testing.T) {
	tree := mustTree(t, newStore(t), "t")
	put(t, tree, "b", "")
	put(t, tree, "d", "")
	o := NewOverlay(tree)
	for _, k := range []string{"a", "b", "c", "e"} {
		check(t, o.Set([]byte(k), nil))
	}
	for stop := 1; stop <= 5; stop++ {
		n := 0
		for _, err := range o.Scan(nil, nil) { // a yield after the break would panic
			check(t, err)
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("got %d pairs, want %d", n, stop)
		}
	}
}

func TestOverlayErrors(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	o := NewOverlay(mustTree(t, s, "t"))
	if err := o.Set(make([]byte, MaxKeyBytes+1), nil); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("key over the limit: got %v, want ErrTooLarge", err)
	}
	check(t, o.Set([]byte("k"), []byte("v")))
	check(t, s.Close())
	if _, _, err := o.Get([]byte("other")); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("get from a closed base: got %v, want ErrClosed", err)
	}
	if err := lastError(o.Scan(nil, nil)); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("scan of a closed base: got %v, want ErrClosed", err)
	}
}

// Overlays have the same hash if and only if they have the same writes, whatever came and went before.
func TestOverlayHash(t *testing.T) {
	sum := func(writes func(o *Overlay)) string {
		o := NewOverlay(nil)
		writes(o)
		h := sha256.New()
		o.HashTo(h)
		return string(h.Sum(nil))
	}
	a, b, ab := []byte("a"), []byte("b"), []byte("ab")
	seen := make(map[string]int)
	for i, writes := range []func(o *Overlay){
		func(*Overlay) {},
		func(o *Overlay) { _ = o.Set(a, b) },
		func(o *Overlay) { _ = o.Set(ab, nil) },
		func(o *Overlay) { _ = o.Set(a, nil) },
		func(o *Overlay) { _ = o.Delete(a) },
		func(o *Overlay) { _ = o.DeleteRange(a, b) },
		func(o *Overlay) { _ = o.DeleteRange(a, nil) },
		func(o *Overlay) { _ = o.Set(a, b); _ = o.Set(b, a) },
		func(o *Overlay) { _ = o.Set(a, b); _ = o.Delete(b) },
	} {
		s := sum(writes)
		if before, ok := seen[s]; ok {
			t.Errorf("writes %d and %d have the same hash", before, i)
		}
		seen[s] = i
	}
	once := sum(func(o *Overlay) { _ = o.Set(a, b); _ = o.Set(b, a) })
	again := sum(func(o *Overlay) { _ = o.Set(b, a); _ = o.Delete(a); _ = o.Set(a, a); _ = o.Set(a, b) })
	if once != again {
		t.Error("the same writes have two hashes")
	}
}
