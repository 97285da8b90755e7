//go:build unix && !solaris && !aix

package storage

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// shareLock takes a lock that readers share.
func shareLock(path string) (io.Closer, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	lock := syscall.Flock_t{Type: syscall.F_RDLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &lock); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
