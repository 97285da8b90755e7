package storage

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestReadOnlyMedium reads, and restores from, a file system that is mounted read-only.
func TestReadOnlyMedium(t *testing.T) {
	disk := smallDisk(t)
	small := testOptions(nil)
	small.DiskReserve = -1
	s, err := Open(filepath.Join(disk, "store"), small)
	check(t, err)
	check(t, s.Set([]byte("k"), []byte("v")))
	check(t, s.Backup(t.Context(), filepath.Join(disk, "backup")))
	check(t, s.Close())
	check(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	for _, name := range []string{"store", "backup"} {
		o := testOptions(nil)
		o.ReadOnly = true
		s, err := Open(filepath.Join(disk, name), o)
		check(t, err)
		if value, ok, err := s.Get([]byte("k")); string(value) != "v" || !ok || err != nil {
			t.Errorf("%s: got %q, %v, %v", name, value, ok, err)
		}
		_, err = s.Check(t.Context(), nil)
		check(t, err)
		check(t, Restore(t.Context(), filepath.Join(disk, name), filepath.Join(t.TempDir(), "restored"), nil))
		check(t, s.Close())
	}
	if s, err := Open(filepath.Join(disk, "store"), testOptions(nil)); err == nil {
		check(t, s.Close())
		t.Error("it was opened to be written")
	} else if errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("opened to be written: got %v", err)
	}
}
