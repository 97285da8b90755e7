package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2"
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

// temporaryPrefix begins the names of the directories of OpenTemporaryIn.
const temporaryPrefix = "nexus-raft-temporary-"

// OpenTemporaryIn opens a store that is gone when it is closed, and that may be larger than memory:
// in a directory of its own in dir, which is created if it is absent; "" is the system's for
// temporary files. o may be nil; its ReadOnly must not be set. Writes wait for no sync unless they
// ask for it.
//
// It removes from dir what processes have left that ended without Close.
func OpenTemporaryIn(dir string, o *Options) (*Store, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.ReadOnly {
		return nil, errors.New("open temporary store: Options.ReadOnly is for stores that last")
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if dir == "" {
		dir = os.TempDir()
	}
	if err := sweepTemporary(c.FS, dir); err != nil {
		return nil, fmt.Errorf("open temporary store in %s: %w", dir, err)
	}
	c.Durability, c.FlushInterval = NoSync, -1
	own := c.FS.PathJoin(dir, fmt.Sprintf("%s%016x", temporaryPrefix, rand.Uint64()))
	s, err := Open(own, &c)
	if err != nil {
		return nil, errors.Join(err, c.FS.RemoveAll(own))
	}
	s.temporary = true
	return s, nil
}

// sweepTemporary makes sure that there is a directory, and removes from it the temporary stores
// that nobody has open. One that is being created is none yet.
func sweepTemporary(f FS, dir string) error {
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := f.PathJoin(dir, name)
		if !strings.HasPrefix(name, temporaryPrefix) {
			continue
		}
		if exists, err := Exists(path, &Options{FS: f}); err != nil || !exists {
			continue
		}
		lock, err := pebble.LockDirectory(path, f)
		if err != nil {
			continue
		}
		if err := errors.Join(f.RemoveAll(path), lock.Close()); err != nil {
			return err
		}
	}
	return nil
}
