package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file is a list of blocks of 512 bytes, what a disk writes whole or not at all:
//
//	magic       8 bytes  "nexuswit"
//	version     4        of this format: firstFormat, slotsFormat or journalFormat
//	number      4        of the block, from 0
//	sequence    8        of the content
//	length      4        of the content, in bytes
//	content CRC 4        CRC-32C of the content
//	payload     476      the content's next bytes, zeros behind its end
//	block CRC   4        CRC-32C of the 508 bytes before
//
// Integers are big-endian. Because each block stands for itself, two kinds of damage can
// be told apart. A write that was cut off leaves intact blocks of two contents. Anything
// else is rot, and then the content that the file once held may have been acknowledged:
// falling back to the older one could take back a vote.
const (
	blockBytes   = 512
	blockHeader  = 32
	payloadBytes = blockBytes - blockHeader - 4

	// Format versions, which differ in nothing but in who reads them. Those of an identity say where the zones
	// besides the root zone are: there are none; each is in a slots of its own, as an earlier release has left
	// them; they are in the journal. A release that does not know a version refuses the directory: it would
	// forget votes.
	firstFormat   = 1
	slotsFormat   = 2
	journalFormat = 3

	// maxContentBytes bounds a content of slots, and a zone's record.
	maxContentBytes = 1 << 20
)

var (
	blockMagic = [8]byte{'n', 'e', 'x', 'u', 's', 'w', 'i', 't'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

var (
	errCutOff  = errors.New("a write was cut off")
	errDamaged = errors.New("checksums don't hold")
)

// stamp is what all blocks of one content have in common.
type stamp struct {
	format   uint32
	sequence uint64
	length   uint32
	crc      uint32
}

func blocksFor(length int) int { return max(1, (length+payloadBytes-1)/payloadBytes) }

// encodeBlocks returns the blocks of a content.
func encodeBlocks(format uint32, sequence uint64, content []byte) []byte {
	n := blocksFor(len(content))
	out := make([]byte, 0, n*blockBytes)
	crc := crc32.Checksum(content, castagnoli)
	rest := content
	for i := range n {
		at := len(out)
		out = append(out, blockMagic[:]...)
		out = binary.BigEndian.AppendUint32(out, format)
		out = binary.BigEndian.AppendUint32(out, uint32(i))
		out = binary.BigEndian.AppendUint64(out, sequence)
		out = binary.BigEndian.AppendUint32(out, uint32(len(content)))
		out = binary.BigEndian.AppendUint32(out, crc)
		part := rest[:min(payloadBytes, len(rest))]
		rest = rest[len(part):]
		out = append(out, part...)
		out = append(out, make([]byte, payloadBytes-len(part))...)
		out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out[at:], castagnoli))
	}
	return out
}

// readBlock returns a block's stamp and payload; ok is false if its checksum doesn't hold.
func readBlock(b []byte, number int) (s stamp, payload []byte, ok bool) {
	sum := binary.BigEndian.Uint32(b[blockBytes-4:])
	if [8]byte(b) != blockMagic || crc32.Checksum(b[:blockBytes-4], castagnoli) != sum ||
		binary.BigEndian.Uint32(b[12:]) != uint32(number) {
		return stamp{}, nil, false
	}
	s = stamp{
		binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint32(b[24:]),
		binary.BigEndian.Uint32(b[28:]),
	}
	return s, b[blockHeader : blockBytes-4], s.length <= maxJournalBytes
}

// formatOf returns the format version in a file's first block.
func formatOf(file []byte) uint32 { return binary.BigEndian.Uint32(file[8:]) }

// numberIn returns the number that a block has.
func numberIn(b []byte) int { return int(binary.BigEndian.Uint32(b[12:])) }

// decodeBlocks returns the content of a slot file and its sequence, which is that of the
// newest block where a write was cut off. The error is errCutOff, errDamaged or an unknown
// format version.
//
// Once a slot has been created its first block is intact for ever: it is the old one or
// the new one. Blocks behind it may also be missing, where the write made the file longer.
func decodeBlocks(file []byte) (sequence uint64, content []byte, err error) {
	if len(file) < blockBytes {
		return 0, nil, errDamaged
	}
	if v := formatOf(file); [8]byte(file) == blockMagic && (v < firstFormat || v > journalFormat) {
		return 0, nil, fmt.Errorf("its format version is %d, this program knows %d to %d", v, firstFormat, journalFormat)
	}
	first, _, ok := readBlock(file, 0)
	if !ok {
		return 0, nil, errDamaged
	}
	content, complete := gather(file, first)
	if complete {
		return first.sequence, content, nil
	}
	newest, err := newestOf(file)
	return newest, nil, err
}

// gather puts the content of a stamp together; complete is false if a block is missing.
func gather(file []byte, want stamp) (content []byte, complete bool) {
	n := blocksFor(int(want.length))
	if len(file) < n*blockBytes {
		return nil, false
	}
	content = make([]byte, 0, n*payloadBytes)
	for i := range n {
		s, payload, ok := readBlock(file[i*blockBytes:][:blockBytes], i)
		if !ok || s != want {
			return nil, false
		}
		content = append(content, payload...)
	}
	content = content[:want.length]
	return content, crc32.Checksum(content, castagnoli) == want.crc
}

// newestOf returns errCutOff and the highest sequence if all blocks are intact or were
// never written, and errDamaged otherwise.
func newestOf(file []byte) (uint64, error) {
	var newest uint64
	for i := range len(file) / blockBytes {
		b := file[i*blockBytes:][:blockBytes]
		if [blockBytes]byte(b) == ([blockBytes]byte{}) {
			continue
		}
		s, _, ok := readBlock(b, i)
		if !ok {
			return 0, errDamaged
		}
		newest = max(newest, s.sequence)
	}
	return newest, errCutOff
}
