package raftlog

import (
	"encoding/binary"
	"fmt"
	"math"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The kinds of record. They are part of the disk format, as is their order: what Open must
// know before it sees entries comes first.
const (
	kindMeta      byte = 1
	kindHardState byte = 2
	kindApplied   byte = 3
	kindEntry     byte = 16
)

const (
	recordKeyBytes = 9  // zone and kind
	entryKeyBytes  = 17 // zone, kind and index
)

// recordKey returns the key of a zone's only record of a kind; for entries, the prefix of
// them all.
func recordKey(zone nexusraft.ZoneID, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, entryKeyBytes), uint64(zone)), kind)
}

func entryKey(zone nexusraft.ZoneID, index nexusraft.Index) []byte {
	return binary.BigEndian.AppendUint64(recordKey(zone, kindEntry), uint64(index))
}

// zoneBounds returns the range of a zone's keys, whatever their kind. A nil end means the
// end of the tree.
func zoneBounds(zone nexusraft.ZoneID) (start, end []byte) {
	start = binary.BigEndian.AppendUint64(nil, uint64(zone))
	if zone < math.MaxUint64 {
		end = binary.BigEndian.AppendUint64(nil, uint64(zone)+1)
	}
	return start, end
}

// parseKey is the inverse of recordKey and entryKey; index is 0 for all but entries.
func parseKey(key []byte) (zone nexusraft.ZoneID, kind byte, index nexusraft.Index, err error) {
	if len(key) >= recordKeyBytes {
		zone, kind = nexusraft.ZoneID(binary.BigEndian.Uint64(key)), key[8]
	}
	switch {
	case len(key) == recordKeyBytes && (kind == kindMeta || kind == kindHardState || kind == kindApplied):
		return zone, kind, 0, nil
	case len(key) == entryKeyBytes && kind == kindEntry:
		return zone, kind, nexusraft.Index(binary.BigEndian.Uint64(key[recordKeyBytes:])), nil
	}
	return 0, 0, 0, fmt.Errorf("%w: key %x in the raft tree is none that this version writes", nexusraft.ErrCorrupt, key)
}
