package snapshot

import (
	"bytes"
	"encoding/binary"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Encoder yields a zone's state as bytes. It remembers where pairs begin, so that it need not
// read all of it again to go on in the middle. One goroutine at a time may use it.
type Encoder struct {
	reader nexusraft.Reader
	marks  []mark // ascending, markBytes apart at least
}

// mark says that the pair with this key begins at this offset.
type mark struct {
	offset uint64
	key    []byte
}

const (
	markBytes  = 8 << 20
	pieceBytes = 64 << 10 // what is gathered of small pairs; a large key or value goes by itself
)

// NewEncoder returns an Encoder of all that a reader has. The reader must see one moment of it.
func NewEncoder(r nexusraft.Reader) *Encoder { return &Encoder{reader: r} }

// From yields what follows the first offset bytes, in pieces that are not empty. A piece is valid until
// the next one. An error of the reader comes once and last.
func (e *Encoder) From(offset uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		at := e.before(offset)
		w := pieceWriter{yield: yield, skip: offset - at.offset}
		for p, err := range e.reader.Scan(at.key, nil) {
			if err != nil {
				yield(nil, err)
				return
			}
			e.mark(at.offset+w.offset, p.Key)
			if !w.part(p.Key) || !w.part(p.Value) {
				return
			}
		}
		w.flush()
	}
}

// before returns the last mark that is not beyond offset.
func (e *Encoder) before(offset uint64) mark {
	i := len(e.marks)
	for i > 0 && e.marks[i-1].offset > offset {
		i--
	}
	if i == 0 {
		return mark{}
	}
	return e.marks[i-1]
}

func (e *Encoder) mark(offset uint64, key []byte) {
	var last uint64
	if n := len(e.marks); n > 0 {
		last = e.marks[n-1].offset
	}
	if offset >= last+markBytes {
		e.marks = append(e.marks, mark{offset, bytes.Clone(key)})
	}
}

// pieceWriter yields parts, small ones together.
type pieceWriter struct {
	yield  func([]byte, error) bool
	skip   uint64 // bytes that are not to be yielded
	offset uint64 // bytes written, the skipped ones included
	buf    []byte
}

// part writes one length-prefixed part. It reports false if no more is wanted.
func (w *pieceWriter) part(b []byte) bool {
	n := len(w.buf)
	w.buf = binary.AppendUvarint(w.buf, uint64(len(b)))
	w.offset += uint64(len(w.buf)-n) + uint64(len(b))
	if len(b) >= pieceBytes {
		return w.flush() && w.put(b)
	}
	w.buf = append(w.buf, b...)
	return len(w.buf) < pieceBytes || w.flush()
}

func (w *pieceWriter) flush() bool {
	ok := w.put(w.buf)
	w.buf = w.buf[:0]
	return ok
}

func (w *pieceWriter) put(b []byte) bool {
	n := min(w.skip, uint64(len(b)))
	w.skip -= n
	return len(b[n:]) == 0 || w.yield(b[n:], nil)
}
