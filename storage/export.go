package storage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The format of an export, which depends neither on the machine nor on the engine. Integers are
// big-endian, and varints those of encoding/binary.
//
//	export = header frame...
//	header = "nexusraft-export" version(4 bytes) check(4)
//	frame  = kind(1) length(4) check(4) payload(length)
//
// A check is the CRC-32C of all of its header or frame but itself. The kinds of frames are:
//
//   - 1, tree: the payload is a tree's name. The default tree, which has the empty one, is the first,
//     the others follow in ascending order.
//   - 2, pairs of the last tree, in ascending order of the keys over all its frames. Each is the
//     length of the key and that of the value, varints, and then both. A frame is closed by the pair
//     that fills the first MiB of its payload.
//   - 3, end: the number of trees and then that of the pairs of each, varints, and the SHA-256 of all
//     that is before this frame. Nothing follows.
const (
	exportMagic   = "nexusraft-export"
	exportVersion = 1

	headerBytes      = len(exportMagic) + 4 + checkBytes
	frameHeaderBytes = 1 + 4 + checkBytes
	checkBytes       = 4

	frameTree  = 1
	framePairs = 2
	frameEnd   = 3

	// fullFrame is the length at which a payload of pairs is long enough.
	fullFrame = 1 << 20

	// maxFrame is more than any payload has: a frame that is not full yet, and one more pair.
	maxFrame = fullFrame + 2*binary.MaxVarintLen64 + MaxKeyBytes + MaxValueBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ExportStats says what an export or import has moved.
type ExportStats struct {
	Trees int64 // with the default tree
	Pairs int64
	Bytes int64 // of the keys and values
}

// Export writes the named trees, with all their pairs, to w: a stream with checksums that Import of
// any machine reads. Without names it writes all trees; the default tree's name is empty. It
// returns nexusraft.ErrRefused, before anything is written, if the snapshot has no tree of a name.
//
// It holds about a MiB in memory, or the largest pair, and looks at ctx and the end of the store
// after each MiB. No Import takes what a failed Export has written for a whole one.
func (x *Snapshot) Export(ctx context.Context, w io.Writer, trees ...string) (ExportStats, error) {
	stats, err := x.export(ctx, w, trees)
	if err != nil {
		return ExportStats{}, fmt.Errorf("export from store %s: %w", x.s.dir, err)
	}
	return stats, nil
}

func (x *Snapshot) export(ctx context.Context, w io.Writer, names []string) (ExportStats, error) {
	views, err := x.choose(names)
	if err != nil {
		return ExportStats{}, err
	}
	e := &exporter{w: w, sum: sha256.New(), frame: make([]byte, frameHeaderBytes)}
	if err := e.header(); err != nil {
		return ExportStats{}, err
	}
	for _, v := range views {
		if err := e.tree(ctx, v); err != nil {
			return ExportStats{}, fmt.Errorf("tree %q: %w", v.name, err)
		}
	}
	return e.stats, e.end()
}

// choose returns views of the trees with the names, of all if there are none, in their order in
// an export.
func (x *Snapshot) choose(names []string) ([]*TreeView, error) {
	all, err := x.trees()
	if err != nil || len(names) == 0 {
		return all, err
	}
	wanted := make(map[string]bool)
	for _, name := range names {
		wanted[name] = true
	}
	var chosen []*TreeView
	for _, v := range all {
		if wanted[v.name] {
			chosen = append(chosen, v)
			delete(wanted, v.name)
		}
	}
	for name := range wanted {
		return nil, fmt.Errorf("%w: there is no tree %q; give names that Trees returns, or none for all",
			nexusraft.ErrRefused, name)
	}
	return chosen, nil
}

// exporter writes an export.
type exporter struct {
	w     io.Writer
	sum   hash.Hash // of all that was written
	frame []byte    // the next one: room for its header, and payload
	pairs []int64   // of each tree
	stats ExportStats
}

func (e *exporter) header() error {
	b := binary.BigEndian.AppendUint32([]byte(exportMagic), exportVersion)
	return e.write(binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)))
}

func (e *exporter) tree(ctx context.Context, v *TreeView) error {
	e.frame = append(e.frame, v.name...)
	if err := e.flush(frameTree); err != nil {
		return err
	}
	n := int64(0)
	for p, err := range v.Scan(nil, nil) {
		if err != nil {
			return err
		}
		n++
		e.add(p)
		if len(e.frame) < frameHeaderBytes+fullFrame {
			continue
		}
		if err := v.s.goesOn(ctx); err != nil {
			return err
		}
		if err := e.flush(framePairs); err != nil {
			return err
		}
	}
	e.pairs = append(e.pairs, n)
	e.stats.Trees++
	e.stats.Pairs += n
	if err := v.s.goesOn(ctx); err != nil || len(e.frame) == frameHeaderBytes {
		return err
	}
	return e.flush(framePairs)
}

func (e *exporter) add(p nexusraft.Pair) {
	e.stats.Bytes += int64(len(p.Key) + len(p.Value))
	e.frame = binary.AppendUvarint(e.frame, uint64(len(p.Key)))
	e.frame = binary.AppendUvarint(e.frame, uint64(len(p.Value)))
	e.frame = append(e.frame, p.Key...)
	e.frame = append(e.frame, p.Value...)
}

func (e *exporter) end() error {
	e.frame = appendCounts(e.frame, e.pairs)
	e.frame = e.sum.Sum(e.frame)
	return e.flush(frameEnd)
}

// appendCounts appends the payload of the last frame up to its checksum.
func appendCounts(b []byte, pairs []int64) []byte {
	b = binary.AppendUvarint(b, uint64(len(pairs)))
	for _, n := range pairs {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

// flush writes the frame, and begins the next one.
func (e *exporter) flush(kind byte) error {
	f := e.frame
	e.frame = f[:frameHeaderBytes]
	f[0] = kind
	binary.BigEndian.PutUint32(f[1:], uint32(len(f)-frameHeaderBytes))
	binary.BigEndian.PutUint32(f[5:], frameCheck(f[:5], f[frameHeaderBytes:]))
	return e.write(f)
}

// frameCheck is the check of a frame with this beginning, its kind and length.
func frameCheck(beginning, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(beginning, castagnoli), castagnoli, payload)
}

func (e *exporter) write(b []byte) error {
	e.sum.Write(b)
	if _, err := e.w.Write(b); err != nil {
		return fmt.Errorf("write the stream: %w", err)
	}
	return nil
}

// goesOn returns why a long call has to end: ctx has, or the store is closed or dead.
func (s *Store) goesOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.alive()
}
