package witness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// slots keeps one small content on disk so that a crash leaves the old one or the new one,
// and so that a content whose store has returned is never lost: two files, NAME.a and
// NAME.b, written in turn with a sequence number that grows by one.
//
// At open the newer of the two counts. If the other is not whole, it was cut off while the
// next content was written; if it is damaged in any other way, nobody knows whether it was
// the newer one, and open returns ErrCorrupt rather than take back what was acknowledged.
//
// The files never shrink. A slots is for one goroutine; after an error of store it must
// not be used again, for a failed sync is never retried (invariant I9).
type slots struct {
	fs       FS
	dir      string
	name     string
	format   uint32 // of what is stored from now on
	sequence uint64 // of the content on disk; odd ones are in NAME.a
	bytes    [2]int64
}

func (s *slots) path(slot int) string {
	return filepath.Join(s.dir, s.name+[2]string{".a", ".b"}[slot])
}

func slotOf(sequence uint64) int { return int(1-sequence%2) & 1 }

// createSlots stores the first content under a name that has none. Both files exist when
// it returns, so that one that is missing later is known to be lost.
func createSlots(f FS, dir, name string, content []byte) (*slots, error) {
	s := &slots{fs: f, dir: dir, name: name, format: firstFormat}
	for range 2 {
		if err := s.store(content); err != nil {
			return nil, err
		}
		if err := f.SyncDir(dir); err != nil {
			return nil, fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return s, nil
}

// removeSlots removes both files of a name, either of which may be missing. A crash may bring them back.
func removeSlots(f FS, dir, name string) error {
	s := &slots{fs: f, dir: dir, name: name}
	for i := range 2 {
		if err := f.Remove(s.path(i)); err != nil && !isMissing(err) {
			return err
		}
	}
	return nil
}

// openSlots returns what was stored last. It returns fs.ErrNotExist if nothing ever was,
// and ErrCorrupt, with the file's name, if that can't be known.
func openSlots(f FS, dir, name string) (*slots, []byte, error) {
	s, content, err := readSlots(f, dir, name)
	if err != nil {
		return nil, nil, err
	}
	if err := f.SyncDir(dir); err != nil {
		return nil, nil, fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return s, content, nil
}

// readSlots is openSlots for a caller that syncs the directory before it uses any of what it has opened.
func readSlots(f FS, dir, name string) (*slots, []byte, error) {
	s := &slots{fs: f, dir: dir, name: name}
	var found [2]slotContent
	for i := range found {
		if found[i] = s.load(i); found[i].err != nil && !found[i].damaged() && !found[i].absent() {
			return nil, nil, fmt.Errorf("read %s: %w", s.path(i), found[i].err)
		}
	}
	newest, err := s.choose(found)
	if err != nil {
		return nil, nil, err
	}
	s.sequence, s.format = found[newest].sequence, found[newest].format
	if err := syncFile(f, s.path(newest)); err != nil {
		return nil, nil, err
	}
	// A copy in the other file mends one that was cut off.
	if err := s.store(found[newest].content); err != nil {
		return nil, nil, err
	}
	return s, found[newest].content, nil
}

// slotContent is what was found in one file.
type slotContent struct {
	format   uint32 // if there is a content
	sequence uint64
	content  []byte
	err      error
}

func (c slotContent) absent() bool  { return errors.Is(c.err, fs.ErrNotExist) }
func (c slotContent) cutOff() bool  { return errors.Is(c.err, errCutOff) }
func (c slotContent) damaged() bool { return c.cutOff() || errors.Is(c.err, errDamaged) }

// choose returns which file holds the content that counts.
func (s *slots) choose(found [2]slotContent) (int, error) {
	a, b := found[0], found[1]
	switch {
	case b.absent() && a.err != nil: // the first store was cut off, or there was none
		return 0, fmt.Errorf("%s: %w", s.path(0), fs.ErrNotExist)
	case a.err == nil && b.err != nil && a.sequence == 1: // the second one was
		return 0, nil
	case a.err == nil && b.err == nil && a.sequence == b.sequence+1:
		return 0, nil
	case a.err == nil && b.err == nil && b.sequence == a.sequence+1:
		return 1, nil
	case a.err == nil && b.cutOff() && b.sequence == a.sequence+1:
		return 0, nil
	case b.err == nil && a.cutOff() && a.sequence == b.sequence+1:
		return 1, nil
	case a.err != nil:
		return 0, s.corrupt(0, a.err)
	case b.err != nil:
		return 0, s.corrupt(1, b.err)
	}
	return 0, s.corrupt(0, fmt.Errorf("its sequence is %d and that of %s is %d: they don't belong together", a.sequence,
		s.path(1), b.sequence))
}

// corrupt hides what err is: a file that is lost must not look like one that never was.
func (s *slots) corrupt(slot int, err error) error {
	return fmt.Errorf("%w: %s: %v", nexusraft.ErrCorrupt, s.path(slot), err)
}

// load reads one file.
func (s *slots) load(slot int) slotContent {
	file, err := readFile(s.fs, s.path(slot), int64(blocksFor(maxContentBytes)*blockBytes))
	if err != nil {
		return slotContent{err: err}
	}
	s.bytes[slot] = int64(len(file))
	sequence, content, err := decodeBlocks(file)
	if err == nil && slotOf(sequence) != slot {
		err = errDamaged
	}
	c := slotContent{sequence: sequence, content: content, err: err}
	if err == nil {
		c.format = formatOf(file)
	}
	return c
}

// readFile returns a file's content, ErrCorrupt if it is longer than limit.
func readFile(f FS, name string, limit int64) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() // nothing was written
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: it has %d bytes, limit %d", nexusraft.ErrCorrupt, size, limit)
	}
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return nil, err
	}
	return b, nil
}

// syncFile syncs a file that this process has only read: the one that wrote it may have
// died before its sync, and what is believed from now on must not be lost.
func syncFile(f FS, name string) error {
	file, err := f.Open(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// store writes content and returns once it is on the disk.
func (s *slots) store(content []byte) error {
	if len(content) > maxContentBytes {
		return fmt.Errorf("%w: content of %d bytes for %s, limit %d", nexusraft.ErrTooLarge, len(content), s.name,
			maxContentBytes)
	}
	slot := slotOf(s.sequence + 1)
	name, blocks := s.path(slot), encodeBlocks(s.format, s.sequence+1, content)
	file, err := s.fs.Create(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := writeSynced(file, blocks); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	s.sequence++
	s.bytes[slot] = max(s.bytes[slot], int64(len(blocks)))
	return nil
}

func writeSynced(file File, b []byte) error {
	if _, err := file.WriteAt(b, 0); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Sync(), file.Close())
}

// size returns the bytes that both files take.
func (s *slots) size() int64 { return s.bytes[0] + s.bytes[1] }
