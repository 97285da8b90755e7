package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// checkIntact returns nexusraft.ErrCorrupt for damage of the store in dir that Pebble would not
// notice, or not before it has changed the directory. It reports whether there is a store.
func checkIntact(f FS, dir string) (found bool, err error) {
	desc, err := pebble.Peek(dir, f)
	if err != nil {
		return false, err
	}
	names, err := f.List(dir)
	if err != nil {
		return false, err
	}
	if !desc.Exists {
		return false, checkNothing(names)
	}
	complete := slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "OPTIONS-") })
	if complete && desc.FormatMajorVersion == pebble.FormatDefault { // it is written before the first OPTIONS
		return true, fmt.Errorf("%w: marker.format-version.* is missing", nexusraft.ErrCorrupt)
	}
	if err := checkEngineOptions(f, desc.OptionsFilename); err != nil {
		return true, err
	}
	if complete && !slices.Contains(names, syncedName) && !slices.Contains(names, backupName) {
		return true, &lostNotesError{f.PathJoin(dir, syncedName)}
	}
	said := readSynced(f, dir)
	if lost := lostLog(said, names, f.PathBase(desc.ManifestFilename)); lost != "" {
		return true, fmt.Errorf("%w: %s is missing", nexusraft.ErrCorrupt, f.PathJoin(dir, lost))
	}
	for _, name := range names {
		if err := checkChunks(f, f.PathJoin(dir, name), name, said.lengths[name]); err != nil {
			return true, err
		}
	}
	return true, nil
}

// lostNotesError says that SYNCED is missing of what may be a store. It is a nexusraft.ErrCorrupt.
type lostNotesError struct{ path string }

func (e *lostNotesError) Error() string {
	return fmt.Sprintf("%v: %s is missing, so that it can't be told whether the end of the log is whole; "+
		"restore a backup, or create an empty file of that name to take the store as it is", nexusraft.ErrCorrupt, e.path)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *lostNotesError) Unwrap() error { return nexusraft.ErrCorrupt }

// checkForeign returns nexusraft.ErrRefused if there is a database of another program, which never
// had a SYNCED.
func (s *Store) checkForeign(c Options) (err error) {
	c.ReadOnly = true
	db, err := pebble.Open(s.dir, c.engine(s.failstop, s.lock))
	if err != nil {
		return openFailed(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if format := appendKey(nil, registry, []byte(keyFormat)); it.First() &&
		!(it.SeekGE(format) && bytes.Equal(it.Key(), format)) {
		return wrongFormat("")
	}
	return it.Error()
}

// lostLog returns a log of which something was noted, and that is not there though it should be; ""
// if there is none.
func lostLog(said notes, names []string, manifest string) string {
	if !said.exact {
		return lostNewestLog(said.lengths, names, manifest)
	}
	for _, name := range slices.Sorted(maps.Keys(said.lengths)) {
		if _, ok := logNumber(name); ok && said.lengths[name] > 0 && !slices.Contains(names, name) {
			return name
		}
	}
	return ""
}

// lostNewestLog returns the newest log of which something was noted, if neither it nor a newer one
// is there; "" otherwise. A log is removed only when there is a newer one, but for an Open that was
// cut off: it removes the logs that it has replayed once a manifest, whose number is above theirs,
// has what was in them.
func lostNewestLog(lengths map[string]int64, names []string, manifest string) string {
	number, err := strconv.ParseUint(strings.TrimPrefix(manifest, "MANIFEST-"), 10, 64)
	if err != nil {
		return ""
	}
	newest := ""
	for name := range lengths {
		if n, ok := logNumber(name); ok && lengths[name] > 0 && n >= number {
			newest, number = name, n
		}
	}
	for _, name := range names {
		if n, ok := logNumber(name); ok && n >= number {
			return ""
		}
	}
	return newest
}

// logNumber returns the number of a log.
func logNumber(name string) (uint64, bool) {
	base, ok := strings.CutSuffix(name, ".log")
	n, err := strconv.ParseUint(base, 10, 64)
	return n, ok && err == nil
}

// replayed returns the name of the log that the engine was reading when it failed, "" if it was
// none.
func replayed(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		detailed, ok := err.(interface{ ErrorDetail() string })
		if !ok {
			continue
		}
		var n uint64
		if _, err := fmt.Sscanf(detailed.ErrorDetail(), "replaying wal %d,", &n); err == nil {
			return fmt.Sprintf("%06d.log", n)
		}
	}
	return ""
}

// openFailed returns what it means that Pebble can't open the store that is there: that it is
// damaged, unless the disk fails.
func openFailed(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := replayed(err)
	if pebble.IsCorruptionError(err) {
		return damaged(path, err)
	}
	if path != "" {
		path += ": "
	}
	return fmt.Errorf("%w: %s%w", nexusraft.ErrCorrupt, path, firstLine(err))
}

// checkNothing is checkIntact where no manifest is named: then nothing was ever written.
func checkNothing(names []string) error {
	for _, name := range names {
		if ext := path.Ext(name); ext == ".log" || ext == ".sst" || ext == ".blob" {
			return fmt.Errorf("%w: marker.manifest.* is missing, but there is %s", nexusraft.ErrCorrupt, name)
		}
	}
	return nil
}

// checkEngineOptions looks at the engine's record of its options as the engine will do.
func checkEngineOptions(f FS, name string) error {
	if name == "" {
		return nil
	}
	file, err := f.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	o := &pebble.Options{}
	o.EnsureDefaults()
	if err := o.CheckCompatibility(f.PathDir(name), string(text)); err != nil {
		return fmt.Errorf("%w: %s: %w", nexusraft.ErrCorrupt, name, err)
	}
	return nil
}

// What Pebble's logs and manifests are made of: blocks of chunks, each of which has a checksum, its
// length, a kind, and in a log its number and, but for the first log of a store, what was synced.
const (
	blockBytes          = 32 << 10
	manifestHeaderBytes = 7
	logHeaderBytes      = 11
	syncHeaderBytes     = 19

	// The first kinds of chunks in a manifest, a log, and a log with what was synced; there are
	// four of each. A chunk of the kind logEnd with the next number and nothing else ends a log.
	manifestKinds, logKinds, syncKinds, endOfKinds = 1, 5, 9, 13
	logEnd                                         = logKinds
)

// checkChunks returns ErrCorrupt if the first length bytes of a log or manifest are not whole
// chunks.
func checkChunks(f FS, file, name string, length int64) error {
	if length == 0 {
		return nil
	}
	good, err := chunks(f, file, name, length)
	if err != nil {
		return err
	}
	if good < length {
		return fmt.Errorf("%w: %s is damaged at byte %d of %d that were on the disk", nexusraft.ErrCorrupt, file, good,
			length)
	}
	return nil
}

// checkWhole returns ErrCorrupt if a log or manifest of a fresh copy is not whole chunks to its
// end.
func checkWhole(f FS, dir string) error {
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !isNoted(name) {
			continue
		}
		file := f.PathJoin(dir, name)
		info, err := f.Stat(file)
		if err != nil {
			return err
		}
		if err := checkChunks(f, file, name, info.Size()); err != nil {
			return err
		}
	}
	return nil
}

// wholeChunks returns how much of a log or manifest, from its beginning, are whole chunks.
func wholeChunks(f FS, file, name string) (int64, error) {
	info, err := f.Stat(file)
	if err != nil {
		return 0, err
	}
	return chunks(f, file, name, info.Size())
}

// chunks returns how many of the first length bytes of a log or manifest are whole chunks, from
// the beginning.
func chunks(f FS, file, name string, length int64) (int64, error) {
	in, err := f.Open(file, vfs.SequentialReadsOption)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	block := make([]byte, blockBytes)
	for at := int64(0); at < length; at += blockBytes {
		n, err := io.ReadFull(in, block[:min(blockBytes, length-at)])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		if good := goodBytes(name, block[:n]); int64(good) < min(blockBytes, length-at) {
			return at + int64(good), nil
		}
	}
	return length, nil
}

// goodBytes returns how many bytes of a block, from its beginning, are whole chunks, and the
// zeros where no other one has room. The block may be cut off behind a chunk.
func goodBytes(name string, block []byte) int {
	at := 0
	for at < len(block) {
		n := chunkBytes(name, block[at:])
		if n == 0 && blockBytes-at < syncHeaderBytes && len(bytes.Trim(block[at:], "\x00")) == 0 {
			return len(block)
		}
		if n == 0 {
			return at
		}
		at += n
	}
	return at
}

// chunkBytes returns the length of the chunk that b begins with, 0 if it is not sound.
func chunkBytes(name string, b []byte) int {
	if len(b) < manifestHeaderBytes {
		return 0
	}
	kind, header := b[6], manifestHeaderBytes
	base, isLog := strings.CutSuffix(name, ".log")
	switch {
	case isLog && kind >= syncKinds:
		header = syncHeaderBytes
	case isLog:
		header = logHeaderBytes
	}
	n := header + int(binary.LittleEndian.Uint16(b[4:]))
	if n > len(b) || kind >= endOfKinds || isLog != (kind >= logKinds) || kind < manifestKinds {
		return 0
	}
	if isLog {
		want, _ := strconv.ParseUint(base, 10, 64)
		number := binary.LittleEndian.Uint32(b[7:])
		if kind == logEnd && n == header && number == uint32(want)+1 && binary.LittleEndian.Uint32(b) == 0 {
			return n
		}
		if number != uint32(want) {
			return 0
		}
	}
	if binary.LittleEndian.Uint32(b) != maskedSum(b[6:n]) {
		return 0
	}
	return n
}

// maskedSum is the checksum of a chunk.
func maskedSum(b []byte) uint32 {
	return bits.RotateLeft32(crc32.Checksum(b, castagnoli), 17) + 0xa282ead8
}
