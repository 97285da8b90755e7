package snapshot

import (
	"encoding/binary"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// maxPartBytes bounds a key or a value.
const maxPartBytes = 64 << 20

// decoder puts chunks back together into pairs.
type decoder struct {
	rest []byte // what is not decoded yet, at the end of buf
	buf  []byte
}

// next returns the next pair, or ok false if more bytes are needed. The slices are valid
// until the next call of add.
func (d *decoder) next() (p nexusraft.Pair, ok bool, err error) {
	key, n, err := part(d.rest)
	if n == 0 || err != nil {
		return p, false, err
	}
	value, m, err := part(d.rest[n:])
	if m == 0 || err != nil {
		return p, false, err
	}
	d.rest = d.rest[n+m:]
	return nexusraft.Pair{Key: key, Value: value}, true, nil
}

// add appends a chunk. What is left of the ones before is moved to the front, if anything was
// decoded, so that the buffer holds one pair and one chunk at most.
func (d *decoder) add(chunk []byte) {
	if len(d.rest) < len(d.buf) {
		d.buf = d.buf[:copy(d.buf, d.rest)]
	}
	if room := cap(d.buf) - len(d.buf); room < len(chunk) {
		d.buf = slices.Grow(d.buf, max(len(chunk), len(d.buf))) // doubled: append grows large slices by a quarter
	}
	d.buf = append(d.buf, chunk...)
	d.rest = d.buf
}

// part returns one length-prefixed part and how many bytes it takes; 0 if it is cut off.
func part(b []byte) (data []byte, n int, err error) {
	size, n := binary.Uvarint(b)
	switch {
	case n < 0 || size > maxPartBytes:
		return nil, 0, fmt.Errorf("%w: snapshot has a key or value over %d bytes", nexusraft.ErrCorrupt, maxPartBytes)
	case n == 0 || uint64(len(b)-n) < size:
		return nil, 0, nil
	}
	return b[n : n+int(size)], n + int(size), nil
}
