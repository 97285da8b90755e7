package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// capture is the moment that a backup is of.
//
// The problem: Pebble notes which tables there are, and copies the logs afterwards, as they
// are by then. Of a log that is written meanwhile, and whose file was another log before, the
// copy has stale bytes between new ones; and what is imported in between is missing, though
// later writes are there.
//
// The outline: while Pebble notes the tables, all latches are held, so that nobody writes. The
// first change that it makes to the copy's directory tells that it has. At that moment failstop
// notes how much of each log was written, and shows Pebble no more of them; then writers go on.
type capture struct {
	dir   string // of the copy
	noted func() // called once, when Pebble has noted which tables there are

	mu      sync.Mutex       // guards what follows
	lengths map[string]int64 // of the logs, by name, once Pebble has noted the tables
	failed  error            // the failed syncs of directories of the copy, at which Pebble would panic
}

// note keeps how much of each log was written. Compactions open files meanwhile.
func (c *capture) note(lengths map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lengths = lengths
}

func (c *capture) length(log string) (length int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	length, ok = c.lengths[log]
	return length, ok
}

func (c *capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = errors.Join(c.failed, err)
}

func (c *capture) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// checkpoint has Pebble write a copy to a directory that is absent, as of one moment. One at a
// time.
func (s *Store) checkpoint(ctx context.Context, dir string) (err error) {
	select {
	case s.copying <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.copying }()
	if err := s.Flush(); err != nil { // so that little is left to be synced while nobody writes
		return err
	}
	s.latches.lock(allLatches)
	unlock := sync.OnceFunc(func() { s.latches.unlock(allLatches) })
	defer unlock()
	if err := s.syncLog(); err != nil {
		return err
	}
	c := &capture{dir: dir, noted: unlock}
	s.failstop.capture.Store(c)
	defer s.failstop.capture.Store(nil)
	defer s.guard(&err)
	err = errors.Join(s.db.Checkpoint(dir), c.cause())
	return errors.Join(err, s.dead())
}

// MkdirAll implements vfs.FS. It is Pebble's first change to the directory of a copy.
func (f *failstop) MkdirAll(dir string, perm os.FileMode) error {
	if c := f.capture.Load(); c != nil && dir == c.dir {
		c.note(f.logs.lengths())
		c.noted()
	}
	return f.FS.MkdirAll(dir, perm)
}

// captured is file without what was written to it after the moment of a backup.
func (f *failstop) captured(name string, file vfs.File) vfs.File {
	c := f.capture.Load()
	if c == nil || !f.owns(name) {
		return file
	}
	length, ok := c.length(f.PathBase(name))
	if !ok {
		return file
	}
	return &capturedFile{File: file, left: length}
}

// capturedFile is the beginning of a file.
type capturedFile struct {
	vfs.File
	left int64
}

func (f *capturedFile) Read(p []byte) (int, error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	n, err := f.File.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, err
}

// copiedDir is a directory of a copy. That it can't be synced is the copy's failure.
type copiedDir struct {
	vfs.File
	capture *capture
}

func (d *copiedDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.capture.fail(err)
	}
	return nil
}

// logs knows how much was written to each log.
type logs struct {
	mu      sync.Mutex // guards what follows
	written map[string]*atomic.Int64
}

// begin returns where to count what is written to a file, in any case.
func (l *logs) begin(name string) *atomic.Int64 {
	n := new(atomic.Int64)
	if path.Ext(name) == ".log" {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.written[name] = n
	}
	return n
}

func (l *logs) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.written, name)
}

func (l *logs) lengths() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	lengths := make(map[string]int64, len(l.written))
	for name, n := range l.written {
		lengths[name] = n.Load()
	}
	return lengths
}
