package storage

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A store that gets no descriptor for a while lives on, and loses nothing.
func TestNoDescriptorForAWhile(t *testing.T) {
	var lacking atomic.Int64
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite) && lacking.Add(-1) >= 0 {
			return &os.PathError{Op: "open", Path: op.Path, Err: syscall.EMFILE}
		}
		return nil
	})
	s, err := Open("s", &Options{FS: errorfs.Wrap(NewMemFS(), inject), MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 4<<10)
	for i := range 64 { // several logs and tables
		if i%8 == 0 {
			lacking.Store(3)
		}
		if err := s.Default().Set([]byte{byte(i)}, value); err != nil {
			t.Fatalf("write %d: %v, want it to wait for a descriptor", i, err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Error(err)
	}
	for i := range 64 {
		if _, ok, err := s.Default().Get([]byte{byte(i)}); !ok || err != nil {
			t.Errorf("key %d: %t, %v", i, ok, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
