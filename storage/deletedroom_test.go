package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeletedRangesGiveRoomBack: what is removed as a range gives its room on the disk back by
// itself, while the disk is full, too, so that nothing is written any more.
func TestDeletedRangesGiveRoomBack(t *testing.T) {
	for name, remove := range map[string]func(*Store, *Tree) error{
		"Clear":       func(_ *Store, tree *Tree) error { return tree.Clear(Sync) },
		"DropTree":    func(s *Store, tree *Tree) error { return s.DropTree(tree.Name()) },
		"DeleteRange": deleteAll,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := NewMemFS()
				fs.SetDiskFree(1 << 40)
				s := openReserved(t, fs, nil)
				defer func() { check(t, s.Close()) }()
				tree := mustTree(t, s, "t")
				fillIncompressible(t, tree)
				before := s.DiskBytes()
				fs.SetDiskFree(0)
				time.Sleep(2 * lookEvery)
				wantFull(t, "with a full disk", s.Room(), true)
				check(t, remove(s, tree))
				time.Sleep(2 * deletedRangeFlush)
				synctest.Wait()
				if left := s.DiskBytes(); left > before/4 {
					t.Errorf("of %d bytes on the disk %d are left", before, left)
				}
			})
		})
	}
}

func deleteAll(s *Store, tree *Tree) error {
	b := s.NewBatch()
	defer b.Close()
	if err := b.DeleteRange(tree, nil, nil); err != nil {
		return err
	}
	return b.Commit(true)
}

// fillIncompressible writes 4 MiB that can't be compressed.
func fillIncompressible(t *testing.T, tree *Tree) {
	t.Helper()
	value := make([]byte, 0, 4<<10)
	for i := range uint32(1 << 10) {
		for value = value[:0]; len(value) < cap(value); {
			sum := sha256.Sum256(binary.BigEndian.AppendUint32(value, i))
			value = append(value, sum[:]...)
		}
		check(t, tree.Set(binary.BigEndian.AppendUint32(nil, i), value, NoSync))
	}
}
