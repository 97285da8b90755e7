package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// contents is all that a store holds, tree by tree.
func contents(t *testing.T, s *Store) map[string][]kv {
	t.Helper()
	x := s.NewSnapshot()
	defer x.Close()
	views, err := x.trees()
	check(t, err)
	out := make(map[string][]kv)
	for _, v := range views {
		out[v.name] = collect(t, v.Scan(nil, nil))
	}
	return out
}

// fillTrees writes to several trees, so that there are tables on two levels, values that are
// covered by newer ones, and something that is in the log alone.
func fillTrees(t *testing.T, s *Store) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{7})
	value := make([]byte, 512)
	for i := range 1200 { // each key twice
		tree := s.Default()
		if i%3 > 0 {
			tree = mustTree(t, s, fmt.Sprint("tree ", i%3))
		}
		random.Read(value)
		check(t, tree.Set(fmt.Appendf(nil, "%03d", i%200), value, NoSync))
	}
	check(t, s.Default().Delete([]byte("003")))
	check(t, s.Default().Set([]byte("last"), nil, NoSync))
}

func TestBackupAndRestore(t *testing.T) {
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	o := testOptions(nil)
	s, err := Open(at("store"), o)
	check(t, err)
	defer s.Close()
	fillTrees(t, s)
	want := contents(t, s)
	for _, backup := range []string{at("new/parents/backup"), at("empty")} {
		check(t, os.MkdirAll(at("empty"), 0o700))
		check(t, os.MkdirAll(backup+partial, 0o700)) // what a crash has left
		check(t, os.WriteFile(filepath.Join(backup+partial, "x"), nil, 0o600))
		check(t, s.Backup(t.Context(), backup))
	}
	check(t, s.Default().Set([]byte("later"), nil))
	check(t, os.MkdirAll(at("restored")+partial, 0o700))

	var done, total int64
	check(t, Restore(t.Context(), at("new/parents/backup"), at("restored"), func(d, all int64) {
		if d < done || d > all {
			t.Errorf("progress went from %d to %d of %d", done, d, all)
		}
		done, total = d, all
	}))
	if done != total || total == 0 {
		t.Errorf("progress ended with %d of %d", done, total)
	}
	for _, dir := range []string{at("new/parents/backup"), at("empty"), at("restored")} {
		if _, err := os.Stat(dir + partial); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir+partial, err)
		}
		copied, err := Open(dir, o)
		check(t, err)
		if diff := cmp.Diff(want, contents(t, copied)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dir, diff)
		}
		check(t, copied.Default().Set([]byte("goes on"), nil))
		check(t, copied.Close())
	}
	if got := contents(t, s); len(got[""]) != len(want[""])+1 {
		t.Errorf("the store has %d keys, want one more than %d: it shares tables with its copies", len(got[""]),
			len(want[""]))
	}
}

// TestBackupUnderWriters: it is of one moment; pairs of keys that are always written together are
// never apart.
func TestBackupUnderWriters(t *testing.T) {
	t.Parallel()
	fs := NewMemFS()
	s := mustOpen(t, fs)
	defer s.Close()
	a, b := mustTree(t, s, "a"), mustTree(t, s, "b")
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		batch := s.NewBatch()
		defer batch.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			batch.Reset()
			key, value := fmt.Appendf(nil, "%d", i%100), fmt.Appendf(nil, "%0300d", i)
			if err := errors.Join(batch.Set(a, key, value), batch.Set(b, key, value), batch.Commit(false)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 10 {
		before, _, err := a.Get([]byte("0"))
		check(t, err)
		dir := fmt.Sprint("backup ", i)
		check(t, s.Backup(t.Context(), dir))
		copied, err := Open(dir, testOptions(fs.CrashClone(nil, 0))) // it is on the disk
		check(t, err)
		got := contents(t, copied)
		if diff := cmp.Diff(got["a"], got["b"]); diff != "" {
			t.Errorf("the trees differ (-a +b):\n%s", diff)
		}
		if len(got["a"]) > 0 && got["a"][0].Value < string(before) {
			t.Errorf("it has %s of what was %s before", got["a"][0].Value, before)
		}
		check(t, copied.Close())
	}
	close(stop)
	writer.Wait()
}

func TestBackupRefusals(t *testing.T) {
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	s, err := Open(at("store"), testOptions(nil))
	check(t, err)
	fillTrees(t, s)
	check(t, s.Backup(t.Context(), at("backup")))
	check(t, os.WriteFile(at("file"), nil, 0o600))
	check(t, os.Mkdir(at("void"), 0o700))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	ctx := t.Context()
	for _, tc := range []struct {
		name string
		err  error
		want error
		says string
	}{
		{"backup to a file", s.Backup(ctx, at("file")), nexusraft.ErrRefused, "not a directory"},
		{"backup to a store", s.Backup(ctx, at("backup")), nexusraft.ErrRefused, "not empty"},
		{"backup to itself", s.Backup(ctx, at("store")), nexusraft.ErrRefused, "not empty"},
		{"backup below itself", s.Backup(ctx, at("store/backup")), nexusraft.ErrRefused, "own directory"},
		{"backup with a context that has ended", s.Backup(cancelled, at("none")), context.Canceled, "none"},
		{"restore over a store", Restore(ctx, at("backup"), at("store"), nil), nexusraft.ErrRefused, "not empty"},
		{"restore from nothing", Restore(ctx, at("absent"), at("none"), nil), nexusraft.ErrRefused, "no store in"},
		{"restore from an empty directory", Restore(ctx, at("void"), at("none"), nil), nexusraft.ErrRefused, "no store in"},
		{"restore from a store in use", Restore(ctx, at("store"), at("none"), nil), nexusraft.ErrRefused, "in use"},
		{
			"restore into the backup", Restore(ctx, at("backup"), at("backup/none"), nil), nexusraft.ErrRefused,
			"own directory",
		},
		{
			"restore with a context that has ended", Restore(cancelled, at("backup"), at("none"), nil), context.Canceled,
			"none",
		},
	} {
		if !errors.Is(tc.err, tc.want) || !strings.Contains(tc.err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %v with %q", tc.name, tc.err, tc.want, tc.says)
		}
	}
	for _, name := range []string{
		"none", "none" + partial, "store/backup", "store/backup" + partial,
		"backup/none" + partial,
	} {
		if _, err := os.Stat(at(name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	check(t, s.Close())
	if err := s.Backup(ctx, at("none")); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("backup of a closed store: %v, want ErrClosed", err)
	}
}

// fullFS is a file system on which nothing more can be written below one directory.
type fullFS struct {
	vfs.FS
	full string
}

func (f fullFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(name, f.full) {
		return nil, syscall.ENOSPC
	}
	return f.FS.Create(name, c)
}

// Link fails as between two file systems, so that files are copied.
func (f fullFS) Link(string, string) error { return syscall.EXDEV }

// TestBackupToAFullDisk: the store lives on, and nothing is left.
func TestBackupToAFullDisk(t *testing.T) {
	fs := fullFS{NewMemFS(), "other"}
	s, err := Open("data", testOptions(fs))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	fillTrees(t, s)
	if err := s.Backup(t.Context(), "other/backup"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want the cause", err)
	}
	if names, err := fs.List("other"); err != nil || len(names) != 0 {
		t.Errorf("%q is left, %v", names, err)
	}
	check(t, s.Set([]byte("it lives"), nil))
	check(t, s.Backup(t.Context(), "elsewhere"))
}

// TestCheckAndRestoreFindDamage flips one byte in the middle of each table, whether what is there
// can be read by a scan or is covered by newer values.
func TestCheckAndRestoreFindDamage(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	fillTrees(t, s)
	stats, err := s.Check(t.Context(), nil)
	check(t, err)
	if stats.Tables < 1 || stats.Bytes < 100<<10 || stats.Trees != 3 || stats.Pairs != 600 {
		t.Errorf("a sound store: %+v", stats)
	}
	check(t, s.Backup(t.Context(), "backup"))
	check(t, s.Close())
	names, err := fs.List("backup")
	check(t, err)
	tables := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		tables++
		path := fs.PathJoin("backup", name)
		undo := flip(t, fs, path)
		if err := restore(t.Context(), fs, "backup", "restored", nil); !errors.Is(err, nexusraft.ErrCorrupt) ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("restore with damage in %s: got %v, want ErrCorrupt that names it", name, err)
		}
		s, err := Open("backup", &Options{FS: fs, ReadOnly: true, Logger: testOptions(nil).Logger})
		if err == nil {
			_, err = s.Check(t.Context(), nil)
			check(t, s.Close())
		}
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("check with damage in %s: got %v, want ErrCorrupt that names it", name, err)
		}
		undo()
	}
	if tables < 1 {
		t.Errorf("%d tables", tables)
	}
	check(t, restore(t.Context(), fs, "backup", "restored", nil))
}

// flip changes a byte in the middle of a file, and returns what changes it back.
func flip(t *testing.T, fs FS, path string) (undo func()) {
	t.Helper()
	xor := func() {
		f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		check(t, err)
		info, err := f.Stat()
		check(t, err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, info.Size()/2)
		check(t, err)
		_, err = f.WriteAt([]byte{b[0] ^ 0x40}, info.Size()/2)
		check(t, err)
		check(t, f.Close())
	}
	xor()
	return xor
}

// TestCheckWhileTablesCome: compactions take tables away that it is about to read.
func TestCheckWhileTablesCome(t *testing.T) {
	s := newStore(t)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		value := bytes.Repeat([]byte("v"), 1000)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Set(fmt.Appendf(nil, "%d", i%500), value, NoSync); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 10 {
		_, err := s.Check(t.Context(), func(done, total int64) {
			if done > total {
				t.Errorf("%d of %d bytes", done, total)
			}
		})
		check(t, err)
	}
	close(stop)
	writer.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Check(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestChecksum: it depends on the pairs of the range, and on nothing else.
func TestChecksum(t *testing.T) {
	sum := func(s *Store, start, end string) string {
		t.Helper()
		c, err := s.Checksum([]byte(start), []byte(end))
		check(t, err)
		return c.String()
	}
	a, b := newStore(t), newStore(t)
	const ofNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if got := sum(a, "", "z"); got != ofNothing {
		t.Errorf("an empty range: got %s", got)
	}
	for i := range 50 {
		check(t, a.Set(fmt.Appendf(nil, "%02d", i), fmt.Append(nil, i), NoSync))
	}
	for i := 99; i >= 0; i-- {
		check(t, b.Set(fmt.Appendf(nil, "%02d", i), fmt.Append(nil, i), NoSync))
	}
	if sum(a, "", "z") == sum(b, "", "z") || sum(a, "10", "30") != sum(b, "10", "30") {
		t.Error("the same ranges differ, or others don't")
	}
	check(t, b.Set([]byte("20"), nil))
	if sum(a, "10", "30") == sum(b, "10", "30") || sum(a, "21", "30") != sum(b, "21", "30") {
		t.Error("it overlooks a change, or sees one outside")
	}
	check(t, a.Set([]byte("20x"), nil)) // lengths count: 20x, "" and 20, x
	check(t, a.Delete([]byte("20")))
	check(t, b.Set([]byte("20"), []byte("x")))
	if sum(a, "20", "21") == sum(b, "20", "21") {
		t.Error("the bounds between keys and values don't count")
	}
	if got := sum(a, "z", "a"); got != ofNothing {
		t.Errorf("a start after the end: got %s", got)
	}
	x := a.NewSnapshot()
	defer x.Close()
	before := sum(a, "", "z")
	check(t, a.Set([]byte("later"), nil))
	if c, err := x.Reader(a.Default()).Checksum(nil, []byte("z")); err != nil || c.String() != before {
		t.Errorf("of a snapshot: got %v, %v, want %s", c, err, before)
	}
}

// TestBackupOfAReadOnlyStore: what is only in its log is in the copy, too.
func TestBackupOfAReadOnlyStore(t *testing.T) {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	fillTrees(t, s)
	want := contents(t, s)
	check(t, s.Close())
	o := testOptions(fs)
	o.ReadOnly = true
	s, err := Open("data", o)
	check(t, err)
	check(t, s.Backup(t.Context(), "backup"))
	_, err = s.Check(t.Context(), nil)
	check(t, err)
	check(t, s.Close())
	s, err = Open("backup", testOptions(fs.CrashClone(nil, 0)))
	check(t, err)
	if diff := cmp.Diff(want, contents(t, s)); diff != "" {
		t.Errorf("the copy (-want +got):\n%s", diff)
	}
	check(t, s.Close())
}
