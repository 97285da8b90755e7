package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// maxPath is the longest path, in bytes, that can be stored: it is the key.
const maxPath = 4 << 10

// errStop ends a walk early without being an error.
var errStop = errors.New("stop")

// walker finds the files below a directory.
type walker struct {
	root    *os.Root
	exclude fs.FileInfo // a directory that is left out, the demo's own data; may be nil
	skipped *skips
}

// openDir returns a walker over dir, whose root the caller closes. A directory that is not
// there, is no directory or holds no file is an error.
func openDir(dir string) (*walker, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %q does not exist: name one whose files are to be recorded", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", dir, err)
	}
	probe := &walker{root: root, skipped: newSkips()}
	found := false
	err = probe.walk(context.Background(), func(string) error {
		found = true
		return errStop
	})
	if err == nil && !found {
		err = probe.empty(dir)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return &walker{root: root, skipped: newSkips()}, nil
}

// empty says why nothing was found in dir.
func (w *walker) empty(dir string) error {
	if s := w.skipped.list(); len(s) > 0 {
		return fmt.Errorf("directory %q holds no file that can be recorded: %q is skipped: %s", dir, s[0].Path, s[0].Reason)
	}
	return fmt.Errorf("directory %q holds no file: name one that does", dir)
}

// walk calls file with the path of everything below the directory that is not a directory
// itself, relative to it and with forward slashes. What can't be read or is too long is
// noted in skipped. An error of file ends it; errStop is not returned.
func (w *walker) walk(ctx context.Context, file func(path string) error) error {
	err := w.walkDir(ctx, ".", file)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// walkDir holds no directory open while it is below it: deep trees would need as many files.
func (w *walker) walkDir(ctx context.Context, dir string, file func(path string) error) error {
	entries, err := w.list(dir)
	if err != nil {
		w.skipped.add(filepath.ToSlash(dir), err)
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := filepath.Join(dir, e.Name())
		key := filepath.ToSlash(path)
		switch {
		case e.IsDir():
			err = w.walkDir(ctx, path, file)
		case len(key) > maxPath:
			w.skipped.add(key, fmt.Errorf("path of %d bytes, limit %d", len(key), maxPath))
		default:
			err = file(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) list(dir string) ([]fs.DirEntry, error) {
	f, err := w.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if w.exclude != nil {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if os.SameFile(info, w.exclude) {
			return nil, nil
		}
	}
	return f.ReadDir(-1)
}

// fresh walks and reads everything anew.
func (w *walker) fresh(ctx context.Context) (map[string]record, error) {
	reader := newRecorder(w.root)
	now := make(map[string]record)
	err := w.walk(ctx, func(path string) error {
		rec, err := reader.read(path)
		if err != nil {
			w.skipped.add(path, err)
			return nil
		}
		now[path] = rec
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk the directory: %w", err)
	}
	return now, nil
}

// Skip is a file or directory that was not recorded.
type Skip struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// skips collects what was left out, each path once. It may be used by any goroutine.
type skips struct {
	mu     sync.Mutex
	reason map[string]string
}

func newSkips() *skips { return &skips{reason: make(map[string]string)} }

func (s *skips) add(path string, err error) {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // the path is named already
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason[path] = err.Error()
}

// list returns all, ascending by path.
func (s *skips) list() []Skip {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Skip, 0, len(s.reason))
	for _, path := range slices.Sorted(maps.Keys(s.reason)) {
		out = append(out, Skip{Path: path, Reason: s.reason[path]})
	}
	return out
}
