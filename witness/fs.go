package witness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/gofrs/flock"
)

// FS is what a witness asks of a file system. OSFS is the real one; MemFS is one that
// tests can crash.
type FS interface {
	// MkdirAll creates dir and its parents; one that exists is no error.
	MkdirAll(dir string) error

	// Names returns the names of dir's entries in ascending order, and errNotDir for a file.
	Names(dir string) ([]string, error)

	// Open opens a file for reading and writing. It returns fs.ErrNotExist.
	Open(name string) (File, error)

	// Create opens a file for reading and writing, and creates it if it doesn't exist.
	Create(name string) (File, error)

	// Remove removes a file, which a crash may bring back until SyncDir. It returns fs.ErrNotExist.
	Remove(name string) error

	// SyncDir makes the creation and the removal of dir's entries survive a crash.
	SyncDir(dir string) error

	// Lock takes a lock on a file that it creates, without waiting. It returns errLocked
	// if somebody else holds it. Closing the result gives the lock back.
	Lock(name string) (io.Closer, error)
}

// File is an open file. What is written survives a crash once Sync has returned; before
// that, any part of it may.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Sync() error
}

var (
	errLocked = errors.New("another process has it open")
	errNotDir = errors.New("not a directory")
)

// OSFS is the operating system's file system.
type OSFS struct{}

// MkdirAll implements FS. Each directory that it creates is synced into its parent.
func (f OSFS) MkdirAll(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is not a directory", dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := f.MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.SyncDir(parent)
}

// Names implements FS.
func (OSFS) Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if info, is := os.Stat(dir); err != nil && is == nil && !info.IsDir() {
		return nil, errNotDir
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Open implements FS.
func (OSFS) Open(name string) (File, error) { return open(name, os.O_RDWR) }

// Create implements FS.
func (OSFS) Create(name string) (File, error) { return open(name, os.O_RDWR|os.O_CREATE) }

func open(name string, flags int) (File, error) {
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove implements FS.
func (OSFS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS. Windows has no such call and needs none.
func (OSFS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock implements FS.
func (OSFS) Lock(name string) (io.Closer, error) {
	l := flock.New(name)
	switch ok, err := l.TryLock(); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errLocked
	}
	return l, nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
