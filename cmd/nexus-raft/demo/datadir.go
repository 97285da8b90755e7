package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// dataDir is where the three keep their data and logs. It was empty when the demo began.
type dataDir struct {
	path string
	made bool // by the demo
}

// prepare makes the data directory, which must be empty if it is there already; a temporary
// one if dir is "".
func prepare(dir string) (dataDir, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "nexus-raft-demo-")
		if err != nil {
			return dataDir{}, fmt.Errorf("make a temporary data directory: %w", err)
		}
		return dataDir{path: dir, made: true}, nil
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return dataDir{}, fmt.Errorf("find the data directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(path, 0o755); err != nil {
			return dataDir{}, fmt.Errorf("make the data directory: %w", err)
		}
		return dataDir{path: path, made: true}, nil
	case err != nil:
		return dataDir{}, fmt.Errorf("read the data directory: %w", err)
	case len(entries) > 0:
		return dataDir{}, fmt.Errorf("the data directory %q is not empty: name one that is empty or does not exist", dir)
	}
	return dataDir{path: path}, nil
}

// remove deletes what is in it, and itself if the demo made it.
func (d dataDir) remove() error {
	entries, err := os.ReadDir(d.path)
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(d.path, e.Name())))
	}
	if d.made {
		errs = append(errs, os.Remove(d.path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the data directory: %w", err)
	}
	return nil
}
