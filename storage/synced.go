package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// syncedName is the file that says how far the logs and the manifest are on the disk.
const syncedName = "SYNCED"

// synced remembers how far the logs and the manifest are on the disk.
//
// The problem: a log ends where a crash has cut off the last write, and a reader can't tell
// that from damage to what was on the disk long before. Pebble takes either for the end, goes on
// without what follows, and removes the tables that it then doesn't know. (Its log has marks of
// what was synced, but looks for them only beyond the damaged 32 KiB, and counts too little.)
//
// The invariants:
//
//   - What is noted of a file was on the disk before it was noted. No write waits for the note itself
//     to be synced: it survives the end of the process, and a power loss may leave an older one,
//     which is as true. One that is damaged says nothing.
//   - What is noted of a file is taken back, and that is synced, before the file is removed or reused.
//     So a log that is noted and not there was lost, wherever it stands among the others.
//   - The file is there before Pebble has written its first OPTIONS, and is never removed.
//
// The outline: failstop notes each sync. Before Pebble opens the files, checkIntact follows
// the chunks of each as far as was noted.
type synced struct {
	mu    sync.Mutex // guards what follows
	file  vfs.File   // nil if nothing is to be noted
	notes notes
}

// notes is what SYNCED says.
type notes struct {
	lengths map[string]int64

	// exact is false of notes of an earlier release, which may name files that were removed in order.
	exact bool
}

// exactLine begins the notes that are exact. An earlier release skips it, and leaves it out of what
// it writes.
const exactLine = "exact\n"

// open begins to take notes, in dir, after those that are there.
func (s *synced) open(f FS, dir string) (err error) {
	s.notes = readSynced(f, dir)
	for name := range s.notes.lengths {
		_, err := f.Stat(f.PathJoin(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			delete(s.notes.lengths, name)
		case err != nil:
			return err
		}
	}
	s.file, err = f.OpenReadWrite(f.PathJoin(dir, syncedName), vfs.WriteCategoryUnspecified)
	return err
}

func (s *synced) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}

// note says that the first length bytes of a file are on the disk.
func (s *synced) note(name string, length int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	s.notes.lengths[name] = length
	return s.write()
}

// begin takes back what may have been said of an earlier file of the name, before there is a new
// one, and of the one that becomes it, reused, if there is one. It syncs the notes, too, which is
// cheap where logs and manifests begin: so even a power loss leaves what was said of those that are
// complete.
func (s *synced) begin(name, reused string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || !isNoted(name) {
		return nil
	}
	delete(s.notes.lengths, name)
	delete(s.notes.lengths, reused)
	return errors.Join(s.write(), s.file.Sync())
}

// noted reports whether anything is noted of a file.
func (s *synced) noted(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.notes.lengths[name]
	return ok && s.file != nil
}

// write replaces the notes by one write: checksum, length, and a line for each file.
func (s *synced) write() error {
	b := append(make([]byte, 8, 512), exactLine...)
	for _, name := range slices.Sorted(maps.Keys(s.notes.lengths)) {
		b = fmt.Appendf(b, "%s %d\n", name, s.notes.lengths[name])
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err := s.file.WriteAt(b, 0)
	return err
}

// readSynced returns what was noted in dir; nothing if that can't be read.
func readSynced(f FS, dir string) notes {
	said := notes{lengths: make(map[string]int64)}
	file, err := f.Open(f.PathJoin(dir, syncedName))
	if err != nil {
		return said
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil || len(b) < 8 {
		return said
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n < 8 || int64(n) > int64(len(b)) || crc32.Checksum(b[4:n], castagnoli) != binary.BigEndian.Uint32(b) {
		return said
	}
	lines, exact := strings.CutPrefix(string(b[8:n]), exactLine)
	said.exact = exact
	for line := range strings.Lines(lines) {
		name, length, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if l, err := strconv.ParseInt(length, 10, 64); err == nil {
			said.lengths[name] = l
		}
	}
	return said
}

// noteWhole notes of the logs and manifests of a store that was verified as far as they can be
// read, unless there are notes.
func noteWhole(f FS, dir string) error {
	if _, err := f.Stat(f.PathJoin(dir, syncedName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := f.List(dir)
	if err != nil {
		return err
	}
	var s synced
	if err := s.open(f, dir); err != nil {
		return err
	}
	for _, name := range names {
		if !isNoted(name) {
			continue
		}
		if s.notes.lengths[name], err = wholeChunks(f, f.PathJoin(dir, name), name); err != nil {
			return errors.Join(err, s.close())
		}
	}
	return errors.Join(s.write(), s.file.Sync(), s.close(), syncDir(f, dir))
}

// isNoted reports whether synced is to know of a file.
func isNoted(name string) bool {
	return path.Ext(name) == ".log" || strings.HasPrefix(name, "MANIFEST-")
}
