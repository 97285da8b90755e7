package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The files that make a directory a backup. While checksumsName is there, nothing of the directory
// may differ from it.
//
// The problem: a log and a manifest end where their last write was cut off, and damage can look
// like that. SYNCED tells a store's own; a copy has to be whole.
//
// The invariants:
//
//   - checksumsName has the length and the checksum of every other file of the backup but LOCK,
//     and its own checksum. It is written last, and replaced as a whole.
//   - backupName is there from before checksumsName until after it, so that the loss of either
//     shows. Only a directory that is opened for writing loses both: checksumsName becomes
//     openedName first, so that a crash in between isn't taken for damage.
const (
	checksumsName = "CHECKSUMS"
	backupName    = "BACKUP"
	openedName    = "temporary.opened"

	checksumsHeader = "nexus-raft backup 1\n"
	backupText      = "The copy of a store. " + checksumsName + " has the SHA-256 and the length of each of its files.\n"
)

// fileSum is what a backup knows of one of its files.
type fileSum struct {
	length int64
	sum    string // SHA-256, hexadecimal
}

// isBackup reports whether dir is a backup with checksums, damaged or not.
func isBackup(f FS, dir string) (bool, error) {
	names, err := f.List(dir)
	if err != nil {
		return false, err
	}
	return slices.Contains(names, checksumsName) ||
		slices.Contains(names, backupName) && !slices.Contains(names, openedName), nil
}

// writeChecksums makes the complete copy of a store in dir a backup.
func writeChecksums(ctx context.Context, f FS, dir string) error {
	if err := writeWhole(f, f.PathJoin(dir, backupName), []byte(backupText)); err != nil {
		return err
	}
	names, err := backupFiles(f, dir)
	if err != nil {
		return err
	}
	text := []byte(checksumsHeader)
	for _, name := range names {
		got, err := sumFile(ctx, f, f.PathJoin(dir, name), nil)
		if err != nil {
			return err
		}
		text = fmt.Appendf(text, "%s %d %s\n", got.sum, got.length, name)
	}
	text = fmt.Appendf(text, "%x\n", sha256.Sum256(text))
	temp := f.PathJoin(dir, "temporary."+checksumsName)
	if err := writeWhole(f, temp, text); err != nil {
		return err
	}
	if err := f.Rename(temp, f.PathJoin(dir, checksumsName)); err != nil {
		return err
	}
	return syncDir(f, dir)
}

// backupFiles returns the names of the files of which checksumsName tells, ascending.
func backupFiles(f FS, dir string) ([]string, error) {
	names, err := f.List(dir)
	names = slices.DeleteFunc(names, func(name string) bool {
		return name == "LOCK" || name == checksumsName || name == lostAndFound || !isStoreFile(name)
	})
	slices.Sort(names)
	return names, err
}

// checkChecksums returns nexusraft.ErrCorrupt, with the file's name, unless every file of a backup
// is what it was.
func checkChecksums(ctx context.Context, f FS, dir string) error {
	want, err := readChecksums(f, dir)
	if err != nil {
		return err
	}
	names, err := backupFiles(f, dir)
	if err != nil {
		return err
	}
	if err := compareNames(f, dir, names, want); err != nil {
		return err
	}
	for _, name := range names {
		path := f.PathJoin(dir, name)
		got, err := sumFile(ctx, f, path, nil)
		if err != nil {
			return err
		}
		if err := want[name].compare(got, path); err != nil {
			return err
		}
	}
	return nil
}

// compareNames returns nexusraft.ErrCorrupt unless a backup has the files that it should, and no
// others.
func compareNames(f FS, dir string, names []string, want map[string]fileSum) error {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%w: %s is missing", nexusraft.ErrCorrupt, f.PathJoin(dir, name))
		}
	}
	for _, name := range names {
		if _, ok := want[name]; !ok {
			return fmt.Errorf("%w: %s is no file of this backup, which was changed after it was made", nexusraft.ErrCorrupt,
				f.PathJoin(dir, name))
		}
	}
	return nil
}

// compare returns nexusraft.ErrCorrupt unless the file at path has what it should.
func (want fileSum) compare(got fileSum, path string) error {
	switch {
	case got.length != want.length:
		return fmt.Errorf("%w: %s has %d bytes, and had %d when the backup was made", nexusraft.ErrCorrupt, path, got.length,
			want.length)
	case got.sum != want.sum:
		return fmt.Errorf("%w: %s is not what it was when the backup was made", nexusraft.ErrCorrupt, path)
	}
	return nil
}

// readChecksums returns what a backup knows of its files, by their names.
func readChecksums(f FS, dir string) (map[string]fileSum, error) {
	path := f.PathJoin(dir, checksumsName)
	text, err := readWhole(f, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", nexusraft.ErrCorrupt, path)
	}
	if err != nil {
		return nil, err
	}
	if sums, ok := parseChecksums(string(text)); ok {
		return sums, nil
	}
	return nil, fmt.Errorf("%w: %s is damaged", nexusraft.ErrCorrupt, path)
}

func parseChecksums(text string) (map[string]fileSum, bool) {
	const sumBytes = 2*sha256.Size + 1
	at := len(text) - sumBytes
	if at < 0 || text[at:] != fmt.Sprintf("%x\n", sha256.Sum256([]byte(text[:at]))) {
		return nil, false
	}
	lines, ok := strings.CutPrefix(text[:at], checksumsHeader)
	sums := make(map[string]fileSum)
	for line := range strings.Lines(lines) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(fields) != 3 {
			return nil, false
		}
		length, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return nil, false
		}
		sums[fields[2]] = fileSum{length, fields[0]}
	}
	return sums, ok
}

// sumFile reads a file to its end. take, which may be nil, is given all that was read, and may
// change it.
func sumFile(ctx context.Context, f FS, path string, take func(b []byte) error) (fileSum, error) {
	in, err := f.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return fileSum{}, err
	}
	defer func() { _ = in.Close() }()
	hash := sha256.New()
	var length int64
	for b := make([]byte, 1<<20); ; {
		n, err := in.Read(b)
		hash.Write(b[:n])
		length += int64(n)
		if take != nil {
			if err := take(b[:n]); err != nil {
				return fileSum{}, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return fileSum{length, hex.EncodeToString(hash.Sum(nil))}, nil
		case err != nil:
			return fileSum{}, fmt.Errorf("read %s: %w", path, err)
		case ctx.Err() != nil:
			return fileSum{}, ctx.Err()
		}
	}
}

// endBackup makes a backup a store of its own, which may change.
func endBackup(f FS, dir string) error {
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	if slices.Contains(names, checksumsName) {
		if err := f.Rename(f.PathJoin(dir, checksumsName), f.PathJoin(dir, openedName)); err != nil {
			return err
		}
	} else if !slices.Contains(names, openedName) {
		return nil
	}
	for _, name := range []string{backupName, openedName} {
		if err := syncDir(f, dir); err != nil {
			return err
		}
		if err := f.Remove(f.PathJoin(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func readWhole(f FS, path string) ([]byte, error) {
	in, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	return io.ReadAll(in)
}

// writeWhole writes a file, and syncs it.
func writeWhole(f FS, path string, text []byte) error {
	out, err := f.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(out.Sync(), out.Close())
}
