package storage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Import reads an export to its end and adds its trees, all of them at once and on the disk, or, if
// it returns an error, none. Trees that the store has, the default tree too, must be empty, or
// Import returns nexusraft.ErrRefused; so it does for an export of another version. For a damaged
// or truncated export it returns nexusraft.ErrCorrupt with the offset in bytes. Nothing may follow
// the export in r.
//
// Other trees may be written meanwhile; writers wait for the moment in which the new trees appear.
// Watches of trees that were there end with ErrLagged. Until then the pairs are in files of their
// own in the store's directory; Open removes what a crash has left of them.
//
// It looks at ctx and the end of the store after each MiB, not while it waits for r. Other errors
// are r's, nexusraft.ErrDiskFull, and those of Batch.Commit: after nexusraft.ErrClosed for a store
// that has died, everything may have been imported, or nothing.
func (s *Store) Import(ctx context.Context, r io.Reader) (ExportStats, error) {
	stats, err := s.importAll(ctx, r)
	if err != nil {
		return ExportStats{}, fmt.Errorf("import into store %s: %w", s.dir, err)
	}
	return stats, nil
}

func (s *Store) importAll(ctx context.Context, r io.Reader) (ExportStats, error) {
	if err := s.enter(); err != nil {
		return ExportStats{}, err
	}
	defer s.calls.exit()
	if s.options.ReadOnly {
		return ExportStats{}, fmt.Errorf("%w: it was opened with Options.ReadOnly", nexusraft.ErrRefused)
	}
	im := &importer{in: frameReader{r: bufio.NewReader(r), sum: sha256.New()}, to: s.newIngest()}
	defer im.to.discard()
	if err := im.in.header(); err != nil {
		return ExportStats{}, err
	}
	for ended := false; !ended; {
		if err := s.goesOn(ctx); err != nil {
			return ExportStats{}, err
		}
		var err error
		if ended, err = im.frame(); err != nil {
			return ExportStats{}, err
		}
	}
	return im.stats, im.to.publish(ctx)
}

// importer checks what is in an export, and hands it on.
type importer struct {
	in      frameReader
	to      *ingest
	name    string  // of the last tree
	lastKey []byte  // in it, nil if it has none yet
	pairs   []int64 // of each tree
	stats   ExportStats
}

// frame takes one frame over, and reports whether it was the last one.
func (im *importer) frame() (ended bool, err error) {
	kind, payload, err := im.in.next()
	if err != nil {
		return false, err
	}
	switch kind {
	case frameTree:
		return false, im.beginTree(string(payload))
	case framePairs:
		return false, im.takePairs(payload)
	case frameEnd:
		return true, im.in.end(payload, im.pairs)
	default:
		return false, im.in.damaged("a frame of the unknown kind %d", kind)
	}
}

func (im *importer) beginTree(name string) error {
	if first := len(im.pairs) == 0; !first && name <= im.name || (name != "" && validName(name) != nil) {
		return im.in.damaged("tree %q can't follow tree %q", name, im.name)
	}
	im.name, im.lastKey = name, nil
	im.pairs = append(im.pairs, 0)
	im.stats.Trees++
	return im.to.begin(name)
}

func (im *importer) takePairs(payload []byte) error {
	if len(im.pairs) == 0 {
		return im.in.damaged("pairs before the first tree")
	}
	if err := im.to.s.reserve.room(len(payload)); err != nil {
		return err
	}
	defer im.to.s.reserve.done(len(payload))
	last := im.lastKey
	for len(payload) > 0 {
		p, rest, ok := cutPair(payload)
		if !ok || last != nil && bytes.Compare(p.Key, last) <= 0 {
			return im.in.damaged("pair %d of tree %q is none or in the wrong place", im.stats.Pairs, im.name)
		}
		if err := im.to.set(p.Key, p.Value); err != nil {
			return err
		}
		im.pairs[len(im.pairs)-1]++
		im.stats.Pairs++
		im.stats.Bytes += int64(len(p.Key) + len(p.Value))
		payload, last = rest, p.Key
	}
	im.lastKey = slices.Clone(last)
	return nil
}

// cutPair returns the first pair of a payload and what follows it. The pair is a part of the
// payload.
func cutPair(b []byte) (p nexusraft.Pair, rest []byte, ok bool) {
	key, n := binary.Uvarint(b)
	if n <= 0 {
		return p, nil, false
	}
	value, m := binary.Uvarint(b[n:])
	if m <= 0 {
		return p, nil, false
	}
	b = b[n+m:]
	if key > MaxKeyBytes || value > MaxValueBytes || key+value > uint64(len(b)) {
		return p, nil, false
	}
	return nexusraft.Pair{Key: b[:key:key], Value: b[key : key+value]}, b[key+value:], true
}

// frameReader reads the frames of an export. What it returns has passed its check.
type frameReader struct {
	r      io.Reader
	offset int64     // of what is read next
	begin  int64     // where the header or frame that was read last begins
	sum    hash.Hash // of all before it
	buf    bytes.Buffer
}

func (f *frameReader) header() error {
	b, err := f.read(int64(headerBytes))
	if err != nil {
		return err
	}
	f.sum.Write(b)
	check := binary.BigEndian.Uint32(b[headerBytes-checkBytes:])
	if !bytes.HasPrefix(b, []byte(exportMagic)) || check != crc32.Checksum(b[:headerBytes-checkBytes], castagnoli) {
		return f.damaged("this is not the beginning of an export")
	}
	if version := binary.BigEndian.Uint32(b[len(exportMagic):]); version != exportVersion {
		return fmt.Errorf("%w: the export is of version %d, this release reads version %d; use one that reads it",
			nexusraft.ErrRefused, version, exportVersion)
	}
	return nil
}

// next reads a frame. The payload is borrowed until the next call.
func (f *frameReader) next() (kind byte, payload []byte, err error) {
	f.begin = f.offset
	b, err := f.read(frameHeaderBytes)
	if err != nil {
		return 0, nil, err
	}
	header := [frameHeaderBytes]byte(b)
	length, check := binary.BigEndian.Uint32(header[1:]), binary.BigEndian.Uint32(header[5:])
	if length > maxFrame {
		return 0, nil, f.damaged("a frame of %d bytes, limit %d", length, maxFrame)
	}
	if payload, err = f.read(int64(length)); err != nil {
		return 0, nil, err
	}
	if frameCheck(header[:5], payload) != check {
		return 0, nil, f.damaged("a frame whose checksum is wrong")
	}
	if kind = header[0]; kind != frameEnd {
		f.sum.Write(header[:])
		f.sum.Write(payload)
	}
	return kind, payload, nil
}

// end compares the last frame with what was read, and makes sure that nothing follows.
func (f *frameReader) end(payload []byte, pairs []int64) error {
	if want := f.sum.Sum(appendCounts(nil, pairs)); !bytes.Equal(payload, want) {
		return f.damaged("the frames before the last are not all that were written")
	}
	switch _, err := io.ReadFull(f.r, make([]byte, 1)); {
	case err == nil:
		f.begin = f.offset
		return f.damaged("there is more after the end")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return f.failed(err)
	}
}

// read returns the next n bytes, borrowed until the next call. It takes memory only as the bytes
// come in.
func (f *frameReader) read(n int64) ([]byte, error) {
	f.buf.Reset()
	got, err := io.CopyN(&f.buf, f.r, n)
	f.offset += got
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: the export is cut off at byte %d", nexusraft.ErrCorrupt, f.offset)
	case err != nil:
		return nil, f.failed(err)
	}
	return f.buf.Bytes(), nil
}

func (f *frameReader) failed(err error) error {
	return fmt.Errorf("read the export at byte %d: %w", f.offset, err)
}

// damaged is the error of what begins at begin.
func (f *frameReader) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: byte %d of the export: %s", nexusraft.ErrCorrupt, f.begin, fmt.Sprintf(format, args...))
}
