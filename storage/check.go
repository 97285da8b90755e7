package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// CheckStats says what Check has read.
type CheckStats struct {
	Tables int64 // files of the engine
	Bytes  int64 // of Tables
	Trees  int64 // with the default tree
	Pairs  int64
}

// Check reads the store from the disk and verifies every block of every table, and every pair of
// every tree. (The write-ahead log was verified by Open.) It returns nexusraft.ErrCorrupt, with the
// file's name, for the first damage that it finds. What others write meanwhile is looked at in
// part. progress, which may be nil, is called from time to time with the bytes that are done and
// that there are to do, both of which grow when others write.
func (s *Store) Check(ctx context.Context, progress func(done, total int64)) (CheckStats, error) {
	if progress == nil {
		progress = func(done, total int64) {}
	}
	var out CheckStats
	if err := s.enter(); err != nil {
		return out, err
	}
	defer s.calls.exit()
	err := ctx.Err()
	if err == nil {
		err = s.checkTables(ctx, &out, progress)
	}
	if err == nil {
		err = s.checkTrees(ctx, &out)
	}
	if err != nil {
		return out, fmt.Errorf("check store %s: %w", s.dir, err)
	}
	return out, nil
}

// checkTables reads the tables until there is none that it has not seen: compactions
// replace them meanwhile.
func (s *Store) checkTables(ctx context.Context, out *CheckStats, progress func(done, total int64)) error {
	seen := make(map[string]bool)
	for {
		tables, total, err := s.tables()
		if err != nil {
			return err
		}
		news := false
		for name := range tables {
			if seen[name] {
				continue
			}
			seen[name], news = true, true
			if err := s.goesOn(ctx); err != nil {
				return err
			}
			switch size, err := s.checkTable(ctx, name); {
			case errors.Is(err, fs.ErrNotExist) && !s.isCurrent(name): // it was compacted away
			case err != nil:
				return err
			default:
				out.Tables++
				out.Bytes += size
				progress(out.Bytes, max(total, out.Bytes))
			}
		}
		if !news {
			return nil
		}
	}
}

// tables returns the names and sizes of the tables' files, and the sum.
func (s *Store) tables() (sizes map[string]int64, total int64, err error) {
	defer s.guard(&err)
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, 0, err
	}
	sizes = make(map[string]int64)
	for _, level := range levels {
		for _, t := range level {
			sizes[t.BackingSSTNum.String()+".sst"] = int64(t.Size)
			total += int64(t.Size)
		}
	}
	return sizes, total, nil
}

// isCurrent reports whether the store still needs a table.
func (s *Store) isCurrent(name string) bool {
	tables, _, err := s.tables()
	_, ok := tables[name]
	return ok || err != nil
}

// checkTable reads all blocks of a table, past the cache, and returns its size.
func (s *Store) checkTable(ctx context.Context, name string) (size int64, err error) {
	defer s.guard(&err)
	path := s.options.FS.PathJoin(s.dir, name)
	f, err := s.options.FS.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return 0, err
	}
	in, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	engine := s.options.engine(s.failstop, nil)
	engine.EnsureDefaults()
	r, err := sstable.NewReader(ctx, in, engine.MakeReaderOptions())
	if err != nil {
		return 0, errors.Join(damaged(path, err), in.Close())
	}
	if err := errors.Join(r.ValidateBlockChecksums(), r.Close()); err != nil {
		return 0, damaged(path, err)
	}
	return in.Size(), nil
}

// checkTrees reads all pairs of one snapshot.
func (s *Store) checkTrees(ctx context.Context, out *CheckStats) error {
	x := s.NewSnapshot()
	defer x.Close()
	views, err := x.trees()
	if err != nil {
		return err
	}
	for _, v := range views {
		out.Trees++
		for _, err := range v.Scan(nil, nil) {
			if err != nil {
				return err
			}
			if out.Pairs++; out.Pairs%1024 != 0 {
				continue
			}
			if err := s.goesOn(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
