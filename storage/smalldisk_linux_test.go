package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// smallDisk mounts a file system of 96 MiB.
func smallDisk(t *testing.T) string { return diskOf(t, "96m") }

// diskOf mounts a file system of a size.
func diskOf(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: not root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("NEXUS_RAFT_CI") == "1" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("skipped: can't mount: %v", err)
	}
	t.Cleanup(func() { check(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// TestSmallDisk fills a real file system by writes up to the reserve, and then with another
// file to the last byte.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	dir := filepath.Join(disk, "data")
	o := testOptions(nil)
	o.MemTableBytes, o.DiskReserve = 1<<20, 16<<20
	s, err := Open(dir, o)
	check(t, err)
	tree := mustTree(t, s, "t")
	n := fillUp(t, tree, 0)
	if n < 64 {
		t.Errorf("only %d values of 512 KiB went onto the disk", n)
	}
	if free := s.DiskFree(); free < 8<<20 {
		t.Errorf("%d bytes are free of a reserve of %d", free, o.DiskReserve)
	}
	check(t, s.Close())
	s, err = Open(dir, o) // on the full disk
	check(t, err)
	tree = mustTree(t, s, "t")
	wantNumbers(t, tree, n)

	ballast := filepath.Join(disk, "ballast")
	takeAll(t, ballast)
	b := s.NewBatch()
	b.UseReserve()
	err = nil
	for i := 0; err == nil && i < 64; i++ { // the log has some room of its own
		b.Reset()
		check(t, b.Set(tree, []byte("reserved"), make([]byte, 512<<10)))
		err = b.Commit(true)
	}
	b.Close()
	if !errors.Is(err, nexusraft.ErrClosed) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writes beyond the last byte: got %v, want a stopped store and its cause", err)
	}
	if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close: got %v, want the cause", err)
	}

	check(t, os.Remove(ballast))
	s, err = Open(dir, o)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	tree = mustTree(t, s, "t")
	wantNumbers(t, tree, n)
	check(t, tree.Clear())
	if m := fillUp(t, tree, n); m <= n {
		t.Error("a cleared store takes no writes")
	}
}

// fillUp writes numbered values above n until the store refuses one; it returns the last.
func fillUp(t *testing.T, tree *Tree, n int) int {
	t.Helper()
	value, random := make([]byte, 512<<10), rand.NewChaCha8([32]byte{byte(n)})
	for range 1000 {
		random.Read(value) // it never fails, and what it gives does not compress
		if err := tree.Set(numberedKey(n+1), value); err != nil {
			wantFull(t, "Set", err, true)
			return n
		}
		n++
	}
	t.Fatal("the disk does not get full")
	return n
}

func wantNumbers(t *testing.T, tree *Tree, n int) {
	t.Helper()
	for i := 1; i <= n; i++ {
		if value, ok, err := tree.Get(numberedKey(i)); !ok || err != nil || len(value) != 512<<10 {
			t.Errorf("value %d of %d: got %d bytes, %v, %v", i, n, len(value), ok, err)
		}
	}
}

// takeAll fills the disk to the last byte with a file.
func takeAll(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	check(t, err)
	defer func() { check(t, f.Close()) }()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			check(t, err)
		}
	}
}

// TestOpenOnAFullDisk opens a new store, and one whose process was killed with a log to be written
// to tables and compactions to be done, with so little room left on a real file system: either it
// opens, or it says to make room. Once there is some, all that was synced is there.
func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk, refused := diskOf(t, "8m"), 0
	dir, ballast := filepath.Join(disk, "data"), filepath.Join(disk, "ballast")
	for name, img := range map[string]image{"new": {}, "killed": busyStore(t)} {
		for free := int64(0); free < 1<<20; free += max(4<<10, free/2) {
			if len(img) > 0 {
				check(t, img.copyTo(vfs.Default, dir))
			}
			takeAll(t, ballast)
			info, err := os.Stat(ballast)
			check(t, err)
			check(t, os.Truncate(ballast, info.Size()-free))
			o := testOptions(nil)
			o.DiskReserve = 64 << 10
			s, err := Open(dir, o)
			if err != nil {
				refused++
				if !errors.Is(err, nexusraft.ErrDiskFull) || !strings.Contains(err.Error(), "make room") {
					t.Errorf("%s, %d bytes free: got %v, want ErrDiskFull with what to do", name, free, err)
				}
			} else if err := s.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s, %d bytes free: Close: got %v", name, free, err)
			}

			check(t, os.Remove(ballast))
			if s, err = Open(dir, o); err != nil {
				t.Fatalf("%s, %d bytes free: with room again: %v", name, free, err)
			}
			for i := 0; i < 50 && len(img) > 0; i++ {
				if ok, err := s.Contains(fmt.Appendf(nil, "%03d", i)); !ok || err != nil {
					t.Fatalf("%s, %d bytes free: key %d: got %v, %v", name, free, i, ok, err)
				}
			}
			check(t, s.Close())
			check(t, os.RemoveAll(dir))
		}
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
}

// TestBatchLargerThanTheDisk: it is refused before the engine fails, and so are several that
// have no room together.
func TestBatchLargerThanTheDisk(t *testing.T) {
	t.Parallel()
	o := testOptions(nil)
	o.MemTableBytes, o.DiskReserve = 1<<20, 16<<20
	s, err := Open(filepath.Join(smallDisk(t), "data"), o)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	random := rand.NewChaCha8([32]byte{1})
	value := make([]byte, 20<<20)
	random.Read(value)
	whole := s.NewBatch()
	defer whole.Close()
	for i := range byte(6) {
		check(t, whole.Set(s.Default(), []byte{i}, value))
	}
	if err := whole.Commit(true); !errors.Is(err, nexusraft.ErrDiskFull) {
		t.Errorf("a batch of 120 MiB on a disk of 96: got %v, want ErrDiskFull", err)
	}
	errs := make(chan error, 6)
	for i := range byte(6) {
		go func() { errs <- s.Set([]byte{i}, value) }()
	}
	for range 6 {
		if err := <-errs; err != nil && !errors.Is(err, nexusraft.ErrDiskFull) {
			t.Errorf("one of six at once: got %v, want nil or ErrDiskFull", err)
		}
	}
	check(t, s.Set([]byte("small"), nil))
}
