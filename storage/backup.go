package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// verifyCacheBytes is enough for reading everything once.
const verifyCacheBytes = 16 << 20

// partial is behind the name of a directory that is not complete yet.
const partial = ".partial"

// Backup writes a copy of the store, as of one moment, to the directory dir, which must be absent
// or empty (else it returns nexusraft.ErrRefused). All that was visible when Backup began is in the
// copy, and on the disk when it returns nil. The copy is a store: Open it read-only to look into
// it, Restore it to go on from it.
//
// Writers and imports wait only while that moment is fixed, about as long as for a sync. One backup
// runs at a time. On the store's own file system the copy shares the tables, by hard links.
//
// Backup reads the copy back, and leaves the length and the SHA-256 of each file in it (CHECKSUMS):
// Open and Restore verify them all and return nexusraft.ErrCorrupt, with the file's name, for any
// difference.
//
// dir appears when it is complete. A crash leaves dir + ".partial", which the next Backup to dir
// replaces. An error, also of dir's disk, leaves nothing behind, and the store as it is.
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
	defer s.calls.exit()
	f := s.options.FS
	dir, err := target(f, dir)
	if err != nil {
		return err
	}
	if dir == s.dir || within(f, s.dir, dir) {
		return fmt.Errorf("%w: it is in the store's own directory", nexusraft.ErrRefused)
	}
	return replace(ctx, f, s.dir, dir, func(dir string) error {
		if err := s.copyTo(ctx, dir); err != nil {
			return err
		}
		if err := verify(ctx, f, dir); err != nil {
			return fmt.Errorf("the copy is not sound, and was removed: %w", err)
		}
		return writeChecksums(ctx, f, dir)
	})
}

// copyTo copies the store to a directory that is absent.
func (s *Store) copyTo(ctx context.Context, dir string) error {
	if s.options.ReadOnly { // Pebble can't then, and nobody changes the files
		return copyDir(ctx, s.options.FS, s.dir, dir, nil, nil)
	}
	if err := s.checkpoint(ctx, dir); err != nil {
		return err
	}
	if err := checkWhole(s.options.FS, dir); err != nil {
		return err
	}
	return noteWhole(s.options.FS, dir)
}

// Restore copies a backup to the directory dir, which must be absent or empty (else it returns
// nexusraft.ErrRefused), and verifies it. It returns nexusraft.ErrCorrupt, with the file's name,
// for a damaged one. The backup is only read, but must not be in use. progress, which may be nil,
// is called from time to time with the bytes that are done and that there are to do.
//
// A backup of a release that left no checksums is restored with a warning to slog.Default(): damage
// to its MANIFEST and its logs may pass for their end.
//
// dir appears when it is complete and on the disk. A crash leaves dir + ".partial", which the next
// Restore to dir replaces. An error leaves nothing behind.
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
	lock, err := lockToRead(f, backup)
	if err != nil {
		return lockError(err)
	}
	defer lock.Close()
	sums, err := sumsToRestore(f, backup)
	if err != nil {
		return err
	}
	return replace(ctx, f, backup, dir, func(dir string) error {
		if err := copyDir(ctx, f, backup, dir, sums, progress); err != nil {
			return err
		}
		if sums == nil {
			if err := noteWhole(f, dir); err != nil {
				return err
			}
		}
		if err := verify(ctx, f, dir); err != nil {
			return err
		}
		if err := endBackup(f, dir); err != nil {
			return err
		}
		return noteWhole(f, dir)
	})
}

// sumsToRestore returns what a backup knows of its files, nil if it is none. What an
// earlier release has made knows nothing.
func sumsToRestore(f FS, dir string) (map[string]fileSum, error) {
	backup, err := isBackup(f, dir)
	if err != nil {
		return nil, err
	}
	if backup {
		return readChecksums(f, dir)
	}
	if _, err := f.Stat(f.PathJoin(dir, syncedName)); errors.Is(err, fs.ErrNotExist) {
		slog.Warn("this backup has no checksums of its files, as an earlier release made it: "+
			"tables are verified, but damage to MANIFEST and the logs can pass for their end", "path", dir)
	}
	return nil, nil
}

// verify reads the store in dir to its last byte.
func verify(ctx context.Context, f FS, dir string) error {
	s, err := Open(dir, &Options{
		FS: f, ReadOnly: true, CacheBytes: verifyCacheBytes,
		Logger: slog.New(slog.DiscardHandler),
	})
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
		err = fmt.Errorf("%w: it is not empty (it has %q); give a directory that is absent or empty", nexusraft.ErrRefused,
			names[0])
	}
	return dir, err
}

// realName returns the one name that a directory has: two that lead to one are the same.
func realName(f FS, dir string) (string, error) {
	switch vfs.Root(f).(type) {
	case *MemFS, *vfs.MemFS: // which knows one root, and no working directory
		return f.PathJoin(".", dir), nil
	}
	if vfs.Root(f) == vfs.Default {
		return canonical(dir)
	}
	return filepath.Clean(dir), nil
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

// replace has fill make a directory from another one, and gives it its name dir once it is
// complete.
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
		return fmt.Errorf("%w: it can't be replaced, as it is a mount point for example; give a directory below it: %w",
			nexusraft.ErrRefused, err)
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

// copyDir copies the files of a store, synced. What else is in its directory stays there. It
// returns nexusraft.ErrCorrupt for a file that is not as in sums, unless they are nil.
func copyDir(
	ctx context.Context, f FS, from, to string, sums map[string]fileSum, progress func(done, total int64),
) error {
	names, total, err := filesToCopy(f, from, sums)
	if err != nil {
		return err
	}
	if err := f.MkdirAll(to, 0o700); err != nil {
		return err
	}
	var done int64
	report := func(n int) {
		done += int64(n)
		if progress != nil {
			progress(done, total)
		}
	}
	for _, name := range names {
		path := f.PathJoin(from, name)
		got, err := copyFile(ctx, f, path, f.PathJoin(to, name), report)
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
		if want, ok := sums[name]; ok {
			if err := want.compare(got, path); err != nil {
				return err
			}
		}
	}
	return syncDir(f, to)
}

// filesToCopy returns the names of a store's files, and the sum of their lengths.
func filesToCopy(f FS, dir string, sums map[string]fileSum) (names []string, total int64, err error) {
	if names, err = backupFiles(f, dir); err != nil {
		return nil, 0, err
	}
	if sums == nil {
		names = slices.DeleteFunc(names, func(name string) bool { return name == backupName || name == openedName })
	} else {
		if err := compareNames(f, dir, names, sums); err != nil {
			return nil, 0, err
		}
		names = append(names, checksumsName) // so that the copy can be verified
	}
	for _, name := range names {
		info, err := f.Stat(f.PathJoin(dir, name))
		if err != nil {
			return nil, 0, err
		}
		total += info.Size()
	}
	return names, total, nil
}

// copyFile copies a file, synced, and returns what was read.
func copyFile(ctx context.Context, f FS, from, to string, report func(n int)) (sum fileSum, err error) {
	out, err := f.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum, err = sumFile(ctx, f, from, func(b []byte) error {
		if len(b) == 0 {
			return nil
		}
		report(len(b))
		_, err := out.Write(b) // it may change b
		return err
	})
	if err != nil {
		return sum, err
	}
	return sum, out.Sync()
}
