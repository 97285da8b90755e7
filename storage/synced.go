package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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
// The problem: a log ends where a crash has cut off the last write, and who reads it can't tell
// that from damage to what was on the disk long before. Pebble takes either for
// the end, goes on without what follows, and removes the tables that it then doesn't know. (Its log has
// marks of what was synced, but looks for them only beyond the damaged 32 KiB, and counts too little.)
//
// The invariant: what is noted of a file was on the disk before it was noted. No write waits for the
// note itself to be synced: it survives the end of the process, and a power loss may leave an older
// one, which is as true. One that is damaged says nothing, nor does one of a file that is gone.
//
// The outline: the fence notes each sync. Before Pebble opens the files, checkIntact follows
// the chunks of each as far as was noted.
type synced struct {
	mu      sync.Mutex // guards what follows
	file    vfs.File   // nil if nothing is to be noted
	lengths map[string]int64
}

// open begins to take notes, in dir, after those that are there.
func (s *synced) open(f FS, dir string) (err error) {
	s.lengths = readSynced(f, dir)
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
	s.lengths[name] = length
	return s.write()
}

// begin takes back what may have been said of an earlier file of the name, before there is a new
// one. It syncs the notes, too, which is cheap where logs and manifests begin: so even a power loss
// leaves what was said of those that are complete.
func (s *synced) begin(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || !isNoted(name) {
		return nil
	}
	delete(s.lengths, name)
	return errors.Join(s.write(), s.file.Sync())
}

// forget is called when a file is there no more.
func (s *synced) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lengths, name)
}

// write replaces the notes by one write: checksum, length, and a line for each file.
func (s *synced) write() error {
	b := make([]byte, 8, 512)
	for _, name := range slices.Sorted(maps.Keys(s.lengths)) {
		b = fmt.Appendf(b, "%s %d\n", name, s.lengths[name])
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err := s.file.WriteAt(b, 0)
	return err
}

// readSynced returns what was noted in dir; nothing if that can't be read.
func readSynced(f FS, dir string) map[string]int64 {
	lengths := make(map[string]int64)
	file, err := f.Open(f.PathJoin(dir, syncedName))
	if err != nil {
		return lengths
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil || len(b) < 8 {
		return lengths
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n < 8 || int64(n) > int64(len(b)) || crc32.Checksum(b[4:n], castagnoli) != binary.BigEndian.Uint32(b) {
		return lengths
	}
	for line := range strings.Lines(string(b[8:n])) {
		name, length, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if l, err := strconv.ParseInt(length, 10, 64); err == nil {
			lengths[name] = l
		}
	}
	return lengths
}

// isNoted reports whether synced is to know of a file.
func isNoted(name string) bool {
	return path.Ext(name) == ".log" || strings.HasPrefix(name, "MANIFEST-")
}
