package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// partial is behind the name of a directory that is not complete yet.
const partial = ".partial"

// Backup writes a copy of the store, as of one moment, to the directory dir, which must be
// absent or empty (else it returns nexusraft.ErrRefused). Others may write meanwhile. All that was visible when
// Backup began is in it, and on the disk when it returns. The copy is a store itself: Open it
// read-only to look into it, Restore it to go on from it.
//
// dir appears when it is complete; until then, and after a crash in the middle, there is one with
// ".partial" behind its name, which the next Backup to dir replaces. On the file
// system of the store the copy costs little: it shares the store's tables, by hard links, which nobody ever
// changes, and with them the disk; that of a store which is open read-only shares nothing. An error leaves nothing behind, and the store as it is.
func (s *Store) Backup(ctx context.Context, dir string) error {
	if err := s.backup(ctx, dir); err != nil {
		return fmt.Errorf("back up store %s to %s: %w", s.dir, dir, err)
	}
	return nil
}

func (s *Store) backup(ctx context.Context, dir string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.gate.exit()
	f := s.options.FS
	dir, err := target(f, dir)
	if err != nil {
		return err
	}
	if dir == s.dir || within(f, s.dir, dir) {
		return fmt.Errorf("%w: it is in the store's own directory", nexusraft.ErrRefused)
	}
	return replace(ctx, f, s.dir, dir, func(dir string) error {
		if s.options.ReadOnly { // Pebble can't then, and nobody changes the files
			return copyDir(ctx, f, s.dir, dir, nil)
		}
		return s.checkpoint(dir)
	})
}

// checkpoint has Pebble write a copy to a directory that is absent.
func (s *Store) checkpoint(dir string) (err error) {
	defer s.guard(&err)
	if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return err
	}
	return s.dead()
}

// Restore copies the backup to the directory dir, which must be absent or empty (else it returns
// nexusraft.ErrRefused), and makes sure that it is sound before dir appears: of a damaged
// one it returns nexusraft.ErrCorrupt. The backup is only read, but must not be in use. progress,
// which may be nil, is called from time to time with the bytes that are done and that there are to do.
//
// dir appears when it is complete and on the disk; until then, and after a crash in the middle, there is
// one with ".partial" behind its name, which the next Restore to dir replaces. An error leaves
// nothing behind.
func Restore(ctx context.Context, backup, dir string, progress func(done, total int64)) error {
	if err := restore(ctx, vfs.Default, backup, dir, progress); err != nil {
		return fmt.Errorf("restore %s to %s: %w", backup, dir, err)
	}
	return nil
}

func restore(ctx context.Context, f FS, backup, dir string, progress func(done, total int64)) error {
	exists, err := Exists(backup, &Options{FS: f})
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("%w: there is no store in %s", nexusraft.ErrRefused, backup)
	}
	if backup, err = realName(f, backup); err != nil {
		return err
	}
	if dir, err = target(f, dir); err != nil {
		return err
	}
	if within(f, backup, dir) {
		return fmt.Errorf("%w: it is in the backup's own directory", nexusraft.ErrRefused)
	}
	lock, err := pebble.LockDirectory(backup, f)
	if err != nil {
		return lockError(err)
	}
	defer lock.Close()
	return replace(ctx, f, backup, dir, func(dir string) error {
		if err := copyDir(ctx, f, backup, dir, progress); err != nil {
			return err
		}
		return verify(ctx, f, dir)
	})
}

// verify reads the store in dir to its last byte.
func verify(ctx context.Context, f FS, dir string) error {
	s, err := Open(dir, &Options{FS: f, ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	_, err = s.Check(ctx, nil)
	return errors.Join(err, s.Close())
}

// target returns the one name of a directory that is to be written: it must be absent or
// empty.
func target(f FS, dir string) (string, error) {
	dir, err := realName(f, dir)
	if err != nil {
		return "", err
	}
	info, err := f.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir, nil
	case err != nil:
		return "", err
	case !info.IsDir():
		return "", fmt.Errorf("%w: it is not a directory", nexusraft.ErrRefused)
	}
	names, err := f.List(dir)
	names = slices.DeleteFunc(names, func(name string) bool { return name == lostAndFound })
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: it is not empty (it has %q); give a directory that is absent or empty", nexusraft.ErrRefused, names[0])
	}
	return dir, err
}

// realName returns the one name that a directory has: two that lead to one are the same.
func realName(f FS, dir string) (string, error) {
	if f == vfs.Default {
		return canonical(dir)
	}
	return f.PathJoin(".", dir), nil
}

// within reports whether dir is below parent.
func within(f FS, parent, dir string) bool {
	for up := f.PathDir(dir); up != dir; dir, up = up, f.PathDir(up) {
		if up == parent {
			return true
		}
	}
	return false
}

// replace has fill make a directory from another one, and gives it its name dir once it is complete.
func replace(ctx context.Context, f FS, from, dir string, fill func(dir string) error) (err error) {
	temp := dir + partial
	if temp == from || within(f, temp, from) {
		return fmt.Errorf("%w: %s is where the copy is made; rename it first", nexusraft.ErrRefused, temp)
	}
	if err := errors.Join(ctx.Err(), removeUnused(f, temp)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.RemoveAll(temp))
		}
	}()
	parent := f.PathDir(dir)
	if err := makeDir(f, parent); err != nil {
		return err
	}
	if err := f.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it can't be replaced, as it is a mount point for example; give a directory below it: %w", nexusraft.ErrRefused, err)
	}
	if err := errors.Join(fill(temp), ctx.Err()); err != nil {
		return err
	}
	if err := f.Rename(temp, dir); err != nil {
		return err
	}
	return syncDir(f, parent)
}

// removeUnused removes a directory, unless it is a store that somebody has open.
func removeUnused(f FS, dir string) error {
	exists, err := Exists(dir, &Options{FS: f})
	if err == nil && exists {
		lock, err := pebble.LockDirectory(dir, f)
		if err != nil {
			return fmt.Errorf("remove %s: %w", dir, lockError(err))
		}
		defer lock.Close()
	}
	return f.RemoveAll(dir)
}

func syncDir(f FS, dir string) error {
	d, err := f.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// copyDir copies the files of a store, synced. What else is in its directory stays there.
func copyDir(ctx context.Context, f FS, from, to string, progress func(done, total int64)) error {
	all, err := f.List(from)
	if err != nil {
		return err
	}
	var names []string
	var total, done int64
	for _, name := range all {
		info, err := f.Stat(f.PathJoin(from, name))
		if err != nil {
			return err
		}
		if isStoreFile(name) && !info.IsDir() && name != "LOCK" {
			names = append(names, name)
			total += info.Size()
		}
	}
	if err := f.MkdirAll(to, 0o700); err != nil {
		return err
	}
	report := func(n int) {
		done += int64(n)
		if progress != nil {
			progress(done, total)
		}
	}
	for _, name := range names {
		if err := copyFile(ctx, f, f.PathJoin(from, name), f.PathJoin(to, name), report); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return syncDir(f, to)
}

func copyFile(ctx context.Context, f FS, from, to string, report func(n int)) (err error) {
	in, err := f.Open(from, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := f.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for b := make([]byte, 1<<20); ; {
		n, err := in.Read(b)
		if n > 0 {
			if _, err := out.Write(b[:n]); err != nil {
				return err
			}
			report(n)
		}
		switch {
		case errors.Is(err, io.EOF):
			return out.Sync()
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
