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
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// journal keeps the records of the zones besides the root zone on disk, all of them in one file, so that a round
// writes and syncs once, however many zones have something to store.
//
// There are two files, zones.a and zones.b, of which one is in use. It is a list of contents in blocks (blocks.go).
// The first one is the state, which has every zone's record; each further one has those records that a write has
// replaced. A write that finds no room begins the other file, with a state that includes it, and when that is
// on the disk the other file is the one in use. So the size goes by the number of zones, not by that of writes; both
// files have their size at once, and a full disk takes votes as long as no zones are made.
//
// Each beginning has a number, which all blocks bear: blocks of a lower number are what is left of the file's
// last use, and count as never written. At open that file counts whose number is highest and whose state is
// whole. One whose state is not was being begun at a crash: nothing in it was acknowledged, and the other one
// is as it was. Of the last write the blocks may be there in part, and then it was not acknowledged either.
// Whatever else does not fit is ErrCorrupt, as in slots: to pass over it could take back a vote. After a write that was
// cut off the other file is begun, so nothing is ever written behind such a write.
//
// A content begins at a multiple of pageBytes, so that no write touches what an earlier one of the file has stored,
// also where a disk writes more than a block at once.
//
// Its methods may be called from many goroutines. After an error it must not be used again (I9).
type journal struct {
	fs  FS
	dir string

	mu      sync.Mutex // guards what follows
	zones   map[nexusraft.ZoneID][]byte
	highest uint64   // number that there ever was; 0: none
	sizes   [2]int64 // of both files
	used    int      // the file in use
	file    File     // it; nil until the first write
	number  uint64   // its
	index   uint32   // of the last content in it
	at      int64    // where the next one begins
	failed  error
}

const (
	pageBytes = 4096

	// A file has room for a quarter of its state, and for minRoom at least: at most five times what is to be
	// stored is written.
	minRoom   = 128 << 10
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

// sequenceOf is what the blocks of a content bear: the number of its file's beginning, and which content it is, from
// 1 on.
func sequenceOf(number uint64, index uint32) uint64 { return number<<32 | uint64(index) }

func numberOf(sequence uint64) uint64 { return sequence >> 32 }

// pages returns a length rounded up to whole pages.
func pages(n int) int { return (n + pageBytes - 1) / pageBytes * pageBytes }

// journalFile is what is in a file.
type journalFile struct {
	missing bool
	bytes   int64
	number  uint64 // 0: nothing was ever written
	whole   bool   // its state is
	ends    bool   // no write was cut off behind its last content
	index   uint32 // of the last content
	at      int64  // where the next one begins
	zones   map[nexusraft.ZoneID][]byte
}

// readJournal reads a file. The error says what does not fit.
func readJournal(file []byte) (f journalFile, err error) {
	f = journalFile{bytes: int64(len(file)), zones: make(map[nexusraft.ZoneID][]byte)}
	file = file[:len(file)/blockBytes*blockBytes] // a last piece that is none was never synced
	if f.number, err = highestNumber(file); err != nil {
		return journalFile{}, err
	}
	index, at := uint32(1), 0
	for ; at < len(file); index++ {
		first, _, ok := readBlock(file[at:], 0)
		if !ok || first.sequence != sequenceOf(f.number, index) {
			break
		}
		content, complete := gather(file[at:], first)
		if !complete {
			break
		}
		if err := decodeZones(content, f.zones); err != nil {
			return journalFile{}, fmt.Errorf("content %d: %w", index, err)
		}
		at = pages(at + blocksFor(len(content))*blockBytes)
	}
	if f.ends, err = cutOff(file[min(at, len(file)):], f.number, index); err != nil {
		return journalFile{}, fmt.Errorf("content %d: %w", index, err)
	}
	f.whole, f.index, f.at = index > 1, index-1, int64(at)
	return f, nil
}

// highestNumber returns the highest number that a file's blocks have; an error where one is damaged.
func highestNumber(file []byte) (highest uint64, err error) {
	for ; len(file) > 0; file = file[blockBytes:] {
		b := file[:blockBytes]
		s, _, ok := readBlock(b, numberIn(b))
		switch {
		case !ok && [blockBytes]byte(b) == [blockBytes]byte{}:
			continue
		case !ok:
			return 0, errDamaged
		case s.format != journalFormat:
			return 0, fmt.Errorf("its format version is %d, this program knows %d", s.format, journalFormat)
		}
		highest = max(highest, numberOf(s.sequence))
	}
	return highest, nil
}

// cutOff reports whether nothing follows a file's last content but blocks of lower numbers. It returns an error
// unless all others are blocks of the next content, in their places.
func cutOff(rest []byte, number uint64, index uint32) (ends bool, err error) {
	ends = true
	for i := 0; len(rest) > 0; i++ {
		b := rest[:blockBytes]
		rest = rest[blockBytes:]
		s, _, written := readBlock(b, numberIn(b))
		switch {
		case !written || numberOf(s.sequence) != number:
		case s.sequence != sequenceOf(number, index) || numberIn(b) != i:
			return false, fmt.Errorf("block %d of content %d follows: %w", numberIn(b), uint32(s.sequence), errDamaged)
		default:
			ends = false
		}
	}
	return ends, nil
}

// openJournal opens the journal in dir as it was last synced, with those of its zones that keep names, which
// ascends. imported, if not nil, counts in place of what its files say. Where there is nothing of either
// nothing is written.
func openJournal(
	f FS, dir string, keep []nexusraft.ZoneID, imported map[nexusraft.ZoneID][]byte,
) (*journal, error) {
	j := &journal{fs: f, dir: dir, zones: imported, used: 1} // zones.a is the first one
	files, err := j.files()
	if err != nil {
		return nil, err
	}
	if !files[0].missing || !files[1].missing {
		if err := f.SyncDir(dir); err != nil { // the process that made them may have died before
			return nil, fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	goesOn := false
	switch a, b := files[0], files[1]; {
	case imported != nil:
	case !a.whole && b.missing: // the first beginning was cut off, or there was none
		return j.startOver(a)
	default:
		if goesOn, err = j.choose(files); err != nil {
			return nil, err
		}
	}
	for zone := range j.zones {
		if _, kept := slices.BinarySearch(keep, zone); !kept {
			delete(j.zones, zone) // it was deleted, or its creation was cut off
		}
	}
	if goesOn {
		return j, j.goOn(files[j.used])
	}
	return j, j.begin()
}

// startOver makes the journal one in which nothing was ever stored.
func (j *journal) startOver(a journalFile) (*journal, error) {
	j.zones, j.highest, j.sizes = make(map[nexusraft.ZoneID][]byte), 0, [2]int64{}
	if a.missing {
		return j, nil
	}
	if err := j.fs.Remove(j.path(0)); err != nil {
		return nil, fmt.Errorf("remove %s: %w", j.path(0), err)
	}
	return j, nil
}

// goOn opens the file in use, and syncs it: the process that wrote it may have died before its sync, and
// what is believed from now on must not be lost. Nothing is written, so that the journal opens on a full disk.
func (j *journal) goOn(f journalFile) error {
	name := j.path(j.used)
	file, err := j.fs.Open(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", name, err), file.Close())
	}
	j.file, j.number, j.index, j.at = file, f.number, f.index, f.at
	return nil
}

// files reads both files.
func (j *journal) files() (files [2]journalFile, err error) {
	for i := range files {
		b, err := readFile(j.fs, j.path(i), maxJournalBytes)
		if isMissing(err) {
			files[i].missing = true
			continue
		}
		if err != nil {
			return files, fmt.Errorf("read %s: %w", j.path(i), err)
		}
		if files[i], err = readJournal(b); err != nil {
			return files, fmt.Errorf("%w: %s: %w", nexusraft.ErrCorrupt, j.path(i), err)
		}
		j.sizes[i] = files[i].bytes
		j.highest = max(j.highest, files[i].number)
	}
	return files, nil
}

// choose makes that of the files count which is the newest whole one, and reports whether that goes on. Nothing is
// stored before both files are there: where one of them is missing later, nobody knows what it had.
func (j *journal) choose(files [2]journalFile) (goesOn bool, err error) {
	a, b := files[0], files[1]
	switch {
	case a.missing || b.missing && a.number > 1:
		gone := 0
		if b.missing {
			gone = 1
		}
		return false, fmt.Errorf("%w: %s is gone", nexusraft.ErrCorrupt, j.path(gone))
	case !a.whole && !b.whole:
		return false, fmt.Errorf("%w: neither %s nor %s has a whole state", nexusraft.ErrCorrupt, j.path(0), j.path(1))
	}
	if a.whole && (!b.whole || a.number > b.number) {
		j.used = 0
	}
	newest := files[j.used]
	j.zones = newest.zones
	return newest.ends && !b.missing, nil
}

func (j *journal) path(file int) string {
	return filepath.Join(j.dir, [2]string{"zones.a", "zones.b"}[file])
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
	if j.file == nil {
		return j.begin()
	}
	blocks := encodeBlocks(journalFormat, sequenceOf(j.number, j.index+1), encodeZones(zones))
	if j.at+int64(len(blocks)) > j.sizes[j.used] {
		return j.begin()
	}
	_, err := j.file.WriteAt(blocks, j.at)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", j.path(j.used), err)
	}
	j.at, j.index = int64(pages(int(j.at)+len(blocks))), j.index+1
	return nil
}

// begin begins the other file, with what the zones have now. Where that makes it larger, the one in use until then
// follows, so that there is room for the next beginning.
func (j *journal) begin() error {
	var state []zoneContent
	for _, zone := range slices.Sorted(maps.Keys(j.zones)) {
		state = append(state, zoneContent{zone, j.zones[zone]})
	}
	encoded := encodeZones(state)
	at := pages(blocksFor(len(encoded)) * blockBytes)
	size := int64(at + max(minRoom, pages(at/roomShare)))
	if size > maxJournalBytes {
		return fmt.Errorf("%w: the state of %d zones takes %d bytes on the disk, limit %d", nexusraft.ErrTooLarge,
			len(j.zones), size, maxJournalBytes)
	}
	err := j.beginOther(encoded, size)
	if err == nil && j.sizes[1-j.used] < size {
		err = j.beginOther(encoded, size)
	}
	return err
}

// beginOther begins the other file with a state, and makes it so large at least.
func (j *journal) beginOther(state []byte, size int64) error {
	other, number := 1-j.used, j.highest+1
	blocks := encodeBlocks(journalFormat, sequenceOf(number, 1), state)
	file, err := j.fs.Create(j.path(other))
	if err != nil {
		return fmt.Errorf("open %s: %w", j.path(other), err)
	}
	if grow := size - j.sizes[other]; grow > 0 {
		_, err = file.WriteAt(make([]byte, grow), j.sizes[other])
	}
	if err == nil {
		_, err = file.WriteAt(blocks, 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil && j.sizes[other] == 0 {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", j.path(other), err), file.Close())
	}
	if err := j.close(); err != nil {
		return errors.Join(err, file.Close())
	}
	j.highest, j.used, j.file = number, other, file
	j.number, j.index, j.at = number, 1, int64(pages(len(blocks)))
	j.sizes[other] = max(j.sizes[other], size)
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
		if zones[i].content, err = r.compactForm(); err != nil {
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
		return nil, fmt.Errorf("open log of zone %v: %s: %w", zone, j.path(j.used), err)
	}
	return &Log{record: r}, nil
}

// drop forgets zones that were deleted: the next beginning has them no more.
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
	return j.sizes[0] + j.sizes[1]
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
