package witness

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// journal keeps the records of the zones besides the root zone, all of them in one file, so that a round
// writes and syncs once, however many zones have something to store.
//
// The file zones-N is a list of contents in blocks (blocks.go). The first one is the state, which has every
// zone's record; each further one has those records that a write has replaced; zeros up to the
// file's end are room for more. A write that finds no room begins zones-N+1, whose state includes it, and
// when that is on the disk zones-N is removed. So the size goes by the number of zones, not by that of writes.
//
// At open the newest file counts whose state is whole. A newer one was cut off while it was begun: nothing
// in it was acknowledged, and the one before is still there. Of the last write the blocks may be there in
// part, and then it was not acknowledged either. Whatever else does not fit is ErrCorrupt, as in slots: to
// pass over it could take back a vote. What counts is then begun anew in a file of its own, so nothing is
// ever written behind a write that was cut off.
//
// Its methods may be called from many goroutines. After an error it must not be used again (I9).
type journal struct {
	fs  FS
	dir string

	mu      sync.Mutex // guards what follows
	zones   map[nexusraft.ZoneID][]byte
	number  uint64 // of the newest file that there was ever; 0: none
	file    File   // nil until the first write
	index   uint32 // of the last content in it
	at, end int64  // the room
	failed  error
}

const (
	journalPrefix = "zones-"

	// A file has room for a quarter of its state, and for minRoom at least: at most five times what is to be
	// stored is written, and a file takes little more than its zones.
	minRoom   = 256 << 10
	roomShare = 4

	// maxJournalBytes bounds what is read into memory: a few KiB for each zone that there may be.
	maxJournalBytes = 512 << 20
)

// zoneContent is the encoded record of a zone.
type zoneContent struct {
	zone    nexusraft.ZoneID
	content []byte
}

// encodeZones returns the content that has some zones' records: of each its ID and its length, 8 and 4
// bytes, and the record.
func encodeZones(zones []zoneContent) (b []byte) {
	for _, z := range zones {
		b = binary.BigEndian.AppendUint64(b, uint64(z.zone))
		b = binary.BigEndian.AppendUint32(b, uint32(len(z.content)))
		b = append(b, z.content...)
	}
	return b
}

// decodeZones puts the records of a content into zones. They share its memory.
func decodeZones(b []byte, zones map[nexusraft.ZoneID][]byte) error {
	const header = 8 + 4
	for len(b) > 0 {
		if len(b) < header {
			return errors.New("its last record is cut off")
		}
		zone, n := nexusraft.ZoneID(binary.BigEndian.Uint64(b)), uint64(binary.BigEndian.Uint32(b[8:]))
		if b = b[header:]; n > uint64(len(b)) {
			return fmt.Errorf("the record of zone %v has %d bytes of %d", zone, len(b), n)
		}
		zones[zone] = b[:n:n]
		b = b[n:]
	}
	return nil
}

// sequenceOf is what the blocks of a file's content bear. Contents count from 1.
func sequenceOf(number uint64, index uint32) uint64 { return number<<32 | uint64(index) }

// readJournal returns the records that a file's contents leave; whole is false if its state was cut off. The
// error says what does not fit.
func readJournal(file []byte, number uint64) (zones map[nexusraft.ZoneID][]byte, whole bool, err error) {
	if v := formatIn(file); v != 0 && v != journalFormat {
		return nil, false, fmt.Errorf("its format version is %d, this program knows %d", v, journalFormat)
	}
	zones = make(map[nexusraft.ZoneID][]byte)
	index := uint32(1)
	for ; len(file) >= blockBytes; index++ {
		first, _, ok := readBlock(file, 0)
		if !ok || first.sequence != sequenceOf(number, index) {
			break
		}
		content, complete := gather(file, first)
		if !complete {
			break
		}
		if err := decodeZones(content, zones); err != nil {
			return nil, false, fmt.Errorf("content %d: %w", index, err)
		}
		file = file[blocksFor(len(content))*blockBytes:]
	}
	if err := onlyOf(file, sequenceOf(number, index)); err != nil {
		return nil, false, fmt.Errorf("content %d: %w", index, err)
	}
	return zones, index > 1, nil
}

// onlyOf returns an error unless all blocks of a file's rest are of one content, or were never written.
func onlyOf(rest []byte, sequence uint64) error {
	for i := 0; len(rest) > 0; i++ {
		b := rest[:min(blockBytes, len(rest))]
		rest = rest[len(b):]
		if allZero(b) {
			continue
		}
		if len(b) < blockBytes {
			return errDamaged
		}
		switch s, _, ok := readBlock(b, i); {
		case !ok:
			return errDamaged
		case s.sequence != sequence:
			return fmt.Errorf("block %d of content %d follows: %w", i, uint32(s.sequence), errDamaged)
		}
	}
	return nil
}

func allZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 })
}

// openJournal opens the journal in dir as it was last synced, with those of its zones that keep names, which
// ascends. imported, if not nil, counts in place of what its files say. Where there is nothing of either
// nothing is written.
func openJournal(
	f FS, dir string, keep []nexusraft.ZoneID, imported map[nexusraft.ZoneID][]byte,
) (*journal, error) {
	j := &journal{fs: f, dir: dir, zones: imported}
	files, err := j.files()
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		j.number = files[len(files)-1]
	}
	if imported == nil {
		if err := j.load(files); err != nil {
			return nil, err
		}
	}
	for zone := range j.zones {
		if _, kept := slices.BinarySearch(keep, zone); !kept {
			delete(j.zones, zone) // it was deleted, or its creation was cut off
		}
	}
	if len(files) == 0 && len(j.zones) == 0 {
		return j, nil
	}
	return j, j.beginFile(files)
}

// files returns the numbers of the files that there are, ascending.
func (j *journal) files() (numbers []uint64, err error) {
	names, err := j.fs.Names(j.dir)
	if err != nil {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	for _, name := range names {
		if n, ok := journalNumber(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// journalNumber returns which of a journal's files a name is; ok is false if it is none.
func journalNumber(name string) (number uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, journalPrefix)
	number, err := strconv.ParseUint(digits, 10, 31)
	return number, ok && err == nil && number > 0 && name == journalName(number)
}

func journalName(number uint64) string { return journalPrefix + strconv.FormatUint(number, 10) }

func (j *journal) path(number uint64) string { return filepath.Join(j.dir, journalName(number)) }

// load reads what counts of the files. The process that wrote it may have died before its sync: what is
// believed from now on is on the disk when the next file is begun.
func (j *journal) load(files []uint64) error {
	for _, number := range slices.Backward(files) {
		name := j.path(number)
		b, err := readFile(j.fs, name, maxJournalBytes)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		zones, whole, err := readJournal(b, number)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", nexusraft.ErrCorrupt, name, err)
		}
		if whole {
			j.zones = zones
			return nil
		}
	}
	j.zones = make(map[nexusraft.ZoneID][]byte)
	return nil
}

// put stores the records of some zones, at least one. All of them are on the disk when put returns.
func (j *journal) put(zones []zoneContent) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if err := j.write(zones); err != nil {
		j.failed = err
	}
	return j.failed
}

func (j *journal) write(zones []zoneContent) error {
	for _, z := range zones {
		if len(z.content) > maxContentBytes {
			return fmt.Errorf("%w: record of zone %v has %d bytes, limit %d", nexusraft.ErrTooLarge, z.zone, len(z.content),
				maxContentBytes)
		}
		j.zones[z.zone] = z.content
	}
	blocks := encodeBlocks(journalFormat, sequenceOf(j.number, j.index+1), encodeZones(zones))
	if j.file == nil || j.at+int64(len(blocks)) > j.end {
		old := []uint64{j.number}
		if j.file == nil {
			old = nil
		}
		return j.beginFile(old)
	}
	_, err := j.file.WriteAt(blocks, j.at)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", j.path(j.number), err)
	}
	j.at, j.index = j.at+int64(len(blocks)), j.index+1
	return nil
}

// beginFile begins the next file, with what the zones have now, and then removes older ones.
func (j *journal) beginFile(old []uint64) error {
	number := j.number + 1
	var state []zoneContent
	for _, zone := range slices.Sorted(maps.Keys(j.zones)) {
		state = append(state, zoneContent{zone, j.zones[zone]})
	}
	blocks := encodeBlocks(journalFormat, sequenceOf(number, 1), encodeZones(state))
	at := len(blocks)
	blocks = append(blocks, make([]byte, max(minRoom, at/roomShare/blockBytes*blockBytes))...)
	file, err := j.fs.Create(j.path(number))
	if err != nil {
		return fmt.Errorf("create %s: %w", j.path(number), err)
	}
	if _, err = file.WriteAt(blocks, 0); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", j.path(number), err), file.Close())
	}
	if err := j.close(); err != nil {
		return errors.Join(err, file.Close())
	}
	j.number, j.file, j.index, j.at, j.end = number, file, 1, int64(at), int64(len(blocks))
	for _, n := range old {
		if err := j.fs.Remove(j.path(n)); err != nil {
			return fmt.Errorf("remove %s: %w", j.path(n), err)
		}
	}
	return nil
}

// create stores several logs, each of a zone that has none.
func (j *journal) create(records []record) (logs []*Log, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	zones := make([]zoneContent, len(records))
	for i, r := range records {
		if err := r.valid(); err != nil {
			return nil, err
		}
		zones[i].zone = r.Zone
		if zones[i].content, err = r.encode(); err != nil {
			return nil, err
		}
		logs = append(logs, &Log{record: r})
	}
	return logs, j.put(zones)
}

// open returns the log of a zone; fs.ErrNotExist if there is none, and ErrCorrupt if it can't be read.
func (j *journal) open(zone nexusraft.ZoneID) (*Log, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	content, ok := j.zones[zone]
	if !ok {
		return nil, fmt.Errorf("open log of zone %v: %w", zone, fs.ErrNotExist)
	}
	r, err := decodeRecordOf(zone, content)
	if err != nil {
		return nil, fmt.Errorf("open log of zone %v: %s: %w", zone, j.path(j.number), err)
	}
	return &Log{record: r}, nil
}

// drop forgets zones that were deleted: the next file has them no more.
func (j *journal) drop(zones []nexusraft.ZoneID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, zone := range zones {
		delete(j.zones, zone)
	}
}

// bytes returns what the journal takes on disk.
func (j *journal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// Close gives back the file; what is put after that fails.
func (j *journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = cmp.Or(j.failed, nexusraft.ErrClosed)
	return j.close()
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
