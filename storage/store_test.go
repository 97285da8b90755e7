package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestOptionsNameAllProblems(t *testing.T) {
	_, err := Open("data", &Options{FS: NewMemFS(), CacheBytes: -1, MemTableBytes: 1})
	for _, want := range []string{"data", "CacheBytes", "MemTableBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want it to name %s", err, want)
		}
	}
}

func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	exists := func(want bool) {
		t.Helper()
		got, err := Exists(dir, nil)
		check(t, err)
		if got != want {
			t.Errorf("Exists: got %v, want %v", got, want)
		}
	}
	exists(false)
	for round := range 3 {
		s, err := Open(dir, nil)
		check(t, err)
		exists(true)
		tree := mustTree(t, s, "t")
		if got, want := len(collect(t, tree.Scan(nil, nil))), round; got != want {
			t.Errorf("round %d: got %d pairs, want %d", round, got, want)
		}
		put(t, tree, fmt.Sprint(round), "v")
		if got := s.DiskBytes(); got <= 0 {
			t.Errorf("DiskBytes: got %d", got)
		}
		check(t, s.Close())
		check(t, s.Close())
	}
	info, err := os.Stat(dir)
	check(t, err)
	if got := info.Mode().Perm(); got != 0o700 && runtime.GOOS != "windows" {
		t.Errorf("mode of the directory: got %v, want 0700", got)
	}
}

func TestExistsSaysWhatWentWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if ok, err := Exists(file, nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file: got %v, %v, want an error that names it", ok, err)
	}
	ok, err := Exists(filepath.Dir(file), nil)
	if foreign, is := errors.AsType[*ForeignError](err); ok || !is || foreign.First != "file" ||
		!errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a directory of something else: got %v, %v, want a ForeignError that names what is there", ok, err)
	}
	if ok, err := Exists(t.TempDir(), nil); ok || err != nil {
		t.Errorf("an empty directory: got %v, %v, want false", ok, err)
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := Open(dir, nil)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	refused := func(who string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process") {
			t.Errorf("%s: got %v, want a refusal that names %s", who, err, dir)
		}
	}
	_, err = Open(dir, nil)
	refused("the same process", err)

	link := dir + "-link"
	check(t, os.Symlink(dir, link))
	_, err = Open(link, nil)
	refused("by another name", err)

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenElsewhere$")
	cmd.Env = append(os.Environ(), "STORAGE_TEST_DIR="+dir)
	out, err := cmd.Output()
	check(t, err)
	refused("another process", errors.New(string(out)))
	put(t, mustTree(t, s, "t"), "still", "mine")
}

// TestOpenElsewhere is the other process of TestSecondOpenerIsRefused.
func TestOpenElsewhere(t *testing.T) {
	dir := os.Getenv("STORAGE_TEST_DIR")
	if dir == "" {
		t.Skip("run by TestSecondOpenerIsRefused")
	}
	_, err := Open(dir, nil)
	fmt.Println(err)
}

func TestSecondOpenerInMemory(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	if _, err := Open("data", testOptions(fs)); err == nil {
		t.Error("opened twice")
	}
	check(t, s.Close())
	check(t, mustOpen(t, fs).Close())
}

// writeOwn puts a record into the store's own tree behind its back.
func writeOwn(t *testing.T, fs FS, key, value string) {
	t.Helper()
	s := mustOpen(t, fs)
	b := s.NewBatch()
	check(t, b.set(registry, []byte(key), []byte(value)))
	check(t, b.Commit(true))
	b.Close()
	check(t, s.Close())
}

func TestFormatIsChecked(t *testing.T) {
	for found, says := range map[string][]string{
		"nexus-raft store format 3": {"data", "format 3", "knows 1 and 2"},
		"something else":            {"data", "something else", format},
	} {
		fs := NewMemFS()
		writeOwn(t, fs, keyFormat, found)
		for range 2 { // refusing leaves the lock free
			_, err := Open("data", testOptions(fs))
			for _, want := range says {
				if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want ErrRefused that says %q", err, want)
				}
			}
		}
	}
}

func TestForeignDatabaseIsRefused(t *testing.T) {
	fs := NewMemFS()
	db, err := pebble.Open("data", &pebble.Options{FS: fs, Logger: engineLog{log: testOptions(fs).Logger}})
	check(t, err)
	check(t, db.Set([]byte("some key"), nil, pebble.Sync))
	check(t, db.Close())
	if _, err := Open("data", testOptions(fs)); err == nil ||
		!strings.Contains(err.Error(), "not a store of this program") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestDamagedRegistry(t *testing.T) {
	for _, c := range []struct{ name, key, value string }{
		{"counter too short", keyNextID, "abc"},
		{"ID too short", keyTree + "t", "abc"},
		{"ID of the store's own", keyTree + "t", "\x00\x00\x00\x00"},
		{"ID not given out yet", keyTree + "t", "\x00\x00\x01\x00"},
		{"bad name", keyTree + "\xff", "\x00\x00\x00\x01"},
		{"one ID twice", keyTree + "u", "\x00\x00\x00\x01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := NewMemFS()
			s := mustOpen(t, fs)
			mustTree(t, s, "t")
			check(t, s.Close())
			writeOwn(t, fs, c.key, c.value)
			if _, err := Open("data", testOptions(fs)); !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

// TestDamagedTable changes one byte of a table: reads give the true value or ErrCorrupt
// (invariant I10).
func TestDamagedTable(t *testing.T) {
	dir := t.TempDir()
	options := testOptions(nil)
	s, err := Open(dir, options)
	check(t, err)
	tree := mustTree(t, s, "t")
	want := make(model)
	for i := range 100 {
		key, value := fmt.Sprintf("%03d", i), strings.Repeat(fmt.Sprint(i), 100)
		want[key] = value
		put(t, tree, key, value)
	}
	check(t, s.db.Flush())
	check(t, s.Close())
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	check(t, err)
	data, err := os.ReadFile(tables[len(tables)-1])
	check(t, err)
	data[len(data)/4] ^= 0x40
	check(t, os.WriteFile(tables[len(tables)-1], data, 0o600))

	s, err = Open(dir, options)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	tree = mustTree(t, s, "t")
	damaged := 0
	for key := range want {
		value, ok, err := tree.Get([]byte(key))
		switch {
		case errors.Is(err, nexusraft.ErrCorrupt):
			damaged++
		case err != nil || !ok || string(value) != want[key]:
			t.Errorf("get %s: got %.9q, %v, %v", key, value, ok, err)
		}
	}
	if err := lastError(tree.Scan(nil, nil)); damaged == 0 || !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("%d keys were damaged, the scan got %v, want both to show", damaged, err)
	}
}

func TestTreeIDsAreNeverReused(t *testing.T) {
	fs := NewMemFS()
	seen := make(map[uint32]bool)
	for range 3 {
		s := mustOpen(t, fs)
		for range 3 {
			tree := mustTree(t, s, "t")
			if seen[tree.id] || tree.id == registry {
				t.Fatalf("tree ID %d is used again", tree.id)
			}
			seen[tree.id] = true
			put(t, tree, "k", "v")
			check(t, s.DropTree("t"))
		}
		check(t, s.Close())
	}
}

func TestLastTreeID(t *testing.T) {
	s := newStore(t)
	low := mustTree(t, s, "low")
	put(t, low, "\xff\xff\xff", "low")
	s.nextID = math.MaxUint32 - 2
	below, last := mustTree(t, s, "below"), mustTree(t, s, "last")
	put(t, below, "\xff\xff\xff\xff\xff", "below")
	put(t, last, "\xff\xff\xff\xff\xff", "last")
	put(t, last, "", "empty")
	want := []kv{{"", "empty"}, {"\xff\xff\xff\xff\xff", "last"}}
	if diff := cmp.Diff(want, collect(t, last.Scan(nil, nil))); diff != "" {
		t.Errorf("last tree (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]kv{{"\xff\xff\xff\xff\xff", "below"}}, collect(t, below.ScanReverse(nil, nil))); diff != "" {
		t.Errorf("tree below it (-want +got):\n%s", diff)
	}
	if _, err := s.Tree("one too many"); err == nil || !strings.Contains(err.Error(), "no tree IDs left") {
		t.Errorf("got %v, want a refusal", err)
	}
	check(t, s.DropTree("below"))
	if got := len(collect(t, last.Scan(nil, nil))); got != 2 {
		t.Errorf("dropping a tree left %d pairs of the next, want 2", got)
	}
}

func TestTreeNames(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"", strings.Repeat("x", MaxNameBytes+1), "a\x00", "new\nline", "\xff"} {
		if _, err := s.Tree(name); err == nil {
			t.Errorf("name %.20q was accepted", name)
		}
	}
	long := strings.Repeat("x", MaxNameBytes)
	if a, b := mustTree(t, s, long), mustTree(t, s, long); a != b || a.Name() != long {
		t.Errorf("got trees %p and %p, want the same", a, b)
	}
	if _, ok, err := s.OpenTree("absent"); ok || err != nil {
		t.Errorf("OpenTree of an absent tree: got %v, %v", ok, err)
	}
	check(t, s.DropTree("absent"))
}

func TestDroppedTree(t *testing.T) {
	s := newStore(t)
	old := mustTree(t, s, "t")
	put(t, old, "k", "old")
	x := s.NewSnapshot()
	defer x.Close()

	late := s.NewBatch()
	defer late.Close()
	check(t, late.DropTree(old))
	b := s.NewBatch()
	defer b.Close()
	check(t, b.Set(old, []byte("k2"), nil))
	check(t, b.DropTree(old))
	if err := b.Set(old, []byte("k3"), nil); err == nil {
		t.Error("a batch writes to a tree that it drops")
	}
	check(t, b.Commit(true))

	if _, _, err := old.Get([]byte("k")); err == nil {
		t.Error("a dropped tree was read")
	}
	if err := lastError(old.Scan(nil, nil)); err == nil {
		t.Error("a dropped tree was scanned")
	}
	again := mustTree(t, s, "t")
	put(t, again, "k", "new")
	if err := late.Commit(true); err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("a second drop: got %v, want a refusal", err)
	}
	if got := collect(t, again.Scan(nil, nil)); !cmp.Equal(got, []kv{{"k", "new"}}) {
		t.Errorf("the new tree: got %v", got)
	}
	if got := collect(t, x.Reader(old).Scan(nil, nil)); !cmp.Equal(got, []kv{{"k", "old"}}) {
		t.Errorf("the old tree in the snapshot: got %v", got)
	}
	if got := collect(t, x.Reader(again).Scan(nil, nil)); got != nil {
		t.Errorf("the new tree in the older snapshot: got %v", got)
	}
}

func TestBatchMisuse(t *testing.T) {
	s, other := newStore(t), newStore(t)
	tree := mustTree(t, s, "t")
	b := s.NewBatch()
	check(t, b.Set(tree, []byte("k"), []byte("1")))
	check(t, b.Commit(false))
	if err := b.Set(tree, nil, nil); err == nil {
		t.Error("a committed batch was written")
	}
	if err := b.Commit(false); err == nil {
		t.Error("a batch was committed twice")
	}
	b.Reset()
	if !b.Empty() {
		t.Errorf("after Reset: got %d writes", b.Len())
	}
	if err := b.Set(mustTree(t, other, "t"), nil, nil); err == nil {
		t.Error("a tree of another store was accepted")
	}
	check(t, b.Commit(true)) // empty
	b.Close()
	b.Close()
	b.Reset()
	if err := b.Delete(tree, nil); err == nil || b.Len() != 0 {
		t.Errorf("a closed batch: got %v, %d writes", err, b.Len())
	}
}

func TestLimits(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	b := s.NewBatch()
	defer b.Close()
	key := bytes.Repeat([]byte("k"), MaxKeyBytes)
	check(t, b.Set(tree, key, nil))
	over := append(key, 'k')
	for what, err := range map[string]error{
		"set":    b.Set(tree, over, nil),
		"delete": b.Delete(tree, over),
		"start":  b.DeleteRange(tree, over, nil),
		"end":    b.DeleteRange(tree, nil, over),
		"value":  checkSize(0, MaxValueBytes+1),
		"batch":  b.room(MaxBatchBytes - b.b.Len()),
	} {
		if !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", what, err)
		}
	}
	if b.Len() != 1 {
		t.Errorf("got %d writes, want 1", b.Len())
	}
	check(t, b.Commit(true))
	if _, ok, err := tree.Get(key); !ok || err != nil {
		t.Errorf("longest key: got %v, %v", ok, err)
	}
}

func TestClosedStore(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	tree := mustTree(t, s, "t")
	b, x := s.NewBatch(), s.NewSnapshot()
	view := x.Reader(tree)
	check(t, b.Set(tree, nil, nil))
	check(t, s.Close())
	defer b.Close()
	defer x.Close()
	late := s.NewSnapshot()
	defer late.Close()
	everyCall(t, s, tree, b, map[string]nexusraft.Reader{"view": view, "late": late.Reader(tree)})
}

// everyCall checks that each call returns ErrClosed.
func everyCall(t *testing.T, s *Store, tree *Tree, b *Batch, views map[string]nexusraft.Reader) {
	t.Helper()
	errs := map[string]error{"Commit": b.Commit(false), "DropTree": s.DropTree("t")}
	_, errs["Tree"] = s.Tree("t")
	_, _, errs["OpenTree"] = s.OpenTree("t")
	_, errs["Trees"] = s.Trees()
	_, _, errs["Get"] = tree.Get(nil)
	_, _, errs["Snapshot.Tree"] = s.NewSnapshot().Tree("t")
	errs["Scan"] = lastError(tree.Scan(nil, nil))
	errs["Prefix"] = lastError(tree.Prefix(nil))
	_, _, errs["GetTo"] = tree.GetTo(nil, nil)
	_, errs["Contains"] = tree.Contains(nil)
	_, errs["Empty"] = tree.Empty()
	_, errs["Len"] = tree.Len()
	_, _, errs["First"] = tree.First()
	_, _, errs["Less"] = tree.Less(nil)
	_, _, errs["Greater"] = tree.Greater(nil)
	_, _, errs["Store.Get"] = s.Get(nil)
	errs["Clear"] = s.Clear()
	errs["Flush"] = s.Flush()
	errs["FlushAsync"] = s.FlushAsync()()
	errs["CommitAsync"] = s.NewBatch().CommitAsync()()
	_, errs["GenerateID"] = s.GenerateID()
	_, _, errs["PopFirst"] = s.PopFirst()
	tx := s.Begin()
	defer tx.Close()
	_, _, errs["Tx.Get"] = tx.Tree(tree).Get(nil)
	check(t, tx.Tree(tree).Set(nil, nil))
	errs["Tx.Commit"] = tx.Commit()
	for call, err := range writeErrors(s, nil, nil) {
		errs[call] = err
	}
	errs["ScanReverse"] = lastError(tree.ScanReverse(nil, nil))
	for name, view := range views {
		_, _, errs[name+" Get"] = view.Get(nil)
		errs[name+" Scan"] = lastError(view.Scan(nil, nil))
	}
	for call, err := range errs {
		if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), s.dir) {
			t.Errorf("%s: got %v, want ErrClosed with the directory", call, err)
		}
	}
	if got := s.DiskBytes(); got != 0 {
		t.Errorf("DiskBytes: got %d, want 0", got)
	}
}

func TestCloseWaitsForScan(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	tree := mustTree(t, s, "t")
	put(t, tree, "a", "1")
	put(t, tree, "b", "2")
	closed := make(chan error, 1)
	var got []string
	for p, err := range tree.Scan(nil, nil) {
		check(t, err)
		got = append(got, string(p.Key))
		if len(got) > 1 {
			continue
		}
		go func() { closed <- s.Close() }()
		for s.enter() == nil { // until Close has begun; enter does not block behind it
			s.calls.exit()
			runtime.Gosched()
		}
		select {
		case err := <-closed:
			t.Fatalf("Close returned %v during a scan", err)
		default:
		}
	}
	check(t, <-closed)
	if want := []string{"a", "b"}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPanicOfTheEngine(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	provoke := func(cause any) (err error) {
		defer s.guard(&err)
		panic(cause)
	}
	err := provoke("out of luck")
	s.poisoned.Store(false) // no lock of Pebble's is held in truth
	if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("got %v, want ErrClosed with the cause", err)
	}
	if _, err := s.Tree("t"); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("next call: got %v, want ErrClosed", err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("Close: got %v, want the cause", err)
	}
}

func TestFatalfNeverReturns(t *testing.T) {
	s := mustOpen(t, NewMemFS())
	provoke := func() (err error) {
		defer s.guard(&err)
		engineLog{failstop: s.failstop, log: s.failstop.log}.Fatalf("block %d is upside down", 7)
		return nil
	}
	if err := provoke(); !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "block 7 is upside down") {
		t.Errorf("got %v, want ErrClosed with the cause", err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "block 7 is upside down") {
		t.Errorf("Close: got %v, want the cause", err)
	}
	check(t, s.stopEngine()) // for the sake of the leak check
}
