package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ForeignError says that a directory holds something else than a store. It is a
// nexusraft.ErrRefused.
type ForeignError struct {
	Dir   string
	Names []string // of its entries, ascending
	First string   // the first one that is no store's
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%v: %s is not empty and holds no store (it has %q); give an empty directory or one that is absent",
		nexusraft.ErrRefused, e.Dir, e.First)
}

// Unwrap makes errors.Is(err, ErrRefused) true.
func (e *ForeignError) Unwrap() error { return nexusraft.ErrRefused }

// Exists reports whether there is a store in dir, without opening it; it may be open
// elsewhere, and nothing is said about its health. o may be nil; only FS is looked at.
//
// Without a store, dir may be absent, empty, or hold what is left of a store whose creation
// was cut off. For a file it returns ErrRefused, and for any other content a ForeignError.
func Exists(dir string, o *Options) (bool, error) {
	c, err := o.withDefaults()
	if err != nil {
		return false, fmt.Errorf("look for a store in %s: %w", dir, err)
	}
	info, err := c.FS.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && !info.IsDir() {
		return false, fmt.Errorf("%w: %s is not a directory", nexusraft.ErrRefused, dir)
	}
	if err != nil {
		return false, fmt.Errorf("look for a store in %s: %w", dir, err)
	}
	desc, err := pebble.Peek(dir, c.FS)
	if err != nil {
		return false, fmt.Errorf("look for a store in %s: %w", dir, err)
	}
	if desc.Exists {
		return true, nil
	}
	if backup, err := isBackup(c.FS, dir); backup || err != nil {
		return backup, err // a damaged one, of which Open and Restore say more
	}
	return false, checkLeftOvers(dir, c.FS)
}

// checkLeftOvers refuses a directory without a store that has entries no store makes.
func checkLeftOvers(dir string, f FS) error {
	names, err := f.List(dir)
	if err != nil {
		return fmt.Errorf("look for a store in %s: %w", dir, err)
	}
	slices.Sort(names)
	i := slices.IndexFunc(names, func(name string) bool { return !isStoreFile(name) })
	if i < 0 {
		return nil
	}
	return &ForeignError{Dir: dir, Names: names, First: names[i]}
}

// lostAndFound is in the topmost directory of some file systems.
const lostAndFound = "lost+found"

// isStoreFile reports whether a store, or the system, makes files of that name.
func isStoreFile(name string) bool {
	for _, prefix := range []string{
		"LOCK", syncedName, checksumsName, backupName, "MANIFEST-", "OPTIONS-", "CURRENT",
		"marker.", "temporary.", lostAndFound,
	} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	number, kind, _ := strings.Cut(name, ".")
	return strings.Trim(number, "0123456789") == "" && (kind == "log" || kind == "sst" || kind == "dbtmp")
}

// lockError says why a store's lock was not to be had.
func lockError(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("take its lock: %w", err)
	}
	return fmt.Errorf("%w: it is in use by another process; stop that one first: one at a time can use a data directory "+
		"(%w)", nexusraft.ErrRefused, err)
}
