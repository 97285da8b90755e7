package storage

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenTemporary opens a store that lives in memory and is gone when it is closed: nothing of
// it reaches a disk. Its data are not bounded but by the process's memory. o may be nil; its
// FS and ReadOnly must not be set, and its DiskReserve is ignored.
func OpenTemporary(o *Options) (*Store, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.FS != nil || c.ReadOnly {
		return nil, errors.New("open temporary store: Options.FS and Options.ReadOnly are for stores that last")
	}
	c.FS, c.DiskReserve = vfs.NewMem(), -1
	return Open("temporary", &c)
}
