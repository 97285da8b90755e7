package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// runner measures rows.
//
// The machine is never quiet, and the disk's speed changes. So the engines take turns in each
// round of a row, in the opposite order in every other one; ratios are taken within a round;
// and what is shown are medians. Only one store is open at a time.
type runner struct {
	dir      string
	keys     int
	rounds   int
	time     time.Duration
	engines  []engine
	progress io.Writer

	dirs   int
	filled map[string]string // the directories of loaded, by the engine's name
}

func (r *runner) run(rows []row) (*report, error) {
	r.filled = make(map[string]string)
	rep := &report{
		Machine: machine(), Keys: r.keys, KeyBytes: keyBytes, ValueBytes: valueBytes, Rounds: r.rounds,
	}
	var err error
	if rep.DiskSyncs, err = r.diskSyncs(); err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	for i, row := range rows {
		fmt.Fprintf(r.progress, "%d/%d %s:", i+1, len(rows), row.name)
		line, err := r.row(row)
		if err != nil {
			return nil, err
		}
		rep.Rows = append(rep.Rows, line)
	}
	return rep, nil
}

// row measures a row, and says so with a line.
func (r *runner) row(row row) (line, error) {
	defer fmt.Fprintln(r.progress)
	rounds := r.rounds
	if row.once {
		rounds = 1
	}
	measured := make(map[string][]float64)
	for round := range rounds {
		engines := slices.Clone(r.engines)
		if round%2 == 1 {
			slices.Reverse(engines)
		}
		for _, e := range engines {
			fmt.Fprintf(r.progress, " %s", e.name)
			runtime.GC() // what the one before has left is not this one's cost
			v, err := row.measure(r, e)
			if errors.Is(err, errNotMeasured) {
				continue
			}
			if err != nil {
				return line{}, fmt.Errorf("%s: %s: %w", row.name, e.name, err)
			}
			measured[e.name] = append(measured[e.name], v)
		}
	}
	return newLine(row, r.engines, measured), nil
}

func (r *runner) newDir() (string, error) {
	r.dirs++
	dir := filepath.Join(r.dir, fmt.Sprint(r.dirs))
	return dir, os.Mkdir(dir, 0o700)
}

// use opens the store in dir for do, and closes it.
func (r *runner) use(e engine, dir string, writers int, do func(store) error) error {
	s, err := e.open(dir, writers)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return errors.Join(do(s), s.close())
}

// fresh measures with an empty store.
func (r *runner) fresh(e engine, writers int, measure func(store) (float64, error)) (v float64, err error) {
	dir, err := r.newDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	err = r.use(e, dir, writers, func(s store) (err error) {
		v, err = measure(s)
		return err
	})
	return v, err
}

// stored measures with a store of all keys that has its caches full.
func (r *runner) stored(e engine, measure func(store) (float64, error)) (v float64, err error) {
	dir, err := r.loaded(e)
	if err != nil {
		return 0, err
	}
	err = r.use(e, dir, 0, func(s store) (err error) {
		for i := 0; i+prefixScan <= r.keys; i += prefixScan {
			if _, err := s.scan(newKey(i)[:scanPrefix]); err != nil {
				return err
			}
		}
		v, err = measure(s)
		return err
	})
	return v, err
}

// loaded returns the directory of a store of all keys that has come to rest.
func (r *runner) loaded(e engine) (string, error) {
	if dir, ok := r.filled[e.name]; ok {
		return dir, nil
	}
	dir, err := r.newDir()
	if err != nil {
		return "", err
	}
	if err := r.use(e, dir, 0, func(s store) error { return load(s, r.keys) }); err != nil {
		return "", err
	}
	r.filled[e.name] = dir
	return dir, r.rest(e, dir)
}

const (
	restFor  = time.Second      // a store that has written nothing for so long has come to rest
	restMost = 60 * time.Second // or is taken as it is
)

// rest opens the store in dir, which brings what its log has into its tables, and closes
// it when it has no work left that it does by itself.
func (r *runner) rest(e engine, dir string) error {
	return r.use(e, dir, 0, func(store) error {
		last, err := content(dir)
		since, deadline := time.Now(), time.Now().Add(restMost)
		for err == nil && time.Since(since) < min(restFor, r.time) && time.Now().Before(deadline) {
			time.Sleep(restFor / 50)
			var now string
			if now, err = content(dir); now != last {
				last, since = now, time.Now()
			}
		}
		return err
	})
}

// content lists the files of a directory with their sizes.
func content(dir string) (string, error) {
	var list []byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was just removed
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list = fmt.Appendln(list, path, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	return string(list), err
}

// diskSyncs returns how many times in a second the disk makes one pair more of a file
// durable: the most that one writer who waits can reach.
func (r *runner) diskSyncs() (float64, error) {
	f, err := vfs.Default.Create(filepath.Join(r.dir, "syncs"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	n := 0
	for ; err == nil && time.Since(start) < r.time; n++ {
		if _, err = f.Write(noise[:pairBytes]); err == nil {
			err = f.SyncData()
		}
	}
	rate := float64(n) / time.Since(start).Seconds()
	return rate, errors.Join(err, f.Close(), os.Remove(filepath.Join(r.dir, "syncs")))
}
