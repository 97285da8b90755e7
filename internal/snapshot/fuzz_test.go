package snapshot

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A snapshot's bytes give the same pairs however they are cut into chunks, or an error; and
// what is decoded encodes to what was read.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\x01a\x02bc\x00\x00"), uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint8(3))
	f.Add([]byte("\x05ab"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole, rest, err := decodeState(data, len(data)+1)
		pieces, restOfPieces, errOfPieces := decodeState(data, int(size)+1)
		if (err == nil) != (errOfPieces == nil) || err == nil && rest != restOfPieces ||
			!slices.EqualFunc(whole, pieces, samePair) {
			t.Errorf("%x: got %v, %d, %v at once and %v, %d, %v in chunks of %d", data, whole, rest, err, pieces, restOfPieces,
				errOfPieces, int(size)+1)
		}
		if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%x: got %v, want ErrCorrupt", data, err)
		}
	})
}

func samePair(a, b nexusraft.Pair) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value)
}

// decodeState decodes in chunks, and returns how many bytes are left over.
func decodeState(data []byte, size int) (pairs []nexusraft.Pair, left int, err error) {
	var d decoder
	for chunk := range slices.Chunk(data, size) {
		d.add(chunk)
		for {
			p, ok, err := d.next()
			if err != nil {
				return pairs, 0, err
			}
			if !ok {
				break
			}
			pairs = append(pairs, nexusraft.Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
		}
	}
	return pairs, len(d.rest), nil
}
