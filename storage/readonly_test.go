package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func openReadOnly(f FS) (*Store, error) {
	o := testOptions(f)
	o.ReadOnly = true
	return Open("data", o)
}

func mustOpenReadOnly(t *testing.T, f FS) *Store {
	t.Helper()
	s, err := openReadOnly(f)
	check(t, err)
	return s
}

// filesIn returns all files of a directory, the lock's excepted.
func filesIn(t *testing.T, f FS, dir string) map[string]string {
	t.Helper()
	names, err := f.List(dir)
	check(t, err)
	out := make(map[string]string)
	for _, name := range names {
		if name == "LOCK" {
			continue
		}
		file, err := f.Open(f.PathJoin(dir, name))
		check(t, err)
		b, err := io.ReadAll(file)
		check(t, err)
		check(t, file.Close())
		out[name] = string(b)
	}
	return out
}

// fill writes a store with tables and with what is only in its log, and leaves it as a crash
// does.
func fill(t *testing.T) *MemFS {
	t.Helper()
	f := NewMemFS()
	s := mustOpen(t, f)
	defer func() { check(t, s.Close()) }()
	tree := mustTree(t, s, "t")
	for n := range 60 {
		check(t, tree.Set(numberedKey(n), make([]byte, 4<<10), NoSync))
	}
	check(t, s.db.Flush())
	check(t, s.Set([]byte("only"), []byte("in the log")))
	return f.CrashClone(nil, 0)
}

// All can be read, what is only in the log included, and not a byte is changed.
func TestReadOnlyChangesNothing(t *testing.T) {
	f := fill(t)
	before := filesIn(t, f, "data")
	for range 2 {
		s := mustOpenReadOnly(t, f)
		tree, ok, err := s.OpenTree("t")
		check(t, err)
		if n, err := tree.Len(); !ok || n != 60 || err != nil {
			t.Errorf("got %d keys, %v, %v", n, ok, err)
		}
		if value, _, err := s.Get([]byte("only")); string(value) != "in the log" || err != nil {
			t.Errorf("what is in the log: got %q, %v", value, err)
		}
		x := s.NewSnapshot()
		if p, ok, err := x.Reader(tree).Last(); !ok || err != nil || string(p.Key) != string(numberedKey(59)) {
			t.Errorf("of a snapshot: got %q, %v, %v", p.Key, ok, err)
		}
		x.Close()
		if got := s.Stats(); !got.Recovered || got.DiskBytes == 0 || got.PointReads == 0 || got.LogBytes != 0 ||
			got.TableBytes != 0 {
			t.Errorf("got %+v", got)
		}
		check(t, s.Close())
		if diff := cmp.Diff(before, filesIn(t, f, "data")); diff != "" {
			t.Fatalf("the files were changed:\n%s", diff)
		}
	}
}

// The same on the operating system's file system, for its times of change, too.
func TestReadOnlyOnDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, nil)
	check(t, err)
	check(t, s.Set([]byte("k"), []byte("v")))
	check(t, s.Close())
	look := func() (out []string) {
		entries, err := os.ReadDir(dir)
		check(t, err)
		for _, e := range entries {
			info, err := e.Info()
			check(t, err)
			if e.Name() != "LOCK" {
				out = append(out, fmt.Sprint(e.Name(), info.Size(), info.ModTime(), info.Mode()))
			}
		}
		return out
	}
	before := look()
	s, err = Open(dir, &Options{ReadOnly: true})
	check(t, err)
	if _, err := Open(dir, &Options{ReadOnly: true}); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a second opener: got %v, want ErrRefused", err)
	}
	if value, _, err := s.Get([]byte("k")); string(value) != "v" || err != nil {
		t.Errorf("got %q, %v", value, err)
	}
	if s.Stats().Recovered {
		t.Error("got recovered of a store that was closed in order")
	}
	check(t, s.Close())
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Errorf("the files were changed:\n%s", diff)
	}
}

// Whatever writes is refused, says why, and leaves nothing that a reader could see.
func TestReadOnlyRefusesWrites(t *testing.T) {
	f := fill(t)
	s := mustOpenReadOnly(t, f)
	defer func() { check(t, s.Close()) }()
	tree, _, err := s.OpenTree("t")
	check(t, err)
	key := numberedKey(1)
	errs := writeErrors(s, key, []byte("value"))
	delete(errs, "CompareAndSwap key") // what it expects is not there
	delete(errs, "Create key")
	errs["Clear"] = tree.Clear()
	errs["Tree.Set"] = tree.Set(key, nil, NoSync)
	errs["DropTree"] = s.DropTree("t")
	_, errs["Tree"] = s.Tree("new")
	_, errs["GenerateID"] = s.GenerateID()
	_, _, errs["PopFirst"] = tree.PopFirst()
	_, _, errs["PopLast"] = tree.PopLast()
	_, _, errs["PopFirstIn"] = tree.PopFirstIn(nil, nil)
	for _, sync := range []bool{false, true} {
		b := s.NewBatch()
		check(t, b.Set(tree, key, nil))
		errs[fmt.Sprint("Commit ", sync)] = b.Commit(sync)
		b.Close()
	}
	b := s.NewBatch()
	defer b.Close()
	b.UseReserve()
	check(t, b.DeleteRange(tree, nil, nil))
	errs["CommitAsync"] = b.CommitAsync()()
	for call, err := range errs {
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "data") ||
			!strings.Contains(err.Error(), "ReadOnly") {
			t.Errorf("%s: got %v, want ErrRefused with the store and the option", call, err)
		}
	}
	if n, err := tree.Len(); n != 60 || err != nil {
		t.Errorf("afterwards: got %d keys, %v", n, err)
	}
	if names, err := s.Trees(); !slices.Equal(names, []string{"t"}) || err != nil {
		t.Errorf("afterwards: got trees %q, %v", names, err)
	}
	if got := s.Stats(); got.Writes != 0 || got.Commits != 0 {
		t.Errorf("afterwards: got %d writes, %d commits", got.Writes, got.Commits)
	}
}

// What has nothing to write has nothing to refuse.
func TestReadOnlyWithoutWrites(t *testing.T) {
	s := mustOpenReadOnly(t, fill(t))
	defer func() { check(t, s.Close()) }()
	check(t, s.Flush())
	check(t, s.FlushAsync()())
	check(t, s.DropTree("absent"))
	check(t, s.Transact(t.Context(), func(tx *Tx) error {
		_, _, err := tx.Tree(s.Default()).Get([]byte("only"))
		return err
	}))
	if found, swapped, err := s.CompareAndSwap([]byte("only"), nil, nil); string(found) != "in the log" || swapped ||
		err != nil {
		t.Errorf("CompareAndSwap of something else: got %q, %v, %v", found, swapped, err)
	}
	if _, ok, err := s.OpenTree("absent"); ok || err != nil {
		t.Errorf("OpenTree: got %v, %v", ok, err)
	}
}

// Where there is no store, none is created.
func TestReadOnlyNeedsAStore(t *testing.T) {
	absent, foreign, file, empty := NewMemFS(), NewMemFS(), NewMemFS(), NewMemFS()
	check(t, empty.MkdirAll("data", 0o700))
	check(t, foreign.MkdirAll("data", 0o700))
	for f, name := range map[*MemFS]string{foreign: "data/notes.txt", file: "data"} {
		created, err := f.Create(name, "")
		check(t, err)
		check(t, created.Close())
	}
	for what, f := range map[string]*MemFS{
		"an absent directory": absent, "another directory": foreign, "a file": file,
		"an empty one": empty,
	} {
		s, err := openReadOnly(f)
		if s != nil || !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "data") {
			t.Errorf("%s: got %v, want ErrRefused with its name", what, err)
		}
	}
	if _, err := absent.Stat("data"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the absent directory: got %v, want it absent still", err)
	}
	for name, f := range map[string]*MemFS{"notes.txt": foreign, "": empty} {
		if names, err := f.List("data"); err != nil || strings.Join(names, " ") != name {
			t.Errorf("afterwards: got %q, %v, want %q", names, err, name)
		}
	}
}

// crashAt opens a new store, closes it, and returns what a crash at the n-th change of the disk
// would have left, nil if there are fewer.
func crashAt(t *testing.T, n int64) *MemFS {
	disk, rng := NewMemFS(), rand.New(rand.NewPCG(uint64(n), 3))
	var changes atomic.Int64
	var left atomic.Pointer[MemFS]
	s, err := Open("data", testOptions(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && changes.Add(1) == n {
			left.Store(disk.CrashClone(rng, rng.IntN(101)))
		}
		return nil
	}))))
	check(t, err)
	check(t, s.Close())
	return left.Load()
}

// A store whose creation was cut off at any moment is opened, or refused, and left as it is.
func TestReadOnlyOfUnfinishedStores(t *testing.T) {
	opened, refused := 0, 0
	for n := int64(1); ; n++ {
		f := crashAt(t, n)
		if f == nil {
			break
		}
		var before map[string]string
		if _, err := f.Stat("data"); err == nil {
			before = filesIn(t, f, "data")
		}
		s, err := openReadOnly(f)
		switch {
		case err == nil:
			opened++
			check(t, s.Close())
		case errors.Is(err, nexusraft.ErrRefused):
			refused++
		default:
			t.Errorf("crash at %d: got %v, want ErrRefused", n, err)
		}
		if before == nil {
			continue
		}
		if diff := cmp.Diff(before, filesIn(t, f, "data")); diff != "" {
			t.Errorf("crash at %d: the files were changed:\n%s", n, diff)
		}
		check(t, mustOpen(t, f).Close())
	}
	if opened < 5 || refused < 5 {
		t.Errorf("got %d stores that were opened, and %d that were refused", opened, refused)
	}
}

// A default tree that an older store lacks is empty.
func TestReadOnlyOfAnOlderStore(t *testing.T) {
	f := NewMemFS()
	s := mustOpen(t, f)
	mustTree(t, s, "t")
	b := s.NewBatch()
	check(t, b.remove(registry, []byte(keyDefault)))
	check(t, b.Commit(true))
	b.Close()
	check(t, s.Close())
	s = mustOpenReadOnly(t, f)
	defer func() { check(t, s.Close()) }()
	if empty, err := s.Empty(); !empty || err != nil {
		t.Errorf("got empty %v, %v", empty, err)
	}
	if err := s.Set(nil, nil); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("Set: got %v, want ErrRefused", err)
	}
}

// A store can be read with the options of another writer, from a directory that was copied.
func TestReadOnlyCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	s, err := Open(from, &Options{MemTableBytes: 64 << 10, Compression: CompressionSmall})
	check(t, err)
	check(t, s.Set([]byte("k"), []byte("v")))
	check(t, os.CopyFS(to, os.DirFS(from))) // while it is open
	check(t, s.Close())
	s, err = Open(to, &Options{ReadOnly: true})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	if value, _, err := s.Get([]byte("k")); string(value) != "v" || err != nil {
		t.Errorf("got %q, %v", value, err)
	}
	if !s.Stats().Recovered {
		t.Error("got a copy that was closed in order")
	}
}
