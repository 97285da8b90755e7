package storage

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var everyBit = flag.Bool("storage.everybit", false, "flip every bit of a backup, which takes minutes, and more bytes "+
	"of a store")

// smallBackup is a backup of a store with tables on two levels and batches that are in its log
// alone.
func smallBackup(t *testing.T) image {
	t.Helper()
	fs := NewMemFS()
	img := newVictim(t, false).image
	check(t, img.copyTo(fs, "data"))
	s := mustOpen(t, fs)
	check(t, s.Set([]byte("in the log"), []byte("alone")))
	check(t, s.Backup(t.Context(), "backup"))
	check(t, s.Close())
	return imageAt(t, fs, "backup")
}

// imageAt is imageOf for another directory, without the lock.
func imageAt(t *testing.T, fs FS, dir string) image {
	t.Helper()
	names, err := fs.List(dir)
	check(t, err)
	img := make(image)
	for _, name := range names {
		if name != "LOCK" {
			img[name] = []byte(read(t, fs, fs.PathJoin(dir, name)))
		}
	}
	return img
}

// copyTo writes the files of the image to a directory that is absent.
func (img image) copyTo(fs FS, dir string) error {
	errs := []error{fs.MkdirAll(dir, 0o700)}
	for name, content := range img {
		errs = append(errs, writeWhole(fs, fs.PathJoin(dir, name), slices.Clone(content)))
	}
	return errors.Join(append(errs, syncDir(fs, dir))...)
}

// damages yields every kind of damage of a backup.
func (img image) damages(yield func(damage)) {
	for file, content := range img {
		yield(damage{file, "removed", nil})
		yield(damage{file, "extended", append(slices.Clone(content), 0)})
		if len(content) == 0 {
			continue
		}
		yield(damage{file, "emptied", []byte{}})
		yield(damage{file, "cut", content[: len(content)-1 : len(content)-1]})
		for other, theirs := range img {
			if !bytes.Equal(content, theirs) {
				yield(damage{file, "swapped with " + other, theirs})
			}
		}
		stride := max(1, 8*len(content)/29)
		if *everyBit {
			stride = 1
		}
		for bit := 0; bit < 8*len(content); bit += stride {
			flipped := slices.Clone(content)
			flipped[bit/8] ^= 1 << (bit % 8)
			yield(damage{file, fmt.Sprint("bit ", bit), flipped})
		}
	}
}

// TestDamagedBackups damages each file of a backup in every way: whoever reads it is told which
// file it is, and nothing is restored.
func TestDamagedBackups(t *testing.T) {
	t.Parallel()
	img := smallBackup(t)
	if err := lookAtBackup(t, img, ""); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	jobs := make(chan damage)
	var wg sync.WaitGroup
	var all atomic.Int64
	for range 4 {
		wg.Go(func() {
			for d := range jobs {
				all.Add(1)
				if err := lookAtBackup(t, img.with(d.file, d.content), d.file); err != nil {
					t.Errorf("%s, %s: %v", d.file, d.what, err)
				}
			}
		})
	}
	img.damages(func(d damage) { jobs <- d })
	close(jobs)
	wg.Wait()
	t.Logf("%d damages of %d files", all.Load(), len(img))
	if all.Load() < 200 {
		t.Errorf("only %d damages", all.Load())
	}
}

// lookAtBackup restores a backup, and opens it read-only and for writing. It returns an error
// unless each gives what it should: ErrCorrupt with the name of the damaged file, if there is one.
func lookAtBackup(t *testing.T, img image, damaged string) error {
	fs := NewMemFS()
	if err := img.copyTo(fs, "data"); err != nil {
		return err
	}
	errs := map[string]error{"restore": restore(t.Context(), fs, "data", "restored", nil)}
	for _, readOnly := range []bool{true, false} {
		o := testOptions(fs)
		o.ReadOnly = readOnly
		s, err := Open("data", o)
		if err == nil {
			err = s.Close()
		}
		errs[fmt.Sprint("open read-only ", readOnly)] = err
	}
	var wrong []error
	for what, err := range errs {
		if damaged == "" && err != nil || damaged != "" &&
			(!errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "data/"+damaged)) {
			wrong = append(wrong, fmt.Errorf("%s: %w", what, err))
		}
	}
	if exists, _ := Exists("restored", &Options{FS: fs}); exists != (damaged == "") {
		wrong = append(wrong, fmt.Errorf("restored: %v", exists))
	}
	return errors.Join(wrong...)
}

// TestOpenedBackup: opened for writing, a backup is a store like any other, whenever a crash comes.
func TestOpenedBackup(t *testing.T) {
	img := smallBackup(t)
	for at := int64(1); ; at++ {
		disk := NewMemFS()
		check(t, errors.Join(img.copyTo(disk, "data"), syncDir(disk, "")))
		inject := &failingFS{at: at, sticky: true}
		fs := errorfs.Wrap(disk, inject)
		if s, err := Open("data", testOptions(fs)); err == nil {
			_ = s.Close() // it may have failed, too
		}
		for _, left := range []FS{disk, disk.CrashClone(nil, 0)} {
			s, err := Open("data", testOptions(left))
			if err != nil {
				t.Fatalf("after failure %d: %v", at, err)
			}
			if value, ok, err := s.Get([]byte("in the log")); !ok || err != nil || string(value) != "alone" {
				t.Errorf("after failure %d: got %q, %v, %v", at, value, ok, err)
			}
			check(t, s.Close())
			if backup, err := isBackup(left, "data"); backup || err != nil {
				t.Errorf("after failure %d it is still a backup: %v, %v", at, backup, err)
			}
		}
		if inject.count.Load() < at {
			return
		}
	}
}

// TestBackupOfAnEarlierRelease restores one that has no checksums.
func TestBackupOfAnEarlierRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backup")
	check(t, os.CopyFS(dir, os.DirFS("testdata/backup-without-checksums")))
	restored := filepath.Join(t.TempDir(), "restored")
	check(t, Restore(t.Context(), dir, restored, nil))
	s, err := Open(restored, testOptions(nil))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	want := map[string][]kv{"": {{"in a table", "1"}, {"in the log", "2"}}, "tree": {{"k", "v"}}}
	if diff := cmp.Diff(want, contents(t, s)); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
}

// hookFS calls hook before each change of the copy's directory, and before a log is read.
type hookFS struct {
	vfs.FS
	copies string
	hook   func()
}

func (f *hookFS) Unwrap() vfs.FS { return f.FS }

func (f *hookFS) of(name string) {
	if strings.HasPrefix(name, f.copies) {
		f.hook()
	}
}

func (f *hookFS) MkdirAll(name string, perm os.FileMode) error {
	f.of(name)
	return f.FS.MkdirAll(name, perm)
}

func (f *hookFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.PathDir(name) != "data" {
		f.of(name)
	}
	return f.FS.Create(name, c)
}

func (f *hookFS) Link(from, to string) error { f.of(to); return f.FS.Link(from, to) }

func (f *hookFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if err != nil || f.PathDir(name) != "data" || !strings.HasSuffix(name, ".log") {
		return file, err
	}
	f.hook()
	return &hookFile{file, f}, nil
}

// hookFile calls the hook between two parts of what is read.
type hookFile struct {
	vfs.File
	fs *hookFS
}

func (f *hookFile) Read(p []byte) (int, error) {
	f.fs.hook()
	return f.File.Read(p[:min(len(p), 4096)])
}

// TestBackupIsOfOneMoment writes, and imports, at each step of a backup in turn. Each round writes
// a batch, imports a tree, and writes another one: the copy has a prefix of all that.
func TestBackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	var export bytes.Buffer
	from := newStore(t)
	check(t, mustTree(t, from, "imported").Set([]byte("k"), []byte("v")))
	x := from.NewSnapshot()
	_, err := x.Export(t.Context(), &export, "imported")
	check(t, err)
	x.Close()
	for at := 1; ; at++ {
		steps := 0
		fs := &hookFS{FS: NewMemFS(), copies: "backup", hook: func() {}}
		s := mustOpen(t, fs)
		mustTree(t, s, "imported")
		const before = 30
		for i := range before { // so that logs are recycled, and the last one has just begun
			check(t, s.Set(fmt.Appendf(nil, "%03d", i), make([]byte, 8<<10), NoSync))
			if i == 10 || i == 20 || i == before-1 {
				check(t, s.db.Flush())
			}
		}
		wrote := before
		fs.hook = func() {
			if steps++; steps != at {
				return
			}
			for range 3 {
				check(t, s.Set(fmt.Appendf(nil, "%03d", wrote), make([]byte, 15<<10)))
				wrote++
			}
			_, err := s.Import(t.Context(), bytes.NewReader(export.Bytes()))
			check(t, err)
			check(t, s.Set([]byte("after the import"), nil))
		}
		err := s.Backup(t.Context(), "backup")
		fs.hook = func() {}
		if err != nil {
			t.Fatalf("step %d: %v", at, err)
		}
		check(t, restore(t.Context(), fs, "backup", "restored", nil))
		checkMoment(t, fs, at, before)
		check(t, s.Close())
		if steps < at {
			if at < 12 {
				t.Errorf("only %d steps", at)
			}
			return
		}
	}
}

// checkMoment makes sure that the restored store has all of what was there before, and a prefix
// of what came later.
func checkMoment(t *testing.T, fs FS, step, before int) {
	t.Helper()
	s, err := Open("restored", testOptions(fs))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	got := contents(t, s)
	for i, p := range got[""] {
		if want := fmt.Sprintf("%03d", i); p.Key != want && p.Key != "after the import" {
			t.Fatalf("step %d: key %d is %q, want %q", step, i, p.Key, want)
		}
	}
	keys := len(got[""])
	imported := len(got["imported"]) > 0
	_, after, err := s.Get([]byte("after the import"))
	check(t, err)
	if keys < before || imported && keys < before+3 || after && !imported {
		t.Errorf("step %d: it has %d keys, imported %v, after the import %v", step, keys, imported, after)
	}
}

// TestUnsoundBackup: what was spoiled on its way to the disk is noticed before Backup returns.
func TestUnsoundBackup(t *testing.T) {
	for _, ext := range []string{".log", "MANIFEST"} {
		mem := NewMemFS()
		fs := &spoilingFS{FS: mem, in: "backup", what: ext}
		s := mustOpen(t, fs)
		fillTrees(t, s)
		if err := s.Backup(t.Context(), "backup"); err == nil || !fs.spoiled {
			t.Errorf("%s: got %v, spoiled %v", ext, err, fs.spoiled)
		}
		if names, err := mem.List(""); err != nil || !slices.Equal(names, []string{"data"}) {
			t.Errorf("%s: left are %q, %v", ext, names, err)
		}
		check(t, s.Set([]byte("it lives"), nil))
		check(t, s.Close())
	}
}

// spoilingFS writes nothing of the first bytes of some file.
type spoilingFS struct {
	vfs.FS
	in, what string
	spoiled  bool
}

func (f *spoilingFS) Unwrap() vfs.FS { return f.FS }

func (f *spoilingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	if err != nil || !strings.HasPrefix(name, f.in) || !strings.Contains(name, f.what) {
		return file, err
	}
	return &spoilingFile{file, f}, nil
}

type spoilingFile struct {
	vfs.File
	fs *spoilingFS
}

func (f *spoilingFile) Write(p []byte) (int, error) {
	if !f.fs.spoiled && len(p) > 100 {
		f.fs.spoiled = true
		p = slices.Clone(p)
		clear(p[:100])
	}
	return f.File.Write(p)
}

// TestBackupTargetFails fails each operation on a backup's directory in turn, those of its
// directory too: the store lives on, can be backed up, closed and opened again.
func TestBackupTargetFails(t *testing.T) {
	t.Parallel()
	for at := int64(1); ; at++ {
		var count atomic.Int64
		armed := atomic.Bool{}
		inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !armed.Load() || strings.HasPrefix(op.Path, "data") {
				return nil
			}
			if count.Add(1) == at {
				return fmt.Errorf("injected failure at %v of %s", op.Kind, op.Path)
			}
			return nil
		})
		fs := errorfs.Wrap(NewMemFS(), inject)
		s := mustOpen(t, fs)
		check(t, s.Set([]byte("k"), []byte("v")))
		armed.Store(true)
		err := s.Backup(t.Context(), "far/away/backup")
		armed.Store(false)
		if err == nil && count.Load() < at {
			check(t, s.Close())
			if at < 40 {
				t.Errorf("only %d operations", at)
			}
			return
		}
		if err := s.Set([]byte("it lives"), nil); err != nil {
			t.Fatalf("operation %d failed with %v, and the store stopped: %v", at, err, err)
		}
		if err := s.Backup(t.Context(), "again"); err != nil {
			t.Errorf("after the failure of operation %d: %v", at, err)
		}
		check(t, s.Close())
		s = mustOpen(t, fs)
		check(t, s.Close())
	}
}

// osFS passes everything on to the operating system's file system, under a name of its own.
type osFS struct{ vfs.FS }

// TestPassingFS: an absolute path is one in any file system.
func TestPassingFS(t *testing.T) {
	base := t.TempDir()
	t.Chdir(t.TempDir())
	o := testOptions(osFS{vfs.Default})
	s, err := Open(filepath.Join(base, "store"), o)
	check(t, err)
	check(t, s.Set([]byte("k"), nil))
	check(t, s.Backup(t.Context(), filepath.Join(base, "backup")))
	check(t, s.Close())
	if names, err := os.ReadDir("."); err != nil || len(names) > 0 {
		t.Errorf("the working directory has %v, %v", names, err)
	}
	for _, dir := range []string{"store", "backup"} {
		if exists, err := Exists(filepath.Join(base, dir), nil); !exists || err != nil {
			t.Errorf("%s: %v, %v", dir, exists, err)
		}
	}
	s, err = Open("relative", o)
	check(t, err)
	check(t, s.Close())
	if exists, err := Exists("relative", nil); !exists || err != nil {
		t.Errorf("a relative one: %v, %v", exists, err)
	}
}
