package storage

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// lockToRead takes the lock of a store that is only read. On a file system that is mounted
// read-only it can't be made or written: then one that is there is shared with other readers, so
// that a writer that has the directory from elsewhere is noticed; without one, nobody has ever
// written there.
func lockToRead(f FS, dir string) (io.Closer, error) {
	path := f.PathJoin(dir, "LOCK")
	lock, err := f.Lock(path)
	if !errors.Is(err, syscall.EROFS) {
		return lock, err
	}
	if vfs.Root(f) != vfs.Default {
		return io.NopCloser(nil), nil
	}
	lock, err = shareLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	return lock, err
}
