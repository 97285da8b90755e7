package storage

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// concatenate is the Options.Merge of tests; operands of "!" are refused.
func concatenate(_ string, _, old, operand []byte) ([]byte, error) {
	if string(operand) == "!" {
		return nil, errTest
	}
	return append(old, operand...), nil
}

func genDurability() *rapid.Generator[[]Durability] {
	return rapid.SampledFrom([][]Durability{nil, {Sync}, {NoSync}})
}

// TestWriteModel runs random writes on two trees, one of them the default tree, and on
// maps, and compares their answers and all reads.
func TestWriteModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &writes{fs: NewMemFS(), want: []model{{}, {}}}
		m.open(t)
		defer func() { check(t, m.s.Close()) }()
		t.Repeat(map[string]func(*rapid.T){
			"set":      m.set,
			"delete":   m.remove,
			"swap":     m.swap,
			"cas":      m.compareAndSwap,
			"update":   m.update,
			"merge":    m.merge,
			"popFirst": func(t *rapid.T) { m.pop(t, false) },
			"popLast":  func(t *rapid.T) { m.pop(t, true) },
			"popIn":    m.popIn,
			"replace":  m.replace,
			"clear":    m.clear,
			"snapshot": m.snapshot,
			"transact": m.transact,
			"reopen":   func(t *rapid.T) { check(t, m.s.Close()); m.frozen = nil; m.open(t) },
			"":         m.compare,
		})
	})
}

type writes struct {
	fs     *MemFS
	s      *Store
	trees  []*Tree
	want   []model
	x      *Snapshot
	frozen []model // what x should read as, nil if there is no x
}

func (m *writes) open(t *rapid.T) {
	o := testOptions(m.fs)
	o.Merge = concatenate
	var err error
	m.s, err = Open("data", o)
	check(t, err)
	m.trees = []*Tree{m.s.Default(), mustTree(t, m.s, "t")}
}

// pick draws a tree, what it should hold, and a key.
func (m *writes) pick(t *rapid.T) (*Tree, model, []byte) {
	i := rapid.IntRange(0, 1).Draw(t, "tree")
	return m.trees[i], m.want[i], genKey().Draw(t, "key")
}

// genMaybe draws a value or none.
func genMaybe(t *rapid.T, what string) []byte {
	if rapid.Bool().Draw(t, "no "+what) {
		return nil
	}
	return append([]byte{}, genValue().Draw(t, what)...)
}

// maybe returns the value at a key, nil if there is none.
func (m model) maybe(key []byte) []byte {
	if value, ok := m[string(key)]; ok {
		return append([]byte{}, value...)
	}
	return nil
}

func (m model) put(key, value []byte) {
	if value == nil {
		delete(m, string(key))
	} else {
		m[string(key)] = string(value)
	}
}

func (m *writes) set(t *rapid.T) {
	tree, want, key := m.pick(t)
	value := genMaybe(t, "value")
	check(t, tree.Set(key, value, genDurability().Draw(t, "durability")...))
	want[string(key)] = string(value)
}

func (m *writes) remove(t *rapid.T) {
	tree, want, key := m.pick(t)
	check(t, tree.Delete(key, genDurability().Draw(t, "durability")...))
	delete(want, string(key))
}

func (m *writes) swap(t *rapid.T) {
	tree, want, key := m.pick(t)
	value := genMaybe(t, "value")
	old, err := tree.Swap(key, value, genDurability().Draw(t, "durability")...)
	check(t, err)
	if !sameValue(old, want.maybe(key)) {
		t.Fatalf("swap %q: got %q, want %q", key, old, want.maybe(key))
	}
	want.put(key, value)
}

func (m *writes) compareAndSwap(t *rapid.T) {
	tree, want, key := m.pick(t)
	expected, value := genMaybe(t, "expected"), genMaybe(t, "value")
	if rapid.Bool().Draw(t, "right") {
		expected = want.maybe(key)
	}
	found, swapped, err := tree.CompareAndSwap(key, expected, value, genDurability().Draw(t, "durability")...)
	check(t, err)
	if swapped != sameValue(expected, want.maybe(key)) || !sameValue(found, want.maybe(key)) {
		t.Fatalf("compare-and-swap %q from %q: got %q, %v, want %q", key, expected, found, swapped, want.maybe(key))
	}
	if swapped {
		want.put(key, value)
	}
}

func (m *writes) update(t *rapid.T) {
	tree, want, key := m.pick(t)
	value, fail := genMaybe(t, "value"), rapid.Bool().Draw(t, "fail")
	before, after, err := tree.Update(key, func(old []byte) ([]byte, error) {
		if !sameValue(old, want.maybe(key)) {
			t.Fatalf("update %q is given %q, want %q", key, old, want.maybe(key))
		}
		clear(old) // it is ours
		if fail {
			return value, errTest
		}
		return value, nil
	}, genDurability().Draw(t, "durability")...)
	if fail {
		if err != errTest || before != nil || after != nil {
			t.Fatalf("update: got %q, %q, %v, want the function's own error", before, after, err)
		}
		return
	}
	check(t, err)
	if !sameValue(before, want.maybe(key)) || !sameValue(after, value) {
		t.Fatalf("update %q: got %q to %q, want %q to %q", key, before, after, want.maybe(key), value)
	}
	want.put(key, value)
}

func (m *writes) merge(t *rapid.T) {
	tree, want, key := m.pick(t)
	operand := rapid.SampledFrom([]string{"a", "b", "!"}).Draw(t, "operand")
	got, err := tree.Merge(key, []byte(operand), genDurability().Draw(t, "durability")...)
	if operand == "!" {
		if err != errTest {
			t.Fatalf("merge: got %v, want the operator's own error", err)
		}
		return
	}
	check(t, err)
	want[string(key)] += operand
	if string(got) != want[string(key)] {
		t.Fatalf("merge %q: got %q, want %q", key, got, want[string(key)])
	}
}

func (m *writes) pop(t *rapid.T, last bool) {
	tree, want, _ := m.pick(t)
	pop := tree.PopFirst
	if last {
		pop = tree.PopLast
	}
	p, ok, err := pop(genDurability().Draw(t, "durability")...)
	comparePair(t, "pop")(p, ok, err)(want.scan(nil, nil, last))
	delete(want, string(p.Key))
}

func (m *writes) popIn(t *rapid.T) {
	tree, want, start := m.pick(t)
	end, last := rapid.OneOf(rapid.Just([]byte(nil)), genKey()).Draw(t, "end"), rapid.Bool().Draw(t, "last")
	pop := tree.PopFirstIn
	if last {
		pop = tree.PopLastIn
	}
	p, ok, err := pop(start, end, genDurability().Draw(t, "durability")...)
	comparePair(t, "pop in a range")(p, ok, err)(want.scan(start, end, last))
	if ok {
		delete(want, string(p.Key))
	}
}

// replace creates a key, or replaces a value by another one, or is told what is there instead.
func (m *writes) replace(t *rapid.T) {
	tree, want, key := m.pick(t)
	expected, value, d := genMaybe(t, "expected"), genMaybe(t, "value"), genDurability().Draw(t, "durability")
	old, there := want[string(key)]
	var err error
	if rapid.Bool().Draw(t, "create") {
		expected, err = nil, tree.Create(key, value, d...)
		value = append([]byte{}, value...)
	} else {
		err = tree.Replace(key, expected, value, d...)
	}
	if there == (expected != nil) && old == string(expected) {
		check(t, err)
		want.put(key, value)
		return
	}
	e, ok := errors.AsType[*MismatchError](err)
	if !ok || (e.Found != nil) != there || string(e.Found) != old || !bytes.Equal(e.Key, key) {
		t.Fatalf("replace %q: got %v, want one that has %q", key, err, old)
	}
}

func (m *writes) clear(t *rapid.T) {
	tree, want, _ := m.pick(t)
	check(t, tree.Clear(genDurability().Draw(t, "durability")...))
	clear(want)
}

func (m *writes) snapshot(*rapid.T) {
	if m.frozen != nil {
		m.x.Close()
	}
	m.x = m.s.NewSnapshot()
	m.frozen = []model{maps.Clone(m.want[0]), maps.Clone(m.want[1])}
}

// transact reads and writes both trees in one transaction, which ends as one of three.
func (m *writes) transact(t *rapid.T) {
	after := []model{maps.Clone(m.want[0]), maps.Clone(m.want[1])}
	fail := rapid.Bool().Draw(t, "fail")
	err := m.s.Transact(t.Context(), func(tx *Tx) error {
		for range rapid.IntRange(0, 4).Draw(t, "operations") {
			i := rapid.IntRange(0, 1).Draw(t, "tree")
			in, key, value := tx.Tree(m.trees[i]), genKey().Draw(t, "key"), genMaybe(t, "value")
			if value == nil {
				check(t, in.Delete(key))
			} else {
				check(t, in.Set(key, value))
			}
			after[i].put(key, value)
			compareScans(t, in, after[i], genEnd().Draw(t, "start"), genEnd().Draw(t, "end"))
		}
		if fail {
			return errTest
		}
		return nil
	}, genDurability().Draw(t, "durability")...)
	if fail {
		if err != errTest {
			t.Fatalf("transact: got %v, want the function's own error", err)
		}
		return
	}
	check(t, err)
	m.want = after
}

func (m *writes) compare(t *rapid.T) {
	compareReads(t, m.s, m.want[0])
	compareReads(t, m.trees[1], m.want[1])
	if m.frozen != nil {
		compareReads(t, m.x.Reader(m.trees[0]), m.frozen[0])
		compareReads(t, m.x.Reader(m.trees[1]), m.frozen[1])
	}
}

func TestMergeWithoutOperator(t *testing.T) {
	s := newStore(t)
	if _, err := s.Merge([]byte("k"), nil); err == nil {
		t.Error("want an error that says how to get one")
	}
}

// TestUpdateUsesTheStore has the function of an update write the same key, and others,
// which must neither hang nor be lost.
func TestUpdateUsesTheStore(t *testing.T) {
	s := newStore(t)
	key := []byte("k")
	calls := 0
	_, after, err := s.Update(key, func(old []byte) ([]byte, error) {
		if calls++; calls == 1 {
			check(t, s.Set(key, []byte("by itself "), NoSync))
			check(t, s.Clear(NoSync))
			check(t, s.Set(key, []byte("by itself "), NoSync))
		}
		return append(old, "updated"...), nil
	})
	check(t, err)
	if string(after) != "by itself updated" || calls != 2 {
		t.Errorf("got %q after %d calls", after, calls)
	}
}

func TestDefaultTree(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	check(t, s.Set([]byte("k"), []byte("v")))
	names, err := s.Trees()
	check(t, err)
	if len(names) != 0 || s.Name() != "" {
		t.Errorf("got trees %q, the default's name %q, want none", names, s.Name())
	}
	b := s.NewBatch()
	defer b.Close()
	if err := b.DropTree(s.Default()); err == nil || !b.Empty() {
		t.Errorf("drop it: got %v, %d writes", err, b.Len())
	}
	check(t, s.Close())
	s = mustOpen(t, fs)
	defer func() { check(t, s.Close()) }()
	if value, ok, err := s.Get([]byte("k")); string(value) != "v" || !ok || err != nil {
		t.Errorf("opened again: got %q, %v, %v", value, ok, err)
	}
}

// TestStoreWithoutDefaultTree opens a store as it was written before there was one.
func TestStoreWithoutDefaultTree(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	put(t, mustTree(t, s, "t"), "k", "v")
	b := s.NewBatch()
	check(t, b.remove(registry, []byte(keyDefault)))
	check(t, b.Commit(true))
	b.Close()
	check(t, s.Close())
	for range 2 {
		s = mustOpen(t, fs)
		id := s.Default().id
		for _, name := range []string{"t", "u"} {
			if other := mustTree(t, s, name); other.id == id {
				t.Errorf("the default tree has the ID of %q", name)
			}
		}
		check(t, s.Set([]byte("k"), []byte("default")))
		check(t, s.Close())
	}
}

// TestDroppedTreeIsNotWritten has writers meet a drop: what they are told is true.
func TestDroppedTreeIsNotWritten(t *testing.T) {
	s := newStore(t)
	for range 50 {
		tree := mustTree(t, s, "t")
		done := make(chan error, 1)
		go func() {
			for {
				if err := tree.Set([]byte("k"), []byte("v"), NoSync); err != nil {
					done <- err
					return
				}
			}
		}()
		check(t, s.DropTree("t"))
		if err := <-done; err == nil {
			t.Error("a dropped tree was written")
		}
		if found := collect(t, view{s: s, src: s.db, id: tree.id, gone: func() error { return nil }}.Scan(nil,
			nil)); found != nil {
			t.Fatalf("of a dropped tree there is still %q", found)
		}
	}
}

// writeErrors does every write, with a key and with a value.
func writeErrors(s *Store, key, value []byte) map[string]error {
	short := []byte("short")
	update := func([]byte) ([]byte, error) { return value, nil }
	errs := map[string]error{
		"Set key":    s.Set(key, nil),
		"Set value":  s.Set(short, value),
		"Delete":     s.Delete(key),
		"Transact 1": s.Transact(context.Background(), func(tx *Tx) error { return tx.Tree(s.Default()).Set(key, nil) }),
		"Transact 2": s.Transact(context.Background(), func(tx *Tx) error { return tx.Tree(s.Default()).Set(short, value) }),
	}
	_, errs["Swap key"] = s.Swap(key, nil)
	_, errs["Swap value"] = s.Swap(short, value)
	_, _, errs["CompareAndSwap key"] = s.CompareAndSwap(key, nil, short)
	_, _, errs["CompareAndSwap value"] = s.CompareAndSwap(short, nil, value)
	errs["Create key"], errs["Create value"] = s.Create(key, short), s.Create(short, value)
	_, _, errs["Update key"] = s.Update(key, update)
	_, _, errs["Update value"] = s.Update(short, update)
	return errs
}

func TestWriteLimits(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	key, value := bytes.Repeat([]byte("k"), MaxKeyBytes), make([]byte, MaxValueBytes)
	value[MaxValueBytes-1] = 1
	check(t, s.Set(key, value, NoSync))
	got, ok, err := s.Get(key)
	check(t, err)
	if !ok || !bytes.Equal(got, value) {
		t.Errorf("the longest value: got %d bytes, %v", len(got), ok)
	}
	check(t, s.db.Flush())
	if got, _, err := s.Get(key); err != nil || !bytes.Equal(got, value) {
		t.Errorf("the longest value, flushed: got %d bytes, %v", len(got), err)
	}
	for name, err := range writeErrors(s, append(key, 'k'), append(value, 0)) {
		if !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", name, err)
		}
	}
	if n, err := s.Len(); n != 1 || err != nil {
		t.Errorf("after what was refused: got %d keys, %v", n, err)
	}
}
