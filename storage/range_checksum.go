package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// Checksum tells what a range holds apart from anything else: it is the SHA-256 of its pairs in
// ascending order, each as the lengths of key and value, 8 bytes big-endian each, and then both.
type Checksum [sha256.Size]byte

// String is the checksum in hexadecimal.
func (c Checksum) String() string { return hex.EncodeToString(c[:]) }

// Checksum reads the keys with start <= key < end, a nil end being the tree's end, and returns
// their checksum. Ranges with the same pairs have the same, whatever came and went before, in any
// store; an empty one has that of no bytes.
func (v view) Checksum(start, end []byte) (Checksum, error) {
	sum := newSummer()
	for p, err := range v.Scan(start, end) {
		if err != nil {
			return Checksum{}, err
		}
		sum.add(p.Key, p.Value)
	}
	return sum.checksum(), nil
}

// summer makes the checksum of a list of pairs.
type summer struct{ hash.Hash }

func newSummer() summer { return summer{sha256.New()} }

func (s summer) add(key, value []byte) {
	var lengths [16]byte
	binary.BigEndian.PutUint64(lengths[:8], uint64(len(key)))
	binary.BigEndian.PutUint64(lengths[8:], uint64(len(value)))
	s.Write(lengths[:])
	s.Write(key)
	s.Write(value)
}

func (s summer) checksum() (c Checksum) {
	s.Sum(c[:0])
	return c
}
