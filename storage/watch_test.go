package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func mustWatch(t *testing.T, tree *Tree, prefix string) *Watch {
	t.Helper()
	w, err := tree.Watch([]byte(prefix))
	check(t, err)
	t.Cleanup(w.Close)
	return w
}

// next returns the next changes in a readable form, each with the number of the commit that it
// was a part of, counted from the first of them.
func next(t *testing.T, w *Watch, n int) []string {
	t.Helper()
	var out []string
	var first uint64
	for range n {
		c, err := w.Next(t.Context())
		check(t, err)
		if first == 0 {
			first = c.Commit
		}
		out = append(out, fmt.Sprintf("%d %s", c.Commit-first, changeText(c)))
	}
	return out
}

func changeText(c Change) string {
	switch c.Kind {
	case ChangeSet:
		return fmt.Sprintf("set %s=%s", c.Key, c.Value)
	case ChangeDelete:
		return fmt.Sprintf("delete %s", c.Key)
	case ChangeDeleteRange:
		if c.End == nil {
			return fmt.Sprintf("delete %s...", c.Key)
		}
		return fmt.Sprintf("delete %s..%s", c.Key, c.End)
	}
	return "unknown"
}

// TestWatch: every kind of write, as who watches the tree or a part of it sees it.
func TestWatch(t *testing.T) {
	s := newStore(t)
	tree, other := mustTree(t, s, "a"), mustTree(t, s, "b")
	check(t, tree.Set([]byte("before"), nil))
	whole, part := mustWatch(t, tree, ""), mustWatch(t, tree, "k")
	elsewhere := mustWatch(t, other, "")

	check(t, tree.Set([]byte("k1"), []byte("v"), NoSync))
	check(t, tree.Set([]byte{}, nil))
	check(t, tree.Delete([]byte("absent")))
	b := s.NewBatch()
	check(t, b.Set(tree, []byte("k2"), []byte("x")))
	check(t, b.Set(other, []byte("o"), []byte("y")))
	check(t, b.DeleteRange(tree, []byte("a"), []byte("k1")))
	check(t, b.DeleteRange(tree, []byte("k11"), nil))
	check(t, b.Commit(true))
	b.Close()
	if _, swapped, err := tree.CompareAndSwap([]byte("k2"), []byte("not there"), []byte("z")); swapped || err != nil {
		t.Fatalf("swapped %v, %v", swapped, err)
	}
	check(t, s.Transact(t.Context(), func(tx *Tx) error { return tx.Tree(tree).Set([]byte("k3"), []byte("tx")) }))
	if _, _, err := tree.PopLast(); err != nil {
		t.Fatal(err)
	}
	check(t, tree.Clear())

	if diff := cmp.Diff([]string{
		"0 set k1=v", "1 set =", "2 delete absent",
		"3 set k2=x", "3 delete a..k1", "3 delete k11...",
		"4 set k3=tx", "5 delete k3", "6 delete ...",
	}, next(t, whole, 9)); diff != "" {
		t.Errorf("the whole tree (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"0 set k1=v", "3 set k2=x", "3 delete k..k1", "3 delete k11..l", "4 set k3=tx", "5 delete k3", "6 delete k..l",
	}, next(t, part, 7)); diff != "" {
		t.Errorf("a prefix (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0 set o=y"}, next(t, elsewhere, 1)); diff != "" {
		t.Errorf("another tree (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, w := range []*Watch{whole, part, elsewhere} {
		if c, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after all of it: %v, %v; want the context's error", changeText(c), err)
		}
	}
}

// apply does to a model what a change did to the tree.
func (m model) apply(c Change) {
	switch c.Kind {
	case ChangeSet:
		m[string(c.Key)] = string(c.Value)
	case ChangeDelete:
		delete(m, string(c.Key))
	case ChangeDeleteRange:
		for k := range m {
			if k >= string(c.Key) && (c.End == nil || k < string(c.End)) {
				delete(m, k)
			}
		}
	}
}

// TestWatchUnderWriters: what a snapshot holds that is taken after Watch, and the changes since,
// are the tree as it is in the end, whatever goes on meanwhile: no change is missed, and of two of
// one key the later one comes last.
func TestWatchUnderWriters(t *testing.T) {
	t.Parallel()
	const perWriter = 300
	s := newStore(t)
	tree := mustTree(t, s, "t")
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() { scribble(t, tree, rand.New(rand.NewPCG(uint64(i), 1)), perWriter) })
	}
	var watches sync.WaitGroup
	for i := range 4 {
		watches.Go(func() {
			for range i * 10 { // begin at different moments
				if err := tree.Set([]byte("z"), []byte("z"), NoSync); err != nil {
					t.Error(err)
				}
			}
			follow(t, tree, &writers)
		})
	}
	watches.Wait()
}

// scribble does writes of all kinds to a few keys.
func scribble(t *testing.T, tree *Tree, rng *rand.Rand, n int) {
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rng.IntN(20)) }
	for i := range n {
		value := fmt.Append(nil, i, rng.Uint32())
		var err error
		switch rng.IntN(8) {
		case 0:
			err = tree.Delete(key(), NoSync)
		case 1:
			_, _, err = tree.PopFirst(NoSync)
		case 2:
			_, _, err = tree.Update(key(), func(old []byte) ([]byte, error) { return append(old, 'u'), nil }, NoSync)
		case 3:
			b := tree.s.NewBatch()
			err = errors.Join(b.DeleteRange(tree, key(), key()), b.Set(tree, key(), value), b.Commit(false))
			b.Close()
		case 4:
			err = tree.s.Transact(t.Context(), func(tx *Tx) error {
				v, _, err := tx.Tree(tree).Get(key())
				return errors.Join(err, tx.Tree(tree).Set(key(), v))
			}, NoSync)
		default:
			err = tree.Set(key(), value, NoSync)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// follow watches the tree until the writers are done, and compares.
func follow(t *testing.T, tree *Tree, writers *sync.WaitGroup) {
	w, err := tree.Watch(nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	x := tree.s.NewSnapshot()
	defer x.Close()
	m := make(model)
	for p, err := range x.Reader(tree).Scan(nil, nil) {
		if err != nil {
			t.Error(err)
			return
		}
		m[string(p.Key)] = string(p.Value)
	}
	writers.Wait()
	last := fmt.Appendf(nil, "last %p", w)
	if err := tree.Set(last, nil, NoSync); err != nil {
		t.Error(err)
	}
	end := tree.s.NewSnapshot()
	defer end.Close()
	var commit uint64
	for c, err := range w.All(t.Context()) {
		if err != nil || c.Commit < commit {
			t.Errorf("%s of commit %d after %d, %v", changeText(c), c.Commit, commit, err)
			return
		}
		commit = c.Commit
		m.apply(c)
		if string(c.Key) == string(last) {
			break
		}
	}
	// Others may have noted their ends meanwhile: their notes are left out.
	got, want := m.scan(nil, []byte("l"), false), collect(t, end.Reader(tree).Scan(nil, []byte("l")))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree and what the watch has made of it (-want +got):\n%s", diff)
	}
}

// TestWatchExisted has several writers at a tree, batches that write keys repeatedly among them.
// Those who watch from the beginning know from each change what must have been there before the
// next one.
func TestWatchExisted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tree := mustTree(t, s, "t")
	plain := mustWatch(t, tree, "")
	var watches []*Watch
	for _, prefix := range []string{"", "k1"} {
		w, err := tree.WatchExisted([]byte(prefix))
		check(t, err)
		defer w.Close()
		watches = append(watches, w)
	}
	var writers sync.WaitGroup
	for i := range 3 {
		rng := rand.New(rand.NewPCG(uint64(i), 2))
		writers.Go(func() {
			scribble(t, tree, rng, 200)
			for range 100 {
				if err := scribbleBatch(tree, rng); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	check(t, tree.Set([]byte("k1 end"), nil, NoSync))
	for _, w := range watches {
		m, created, updated := make(model), 0, 0
		for c, err := range w.All(t.Context()) {
			check(t, err)
			_, there := m[string(c.Key)]
			if c.Existed != (there && c.Kind != ChangeDeleteRange) {
				t.Fatalf("%s of commit %d: existed is %v", changeText(c), c.Commit, c.Existed)
			}
			if c.Kind == ChangeSet && c.Existed {
				updated++
			} else if c.Kind == ChangeSet {
				created++
			}
			m.apply(c)
			if string(c.Key) == "k1 end" {
				break
			}
		}
		if created < 50 || updated < 50 {
			t.Errorf("%d were created and %d updated, want many of each", created, updated)
		}
	}
	for c, err := range plain.All(t.Context()) {
		check(t, err)
		if c.Existed {
			t.Fatalf("%s: existed, which nobody has asked for", changeText(c))
		}
		if string(c.Key) == "k1 end" {
			break
		}
	}
}

// TestWatchExistedCannotRead: a key that can't be read ends the watch, and holds up no commit.
func TestWatchExistedCannotRead(t *testing.T) {
	var broken atomic.Bool
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsRead {
			return errTest
		}
		return nil
	})))
	defer func() { check(t, s.Close()) }()
	put(t, s.Default(), "k", "v")
	check(t, s.db.Flush())
	w, err := s.WatchExisted(nil)
	check(t, err)
	broken.Store(true)
	check(t, s.Set([]byte("k"), []byte("w")))
	broken.Store(false)
	if c, err := w.Next(t.Context()); !errors.Is(err, errTest) {
		t.Errorf("got %v, %v, want the error of the disk", changeText(c), err)
	}
}

// scribbleBatch commits several writes to a few keys together.
func scribbleBatch(tree *Tree, rng *rand.Rand) error {
	b := tree.s.NewBatch()
	defer b.Close()
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rng.IntN(20)) }
	var errs []error
	for range 8 {
		switch rng.IntN(4) {
		case 0:
			errs = append(errs, b.Delete(tree, key()))
		case 1:
			errs = append(errs, b.DeleteRange(tree, key(), key()))
		default:
			errs = append(errs, b.Set(tree, key(), key()))
		}
	}
	return errors.Join(append(errs, b.Commit(false))...)
}

// TestWatchThatIsNeverRead: it holds up nobody, and holds no more than its buffer. What it
// has buffered is delivered; then it says that it fell behind.
func TestWatchThatIsNeverRead(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	w, reader := mustWatch(t, tree, ""), mustWatch(t, tree, "")
	value := []byte(strings.Repeat("v", 64<<10))
	for i := range 2 * watchBuffer / len(value) {
		check(t, tree.Set(numberedKey(i), value, NoSync))
		if c, err := reader.Next(t.Context()); err != nil || string(c.Key) != string(numberedKey(i)) {
			t.Fatalf("the reader beside it got %q, %v", c.Key, err)
		}
	}
	w.mu.Lock()
	held := w.bytes
	w.mu.Unlock()
	if held > watchBuffer || held < watchBuffer/2 {
		t.Errorf("it holds %d bytes, its buffer is for %d", held, watchBuffer)
	}
	n := 0
	for c, err := range w.All(t.Context()) {
		if err != nil {
			if !errors.Is(err, ErrLagged) || !strings.Contains(err.Error(), `"t"`) {
				t.Errorf("it ends with %v, want ErrLagged that names the tree", err)
			}
			break
		}
		if string(c.Key) != string(numberedKey(n)) {
			t.Fatalf("change %d is of key %q", n, c.Key)
		}
		n++
	}
	if n < watchBuffer/2/len(value) {
		t.Errorf("%d changes came before the error", n)
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, ErrLagged) {
		t.Errorf("asked again: %v, want ErrLagged", err)
	}
}

// TestWatchOfAHugeBatch: none of a batch that doesn't fit is delivered, and one that Pebble
// takes as it is (since it is larger than half a memory table) is.
func TestWatchOfAHugeBatch(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	w := mustWatch(t, tree, "")
	commit := func(keys int, value string) {
		b := s.NewBatch()
		defer b.Close()
		for i := range keys {
			check(t, b.Set(tree, numberedKey(i), []byte(value)))
		}
		check(t, b.Commit(false))
	}
	commit(3, strings.Repeat("x", 100<<10))
	commit(100, strings.Repeat("y", 100<<10))
	for i := range 3 {
		if c, err := w.Next(t.Context()); err != nil || string(c.Key) != string(numberedKey(i)) || c.Value[0] != 'x' {
			t.Errorf("change %d: %.20s, %v", i, changeText(c), err)
		}
	}
	if c, err := w.Next(t.Context()); !errors.Is(err, ErrLagged) {
		t.Errorf("got %.20s, %v; want ErrLagged", changeText(c), err)
	}
}

// TestWatchEnds: whatever ends a watch wakes who waits for it, with the reason.
func TestWatchEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(s *Store, w *Watch)
		want error
		says string
	}{
		{"closed", func(_ *Store, w *Watch) { w.Close(); w.Close() }, nexusraft.ErrClosed, "watch of tree"},
		{"store closed", func(s *Store, _ *Watch) { _ = s.Close() }, nexusraft.ErrClosed, "store"},
		{"store died", func(s *Store, _ *Watch) { s.failstop.stop(errors.New("bad disk")) }, nexusraft.ErrClosed, "bad disk"},
		{"tree dropped", func(s *Store, _ *Watch) { _ = s.DropTree("t") }, nil, "was dropped"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := mustOpen(t, NewMemFS())
			defer s.Close()
			w := mustWatch(t, mustTree(t, s, "t"), "")
			ended := make(chan error)
			go func() {
				var err error
				for _, err = range w.All(t.Context()) {
				}
				ended <- err
			}()
			tc.end(s, w)
			for range 2 {
				err := <-ended
				if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %v, want %v with %q", err, tc.want, tc.says)
				}
				go func() { _, err := w.Next(t.Context()); ended <- err }()
			}
			<-ended
		})
	}
	s := mustOpen(t, NewMemFS())
	tree := mustTree(t, s, "t")
	check(t, s.DropTree("t"))
	if _, err := tree.Watch(nil); err == nil {
		t.Error("a dropped tree can be watched")
	}
	check(t, s.Close())
	if _, err := tree.Watch(nil); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("watch of a closed store: %v, want ErrClosed", err)
	}
	if used := s.watches.used.Load(); used {
		t.Error("the store goes on as if somebody watched")
	}
}

// TestWatchDeliversTheDrop: the removal of the tree's keys is the last change.
func TestWatchDeliversTheDrop(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	w := mustWatch(t, tree, "")
	check(t, tree.Set([]byte("k"), nil))
	check(t, s.DropTree("t"))
	if diff := cmp.Diff([]string{"0 set k=", "1 delete ..."}, next(t, w, 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.watches.used.Load() {
		t.Error("the store goes on as if somebody watched")
	}
}

// TestWatchKeepsTheOrder: who sets b to what it has read of a comes after the one who has
// set a, though nothing but the commits puts them in order.
func TestWatchKeepsTheOrder(t *testing.T) {
	const n = 3000
	s := newStore(t)
	tree := mustTree(t, s, "t")
	w := mustWatch(t, tree, "")
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := range n {
			if err := tree.Set([]byte("a"), fmt.Appendf(nil, "%06d", i), NoSync); err != nil {
				t.Error(err)
			}
		}
	})
	for _, key := range []string{"b", "c"} {
		writers.Go(func() {
			for {
				v, ok, err := tree.Get([]byte("a"))
				if err == nil && ok {
					err = tree.Set([]byte(key), v, NoSync)
				}
				if err != nil {
					t.Error(err)
				}
				if string(v) == fmt.Sprintf("%06d", n-1) {
					return
				}
			}
		})
	}
	defer writers.Wait()
	latest := ""
	for ends := 0; ends < 2; {
		c, err := w.Next(t.Context())
		check(t, err)
		switch value := string(c.Value); {
		case string(c.Key) == "a":
			latest = value
		case value > latest:
			t.Fatalf("%s comes while a is still %s", changeText(c), latest)
		case value == fmt.Sprintf("%06d", n-1):
			ends++
		}
	}
}

// TestWatchMissesNothing: a watch that begins in the middle of commits has each that a read
// after its beginning did not see.
func TestWatchMissesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tree := mustTree(t, s, "t")
	key := []byte("n")
	check(t, tree.Set(key, fmt.Appendf(nil, "%08d", 0)))
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := tree.Set(key, fmt.Appendf(nil, "%08d", i), NoSync); err != nil {
				stopped <- err
				return
			}
		}
	}()
	number := func(value []byte) (n int) {
		_, err := fmt.Sscanf(string(value), "%d", &n)
		check(t, err)
		return n
	}
	for range 500 {
		w, err := tree.Watch(nil)
		check(t, err)
		seen, _, err := tree.Get(key)
		check(t, err)
		c, err := w.Next(t.Context())
		check(t, err)
		w.Close()
		if number(c.Value) > number(seen)+1 {
			t.Fatalf("after %s was read, the first change is to %s", seen, c.Value)
		}
	}
	close(stop)
	check(t, <-stopped)
}

// TestManyWatches: a commit looks at the watches of what it writes, not at all of them, and each
// watch gets what the rules say, whatever others there are.
func TestManyWatches(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	const watches = 2000
	all := make([]*Watch, watches)
	for i := range all {
		all[i] = mustWatch(t, tree, string(numberedKey(i)))
	}
	looked := 0
	s.watches.each(pebble.InternalKeyKindSet, appendKey(nil, tree.id, numberedKey(3)), nil, func(*Watch) { looked++ })
	if looked != 1 {
		t.Errorf("a set looks at %d watches of %d, want 1", looked, watches)
	}
	check(t, s.deleteRange(tree, numberedKey(5), numberedKey(8)))
	check(t, tree.Set(append(numberedKey(9), "more"...), []byte("v"), NoSync))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i, w := range all {
		c, err := w.Next(ctx)
		switch {
		case i >= 5 && i < 8:
			if err != nil || c.Kind != ChangeDeleteRange || string(c.Key) != string(numberedKey(i)) {
				t.Errorf("watch %d got %s, %v, want its part of the range", i, changeText(c), err)
			}
		case i == 9:
			if err != nil || c.Kind != ChangeSet {
				t.Errorf("watch 9 got %s, %v, want the key behind its prefix", changeText(c), err)
			}
		case !errors.Is(err, context.Canceled):
			t.Errorf("watch %d got %s, %v, want nothing", i, changeText(c), err)
		}
		w.Close()
	}
	s.watches.forget()
	if n := s.watches.open.Len() + len(s.watches.lengths); n != 0 || s.watches.used.Load() {
		t.Errorf("%d prefixes and lengths are left of watches that were closed", n)
	}
}
