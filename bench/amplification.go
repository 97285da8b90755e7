package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

// errNotMeasured is returned where the system doesn't tell what a row needs.
var errNotMeasured = errors.New("not measured here")

// amplificationSequential is how many bytes go to the disk for each byte of keys and
// values that are put in order, one by one, into an empty store.
func amplificationSequential(r *runner, e engine) (float64, error) {
	dir, err := r.newDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	return r.amplification(e, dir, func(s store) error {
		for i := range r.keys {
			if err := s.put(newKey(i), value(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// amplificationOverwrites is the same for as many overwrites of random keys of a store
// as it has keys.
func amplificationOverwrites(r *runner, e engine) (float64, error) {
	loaded, err := r.loaded(e)
	if err != nil {
		return 0, err
	}
	dir, err := r.newDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, os.DirFS(loaded)); err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(5, 0))
	return r.amplification(e, dir, func(s store) error {
		for n := 0; n < r.keys; n += batchOfPuts {
			keys := make([]int, batchOfPuts)
			for i := range keys {
				keys[i] = rng.IntN(r.keys)
			}
			if err := s.putAll(pairs(keys)); err != nil {
				return err
			}
		}
		return nil
	})
}

// amplification is what is written per byte of the runner's number of pairs by write,
// until the engine has come to rest: what it still holds in memory counts as well.
func (r *runner) amplification(e engine, dir string, write func(store) error) (float64, error) {
	before, err := written()
	if err != nil {
		return 0, err
	}
	if err := r.use(e, dir, 0, write); err != nil {
		return 0, err
	}
	if err := r.rest(e, dir); err != nil {
		return 0, err
	}
	after, err := written()
	return float64(after.since(before)) / float64(r.keys*pairBytes), err
}

// writeCounts is what this process has written so far, in bytes.
type writeCounts struct {
	calls int64 // by system calls
	dirty int64 // of the page cache: through mapped memory as well, but a page counts once until the system writes it
}

// since returns what was written after before. Engines that write through mapped memory
// show in one of the counts, those that write the same pages over and over in the other.
func (w writeCounts) since(before writeCounts) int64 {
	return max(w.calls-before.calls, w.dirty-before.dirty)
}

func written() (writeCounts, error) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return writeCounts{}, fmt.Errorf("%w: %w", errNotMeasured, err)
	}
	var w writeCounts
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "wchar: %d", &w.calls)
		_, _ = fmt.Sscanf(line, "write_bytes: %d", &w.dirty)
	}
	return w, nil
}
