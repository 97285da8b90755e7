package node

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A snapshot's bytes give the same pairs however they are cut into chunks, or an error; and
// what is decoded encodes to what was read.
func FuzzStateDecoder(f *testing.F) {
	f.Add([]byte("\x01a\x02bc\x00\x00"), uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint8(3))
	f.Add([]byte("\x05ab"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole, rest, err := decodeState(data, len(data)+1)
		pieces, restOfPieces, errOfPieces := decodeState(data, int(size)+1)
		if (err == nil) != (errOfPieces == nil) || err == nil && rest != restOfPieces || !slices.EqualFunc(whole, pieces, samePair) {
			t.Errorf("%x: got %v, %d, %v at once and %v, %d, %v in chunks of %d", data, whole, rest, err, pieces, restOfPieces, errOfPieces, int(size)+1)
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
	var d stateDecoder
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

// Records of identities and peers are read or refused as corrupt.
func FuzzDecodeRecords(f *testing.F) {
	f.Add([]byte(`{"node":"01","cluster":"02","incarnation":3}`))
	f.Add([]byte(`{"incarnation":18446744073709551615,"address":"a:1"}`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && id.Node == 0 || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("identity %q: got %+v, %v; want a node or ErrCorrupt", b, id, err)
		}
		key := append([]byte(peerPrefix), b...)
		for _, p := range []nexusraft.Pair{{Key: peerKey(7), Value: b}, {Key: key, Value: []byte("{}")}} {
			if _, _, err := decodePeer(p); err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("peer %q: got %v, want ErrCorrupt", p, err)
			}
		}
	})
}
