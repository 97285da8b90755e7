package storage

import (
	"errors"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// How long a file that can't be created for want of a descriptor is tried again, and how often. A
// process that has run out of them mostly gets some back: connections end. Meanwhile writes wait.
const (
	descriptorWait  = 10 * time.Second
	descriptorPause = 20 * time.Millisecond
)

// withDescriptor opens a file, and tries again for a while where the process or the system has
// no descriptor left: nothing has been done to the disk then, so that the store need not stop.
func (f *failstop) withDescriptor(open func() (vfs.File, error)) (vfs.File, error) {
	for end := time.Now().Add(descriptorWait); ; {
		file, err := open()
		if !lacksDescriptor(err) || time.Now().After(end) {
			return file, err
		}
		select {
		case <-f.gone:
			return file, err
		case <-time.After(descriptorPause):
		}
	}
}

func lacksDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
