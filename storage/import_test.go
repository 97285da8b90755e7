package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// wantUnchanged makes sure that an import that failed has left nothing.
func wantUnchanged(t *testing.T, what string, s *Store, want map[string][]kv) {
	t.Helper()
	if diff := cmp.Diff(want, contents(t, s)); diff != "" {
		t.Errorf("%s: the store has changed (-want +got):\n%s", what, diff)
	}
	wantNoIngestFiles(t, what, s.options.FS)
}

func wantNoIngestFiles(t *testing.T, what string, fs FS) {
	t.Helper()
	names, err := fs.List("data")
	check(t, err)
	for _, name := range names {
		if strings.HasPrefix(name, ingestFiles) {
			t.Errorf("%s: %s is left", what, name)
		}
	}
}

// TestImportOfDamage changes each byte of an export, cuts it off everywhere, and puts something
// behind it.
func TestImportOfDamage(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	to := newStore(t)
	put(t, mustTree(t, to, "other"), "k", "v")
	want := contents(t, to)
	try := func(what string, damaged []byte) {
		t.Helper()
		stats, err := to.Import(t.Context(), bytes.NewReader(damaged))
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "byte") || stats != (ExportStats{}) {
			t.Errorf("%s: got %+v, %v, want ErrCorrupt with the offset", what, stats, err)
		}
		wantUnchanged(t, what, to, want)
	}
	for i := range stream {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			damaged := bytes.Clone(stream)
			damaged[i] ^= mask
			try(fmt.Sprintf("byte %d ^ %x", i, mask), damaged)
		}
		try(fmt.Sprintf("%d bytes of %d", i, len(stream)), stream[:i])
	}
	try("something behind it", append(bytes.Clone(stream), 0))
	try("twice", append(bytes.Clone(stream), stream...))
	try("not an export", []byte("PK\x03\x04 something else that is long enough"))
	_, err := to.Import(t.Context(), bytes.NewReader(stream))
	check(t, err)
}

// TestImportOfNonsense: streams whose checks are right, and that no Export writes.
func TestImportOfNonsense(t *testing.T) {
	const huge = "\xff\xff\xff\xff\xff\xff\xff\xff\x0f" // 2^60 and more, as a varint
	to := newStore(t)
	want := contents(t, to)
	for _, tc := range []struct {
		name   string
		stream []byte
		says   string
	}{
		{"pairs without a tree", seal(exportVersion, "\x02\x01\x01kv"), "before the first tree"},
		{"an unknown kind", seal(exportVersion, "\x04"), "kind 4"},
		{"a tree twice", seal(exportVersion, "\x01a", "\x01a"), `tree "a"`},
		{"the default tree twice", seal(exportVersion, "\x01", "\x01"), `tree ""`},
		{"trees out of order", seal(exportVersion, "\x01b", "\x01a"), `tree "a" can't follow tree "b"`},
		{"a name with control characters", seal(exportVersion, "\x01a\n"), `a\n`},
		{"a name that is too long", seal(exportVersion, "\x01"+strings.Repeat("a", MaxNameBytes+1)), "can't follow"},
		{"keys out of order", seal(exportVersion, "\x01a", "\x02\x01\x01lv\x01\x01kv"), "pair 1"},
		{"keys out of order in two frames", seal(exportVersion, "\x01a", "\x02\x01\x01lv", "\x02\x01\x01kv"), "pair 1"},
		{"a key twice", seal(exportVersion, "\x01a", "\x02\x01\x01kv", "\x02\x01\x01kv"), "pair 1"},
		{"the empty key twice", seal(exportVersion, "\x01a", "\x02\x00\x01v\x00\x01v"), "pair 1"},
		{"half a pair", seal(exportVersion, "\x01a", "\x02\x01\x02kv"), "pair 0"},
		{"half a length", seal(exportVersion, "\x01a", "\x02\x80"), "pair 0"},
		{"a key of 2^60 bytes", seal(exportVersion, "\x01a", "\x02"+huge+"\x01kv"), "pair 0"},
		{"a value of 2^60 bytes", seal(exportVersion, "\x01a", "\x02\x01"+huge+"kv"), "pair 0"},
		{
			"lengths whose sum is small", seal(exportVersion, "\x01a", "\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x03kv"),
			"pair 0",
		},
		{
			"a key that is too long", seal(exportVersion, "\x01a", "\x02\x81\x80\x04\x00"+strings.Repeat("k", MaxKeyBytes+1)),
			"pair 0",
		},
		{"a frame of 4 GiB", append(seal(exportVersion), "\x02\xff\xff\xff\xff\x00\x00\x00\x00xxx"...), "limit"},
		{
			"a frame that is cut off", append(seal(exportVersion), "\x02\x04\x00\x00\x00\x00\x00\x00\x00xxx"...),
			"cut off at byte 36",
		},
		{"an end that knows another number of trees", seal(exportVersion, "\x01a", "\x03\x00"), "not all"},
		{
			"an end that has seen other frames", seal(exportVersion, "\x01a", "\x03\x01\x00"+strings.Repeat("\x00", 32)),
			"not all",
		},
		{"an end that knows another number of pairs", seal(exportVersion, "\x01a", "\x02\x01\x01kv",
			"\x03\x01\x00"+strings.Repeat("\x00", 32)), "not all"},
		{"no end", seal(exportVersion, "\x01a"), "cut off at byte 34"},
	} {
		_, err := to.Import(t.Context(), bytes.NewReader(tc.stream))
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want ErrCorrupt with %q", tc.name, err, tc.says)
		}
		wantUnchanged(t, tc.name, to, want)
	}
	_, err := to.Import(t.Context(), bytes.NewReader(seal(exportVersion+1)))
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "version 2,") ||
		!strings.Contains(err.Error(), "version 1;") {
		t.Errorf("of a later version: got %v, want ErrRefused and both versions", err)
	}
}

func TestImportRefusals(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	refused := func(what string, s *Store, ctx context.Context, r io.Reader, want error, says string) {
		t.Helper()
		before := contents(t, s)
		if _, err := s.Import(ctx, r); !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %v with %q", what, err, want, says)
		}
		wantUnchanged(t, what, s, before)
	}
	ctx := t.Context()
	s := newStore(t)
	put(t, mustTree(t, s, "b"), "k", "v")
	refused("a tree that is not empty", s, ctx, bytes.NewReader(stream), nexusraft.ErrRefused, `tree "b" is not empty`)
	s = newStore(t)
	put(t, s.Default(), "k", "v")
	refused("a default tree that is not empty", s, ctx, bytes.NewReader(stream), nexusraft.ErrRefused,
		`tree "" is not empty`)
	s = newStore(t)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	refused("a context that has ended", s, cancelled, bytes.NewReader(stream), context.Canceled, "")
	refused("a reader that fails", s, ctx, io.MultiReader(bytes.NewReader(stream[:50]),
		iotest.ErrReader(io.ErrClosedPipe)), io.ErrClosedPipe, "byte 50")
	refused("a reader that fails at the end", s, ctx, io.MultiReader(bytes.NewReader(stream),
		iotest.ErrReader(io.ErrClosedPipe)), io.ErrClosedPipe, "byte")

	fs := NewMemFS()
	o := testOptions(fs)
	o.DiskReserve = 1 << 20
	s, err := Open("data", o)
	check(t, err)
	fs.SetDiskFree(1 << 19)
	wantSoon(t, s, true)
	refused("a full disk", s, ctx, bytes.NewReader(stream), nexusraft.ErrDiskFull, "")
	check(t, s.Close())
	o.ReadOnly = true
	s, err = Open("data", o)
	check(t, err)
	refused("a store that is only to be read", s, ctx, bytes.NewReader(stream), nexusraft.ErrRefused, "ReadOnly")
	check(t, s.Close())
	if _, err := s.Import(ctx, bytes.NewReader(stream)); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("a closed store: got %v", err)
	}
}

// midway is a reader that calls a function before it gives its last byte.
func midway(stream []byte, do func()) io.Reader {
	last := len(stream) - 1
	return io.MultiReader(bytes.NewReader(stream[:last]), &hook{do: do}, bytes.NewReader(stream[last:]))
}

type hook struct {
	do func()
	io.Reader
}

func (h *hook) Read([]byte) (int, error) {
	h.do()
	return 0, io.EOF
}

// TestImportMeetsOthers: what happens to its trees while it reads is not overwritten, and what
// happens to others goes on.
func TestImportMeetsOthers(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, s *Store)
		says string // nothing if it is to succeed
	}{
		{"a new tree is created", func(t *testing.T, s *Store) { mustTree(t, s, "a") }, `tree "a" was created`},
		{
			"an empty tree is dropped", func(t *testing.T, s *Store) { check(t, s.DropTree("c")) },
			`tree "c" was created or dropped`,
		},
		{
			"an empty tree is written", func(t *testing.T, s *Store) { put(t, mustTree(t, s, "c"), "k", "v") },
			`tree "c" is not empty`,
		},
		{
			"the default tree is written", func(t *testing.T, s *Store) { put(t, s.Default(), "k", "v") },
			`tree "" is not empty`,
		},
		{"another tree is created", func(t *testing.T, s *Store) { put(t, mustTree(t, s, "x"), "k", "v") }, ""},
		{"it is imported by others, too", func(t *testing.T, s *Store) {
			_, err := s.Import(t.Context(), bytes.NewReader(stream))
			check(t, err)
		}, `tree "" is not empty`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := NewMemFS()
			s := mustOpen(t, fs)
			defer func() { check(t, s.Close()) }()
			mustTree(t, s, "c")
			var before map[string][]kv
			_, err := s.Import(t.Context(), midway(stream, func() {
				tc.do(t, s)
				before = contents(t, s)
			}))
			if tc.says == "" {
				check(t, err)
				maps.Copy(before, contents(t, smallStore(t)))
			} else if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want ErrRefused with %q", err, tc.says)
			}
			wantUnchanged(t, "after it", s, before)
			put(t, mustTree(t, s, "next"), "k", "v") // its ID is nobody else's
			before["next"] = []kv{{"k", "v"}}
			after := mustOpen(t, crashAfterSync(t, s, fs))
			defer func() { check(t, after.Close()) }()
			wantUnchanged(t, "opened again", after, before)
		})
	}
}

// crashAfterSync is the disk after a crash, with all that the store has now.
func crashAfterSync(t *testing.T, s *Store, fs *MemFS) *MemFS {
	t.Helper()
	check(t, s.Flush())
	return fs.CrashClone(nil, 0)
}

// TestImportAmongWriters: others write all the time, and see the imported trees whole or not at
// all.
func TestImportAmongWriters(t *testing.T) {
	from := newStore(t)
	fillTrees(t, from)
	stream, stats := exportOf(t, from, "tree 1", "tree 2")
	s := newStore(t)
	other := mustTree(t, s, "other")
	mustTree(t, s, "tree 1")
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := other.Set(fmt.Appendf(nil, "%d", i%100), fmt.Appendf(nil, "%0500d", i), NoSync); err != nil {
				t.Error(err)
				return
			}
		}
	})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			x := s.NewSnapshot()
			n := 0
			views, err := x.trees()
			if err != nil {
				t.Error(err)
			}
			for _, v := range views {
				if strings.HasPrefix(v.name, "tree ") {
					pairs, err := v.Len()
					if err != nil {
						t.Error(err)
					}
					n += pairs
				}
			}
			x.Close()
			if n != 0 && n != int(stats.Pairs) {
				t.Errorf("%d of %d pairs are there", n, stats.Pairs)
			}
		}
	})
	for range 10 {
		_, err := s.Import(t.Context(), bytes.NewReader(stream))
		check(t, err)
		b := s.NewBatch()
		check(t, b.DropTree(mustTree(t, s, "tree 2")))
		check(t, b.DeleteRange(mustTree(t, s, "tree 1"), nil, nil))
		check(t, b.Commit(false))
		b.Close()
	}
	close(stop)
	others.Wait()
}

// TestImportTellsOthers: watches of a tree that was there end, and pops find what was imported.
func TestImportTellsOthers(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	s := newStore(t)
	a := mustTree(t, s, "a")
	for _, key := range []string{"x", "y", "z"} {
		put(t, a, key, "v")
	}
	for _, pop := range []func(...Durability) (nexusraft.Pair, bool, error){a.PopLast, a.PopFirst, a.PopFirst} {
		if _, ok, err := pop(); !ok || err != nil {
			t.Fatalf("got %v, %v", ok, err)
		}
	}
	w, other := mustWatch(t, a, ""), mustWatch(t, mustTree(t, s, "other"), "")
	put(t, mustTree(t, s, "other"), "k", "v")
	_, err := s.Import(t.Context(), bytes.NewReader(stream))
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.Next(ctx); !errors.Is(err, ErrLagged) {
		t.Errorf("the watch of a tree that was imported: got %v, want ErrLagged", err)
	}
	if c, err := other.Next(t.Context()); err != nil || string(c.Key) != "k" {
		t.Errorf("the watch of another tree: got %v, %v", c, err)
	}
	if p, ok, err := a.PopFirst(); string(p.Key) != "k" || !ok || err != nil {
		t.Errorf("pop: got %q, %v, %v", p.Key, ok, err)
	}
	if stats := s.Stats(); stats.Writes < 4 || stats.TableBytes == 0 {
		t.Errorf("the import is not in %+v", stats)
	}
}

// TestImportWhenClosed: Close does not wait for a slow reader's whole export.
func TestImportWhenClosed(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	fs := NewMemFS()
	s := mustOpen(t, fs)
	closed := make(chan error, 1)
	_, err := s.Import(t.Context(), midway(stream, func() {
		go func() { closed <- s.Close() }()
		<-s.Done()
	}))
	if !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	check(t, <-closed)
	wantNoIngestFiles(t, "closed", fs)
}

// TestCrashWhileImporting crashes at many moments of imports, while others write: the trees are
// there whole or not at all, whole once Import has returned, and nothing else is
// lost that came before what is there.
func TestCrashWhileImporting(t *testing.T) {
	from := smallStore(t)
	stream, _ := exportOf(t, from)
	want := contents(t, from)
	outcomes := make(map[bool]int)
	rng := rand.New(rand.NewPCG(4, 4))
	for round := range 6 {
		mem := NewMemFS()
		clones := &crashes{rng: rng, mem: mem}
		s, err := Open("data", testOptions(errorfs.Wrap(mem, clones)))
		check(t, err)
		mustTree(t, s, "a")
		put(t, mustTree(t, s, "before"), "k", "not synced")
		clones.take.Store(true)
		_, err = s.Import(t.Context(), bytes.NewReader(stream))
		check(t, err)
		clones.take.Store(false)
		all := append(clones.all(), mem.CrashClone(nil, 0))
		check(t, s.Close())
		for i, disk := range all {
			whole := afterCrash(t, fmt.Sprintf("round %d, crash %d of %d", round, i, len(all)), disk, want)
			outcomes[whole]++
			if i == len(all)-1 && !whole {
				t.Errorf("round %d: what was imported is lost", round)
			}
		}
	}
	if outcomes[true] < 20 || outcomes[false] < 20 {
		t.Errorf("%d crashes before the trees were visible, %d after it: want many of both", outcomes[false], outcomes[true])
	}
}

// TestImportOvertakesNothing: of a tree that was there before, the tables may come past the log. A
// crash that takes a write takes all that came later, too.
func TestImportOvertakesNothing(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t), "")
	rng := rand.New(rand.NewPCG(5, 5))
	mem := NewMemFS()
	clones := &crashes{rng: rng, mem: mem}
	s, err := Open("data", testOptions(errorfs.Wrap(mem, clones)))
	check(t, err)
	put(t, mustTree(t, s, "before"), "k", "not synced")
	clones.take.Store(true)
	_, err = s.Import(t.Context(), bytes.NewReader(stream))
	check(t, err)
	clones.take.Store(false)
	check(t, s.Close())
	imported := 0
	for i, disk := range clones.all() {
		s := mustOpen(t, disk)
		got := contents(t, s)
		check(t, s.Close())
		if len(got[""]) > 0 {
			imported++
			if len(got["before"]) == 0 {
				t.Errorf("crash %d: what came before the import is lost, the import is there", i)
			}
		}
	}
	if imported == 0 {
		t.Error("no crash has left the import")
	}
}

// crashes clones a disk before each of its changes.
type crashes struct {
	mem   *MemFS
	take  atomic.Bool
	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	taken []*MemFS
}

func (c *crashes) String() string { return "crashes" }

func (c *crashes) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || !c.take.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, c.mem.CrashClone(c.rng, c.rng.IntN(3)*50))
	return nil
}

func (c *crashes) all() []*MemFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.taken) // a write of the background may still be taken
}

// afterCrash reports whether the imported trees are on a disk, and imports nothing.
func afterCrash(t *testing.T, what string, disk *MemFS, want map[string][]kv) (whole bool) {
	t.Helper()
	s := mustOpen(t, disk)
	defer func() { check(t, s.Close()) }()
	wantNoIngestFiles(t, what, disk)
	got := contents(t, s)
	before := got["before"]
	delete(got, "before")
	if _, whole = got["b"]; !whole {
		if diff := cmp.Diff(map[string][]kv{"": nil, "a": nil}, got); diff != "" {
			t.Errorf("%s: a part is there (-want +got):\n%s", what, diff)
		}
		// The ID of a new tree may have been given out before.
		if empty, err := mustTree(t, s, "b").Empty(); !empty || err != nil {
			t.Errorf("%s: a new tree is not empty: %v, %v", what, empty, err)
		}
		return false
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: not all is there (-want +got):\n%s", what, diff)
	}
	if len(before) != 1 {
		t.Errorf("%s: a write from before the import is lost", what)
	}
	return true
}

// TestImportOnAFailingDisk fails each change of the disk in turn: the call ends with an error, or
// did it all; while the tables are being written the store lives on, and what it says then is true
// after a crash, too.
func TestImportOnAFailingDisk(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	run := func(t *testing.T, at int64) (changes int64, alive bool) {
		mem := NewMemFS()
		var importing atomic.Bool
		failing := &failingFS{at: at, only: func(errorfs.Op) bool { return importing.Load() }}
		s, err := Open("data", testOptions(errorfs.Wrap(mem, failing)))
		check(t, err)
		mustTree(t, s, "a")
		importing.Store(true)
		_, err = s.Import(t.Context(), bytes.NewReader(stream))
		importing.Store(false)
		changes = failing.count.Load()
		_, there, openErr := s.OpenTree("b")
		if openErr == nil && there != (err == nil) {
			t.Errorf("import returned %v, the tree is there: %v", err, there)
		}
		setErr := s.Set([]byte("does it live"), nil)
		closeErr := s.Close()
		alive = s.failstop.cause() == nil
		if alive && errors.Join(openErr, setErr, closeErr) != nil {
			t.Errorf("the store lives, and says %v, %v, %v", openErr, setErr, closeErr)
		}
		after := mustOpen(t, mem.CrashClone(nil, 0))
		defer func() { check(t, after.Close()) }()
		_, there, openErr = after.OpenTree("b")
		check(t, openErr)
		pairs, lenErr := mustTree(t, after, "a").Len()
		check(t, lenErr)
		if there != (pairs == 1) || err == nil && !there {
			t.Errorf("import returned %v; after a crash tree b is there: %v, tree a has %d pairs", err, there, pairs)
		}
		return changes, alive
	}
	total, _ := run(t, 0)
	if total < 8 {
		t.Fatalf("only %d changes to fail", total)
	}
	survived := 0
	for at := int64(1); at <= total; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			if _, alive := run(t, at); alive {
				survived++
			}
		})
	}
	if survived < 5 {
		t.Errorf("the store survived %d of %d failures", survived, total)
	}
}

// TestImportToAFullDisk: the disk is full before its reserve could tell.
func TestImportToAFullDisk(t *testing.T) {
	stream, _ := exportOf(t, smallStore(t))
	mem := NewMemFS()
	s, err := Open("data", testOptions(fullFS{mem, "data/" + ingestFiles}))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	want := contents(t, s)
	if _, err := s.Import(t.Context(), bytes.NewReader(stream)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want the cause", err)
	}
	wantUnchanged(t, "after it", s, want)
	check(t, s.Set([]byte("it lives"), nil))
}

// TestImportIsSwept: files that a crash has left are removed, but not by who only reads.
func TestImportIsSwept(t *testing.T) {
	mem := NewMemFS()
	check(t, mustOpen(t, mem).Close())
	left := "data/" + ingestFiles + "1-0"
	f, err := mem.Create(left, vfs.WriteCategoryUnspecified)
	check(t, err)
	check(t, f.Close())
	if ok, err := Exists("data", testOptions(mem)); !ok || err != nil {
		t.Errorf("got %v, %v, want a store", ok, err)
	}
	o := testOptions(mem)
	o.ReadOnly = true
	s, err := Open("data", o)
	check(t, err)
	check(t, s.Close())
	if _, err := mem.Stat(left); err != nil {
		t.Errorf("a reader has removed it: %v", err)
	}
	check(t, mustOpen(t, mem).Close())
	wantNoIngestFiles(t, "opened", mem)
}

// TestImportOfManyTables: one after the other is filled, and all appear at once.
func TestImportOfManyTables(t *testing.T) {
	s := newStore(t)
	mustTree(t, s, "b")
	g := s.newIngest()
	defer g.discard()
	want := map[string][]kv{"": nil}
	for _, name := range []string{"a", "b", "c"} {
		check(t, g.begin(name))
		for i := range 10 {
			p := kv{fmt.Sprint(i), name}
			check(t, g.set([]byte(p.Key), []byte(p.Value)))
			want[name] = append(want[name], p)
			if i%3 == 0 {
				g.bytes = ingestTableBytes // it is full
			}
		}
	}
	check(t, g.publish(t.Context()))
	if diff := cmp.Diff(want, contents(t, s)); diff != "" || len(g.paths) != 13 { // the last one is the registry's
		t.Errorf("of %d tables (-want +got):\n%s", len(g.paths), diff)
	}
}

// TestLargestFrame: the largest pair fits behind a frame that is almost full.
func TestLargestFrame(t *testing.T) {
	e := &exporter{frame: make([]byte, frameHeaderBytes)}
	e.add(nexusraft.Pair{Value: make([]byte, fullFrame-5)})
	if n := len(e.frame) - frameHeaderBytes; n != fullFrame-1 {
		t.Fatalf("the frame has %d bytes", n)
	}
	e.add(nexusraft.Pair{Key: make([]byte, MaxKeyBytes), Value: make([]byte, MaxValueBytes)})
	if n := len(e.frame) - frameHeaderBytes; n > maxFrame {
		t.Errorf("the frame has %d bytes, limit %d", n, maxFrame)
	}
	_, rest, ok := cutPair(e.frame[frameHeaderBytes:])
	p, rest, last := cutPair(rest)
	if !ok || !last || len(rest) > 0 || len(p.Key) != MaxKeyBytes || len(p.Value) != MaxValueBytes {
		t.Errorf("got a pair of %d and %d bytes, and %d more", len(p.Key), len(p.Value), len(rest))
	}
	for length, says := range map[uint32]string{maxFrame: "cut off", maxFrame + 1: "limit"} {
		in := frameReader{r: bytes.NewReader(binary.BigEndian.AppendUint32([]byte{framePairs}, length))}
		in.r = io.MultiReader(in.r, strings.NewReader("check"))
		if _, _, err := in.next(); !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), says) {
			t.Errorf("a frame of %d bytes: got %v, want ErrCorrupt with %q", length, err, says)
		}
	}
}

// FuzzImport: any stream, and any with the right checks around it, is imported or refused, and
// what is imported can be exported again.
func FuzzImport(f *testing.F) {
	f.Add(seal(exportVersion, "\x01a", "\x02\x01\x01kv"), []byte{})
	f.Add([]byte{}, []byte("\x01\x00\x02\x05\x01\x01kv\x01\x01a\x02\x0c\x01\x01kv\x01\x01lw\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, raw, frames []byte) {
		for _, stream := range [][]byte{raw, complete(frames)} {
			s := newStore(t)
			stats, err := s.Import(t.Context(), bytes.NewReader(stream))
			if err != nil {
				if !errors.Is(err, nexusraft.ErrCorrupt) && !errors.Is(err, nexusraft.ErrRefused) {
					t.Errorf("got %v", err)
				}
				wantUnchanged(t, "refused", s, map[string][]kv{"": nil})
				continue
			}
			again, _ := exportOf(t, s)
			other := newStore(t)
			got, err := other.Import(t.Context(), bytes.NewReader(again))
			check(t, err)
			if got.Pairs != stats.Pairs || got.Bytes != stats.Bytes {
				t.Errorf("imported %+v, and %+v from its export", stats, got)
			}
			if diff := cmp.Diff(contents(t, s), contents(t, other)); diff != "" {
				t.Errorf("its export is another one (-want +got):\n%s", diff)
			}
		}
	})
}

// complete makes an export of frames, each a kind, a length of one byte and a payload, with the
// end that belongs to them.
func complete(frames []byte) []byte {
	var out []string
	var pairs []int64
	for len(frames) >= 2 {
		n := min(int(frames[1]), len(frames)-2)
		kind, payload, rest := frames[0], frames[2:2+n], frames[2+n:]
		frames = rest
		switch {
		case kind == frameTree:
			pairs = append(pairs, 0)
		case kind == framePairs && len(pairs) > 0:
			for b, ok := payload, true; ok && len(b) > 0; {
				if _, b, ok = cutPair(b); ok {
					pairs[len(pairs)-1]++
				}
			}
		}
		out = append(out, string(kind)+string(payload))
	}
	stream := seal(exportVersion, out...)
	sum := sha256.Sum256(stream)
	end := append(appendCounts([]byte{frameEnd}, pairs), sum[:]...)
	return append(stream, seal(exportVersion, string(end))[headerBytes:]...)
}
