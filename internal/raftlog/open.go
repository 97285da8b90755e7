package raftlog

import (
	"encoding/binary"
	"fmt"
	"math"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3/raftpb"
)

// Create stages a new replica into b, with an empty log. It is there once b is committed;
// then Open gives its Log.
//
// A founder passes the index and term that its log begins after, with a conf state; a
// joiner passes 0 and an empty conf state, and nil for hs. Since there are no entries,
// commit and applied are the compacted index. It returns ErrRefused if the tree has a
// record of the zone already.
func Create(
	b *storage.Batch, t *storage.Tree, zone nexusraft.ZoneID, m Meta, hs *raftpb.HardState, applied nexusraft.Index,
) error {
	for _, err := range t.Scan(zoneBounds(zone)) {
		if err != nil {
			return fmt.Errorf("zone %v: look for an older replica: %w", zone, err)
		}
		return fmt.Errorf("%w: zone %v has a replica here already", nexusraft.ErrRefused, zone)
	}
	l := newLog(t, zone, m, hs, applied)
	if err := l.valid(); err != nil {
		return l.wrap("create a replica", err)
	}
	if err := l.putMeta(b, m); err != nil {
		return err
	}
	if err := l.putHardState(b, hs); err != nil {
		return err
	}
	return l.putApplied(b, applied)
}

// Zones returns the zones that have records in t, ascending. One whose records don't fit
// together is listed too: Open says what is wrong with it.
func Zones(t *storage.Tree) ([]nexusraft.ZoneID, error) {
	var zones []nexusraft.ZoneID
	for start := []byte{}; ; {
		zone, ok, err := firstZone(t, start)
		if err != nil || !ok {
			return zones, err
		}
		zones = append(zones, zone)
		if zone == math.MaxUint64 {
			return zones, nil
		}
		_, start = zoneBounds(zone)
	}
}

// firstZone returns the zone of the first record from start on.
func firstZone(t *storage.Tree, start []byte) (nexusraft.ZoneID, bool, error) {
	for pair, err := range t.Scan(start, nil) {
		if err != nil {
			return 0, false, fmt.Errorf("list zones: %w", err)
		}
		if len(pair.Key) < recordKeyBytes {
			return 0, false, fmt.Errorf("list zones: %w: key %x in the raft tree names no zone", nexusraft.ErrCorrupt, pair.Key)
		}
		return nexusraft.ZoneID(binary.BigEndian.Uint64(pair.Key)), true, nil
	}
	return 0, false, nil
}

// Open reads the zone's replica and verifies that its records fit together: indexes without
// a gap, terms that never go down, compacted <= applied <= commit <= last index.
//
// It returns ErrZoneNotFound if there is no record of the zone, and ErrCorrupt, with what is
// wrong, if there are some but not all, or they contradict each other.
func Open(t *storage.Tree, zone nexusraft.ZoneID) (*Log, error) {
	ld := loader{tree: t, zone: zone}
	for pair, err := range t.Scan(zoneBounds(zone)) {
		if err != nil {
			return nil, fmt.Errorf("open zone %v: %w", zone, err)
		}
		if err := ld.load(pair); err != nil {
			return nil, fmt.Errorf("open zone %v: %w", zone, err)
		}
	}
	if ld.records == 0 {
		return nil, fmt.Errorf("open zone %v: %w", zone, nexusraft.ErrZoneNotFound)
	}
	if err := ld.begin(); err != nil {
		return nil, fmt.Errorf("open zone %v: %w", zone, err)
	}
	if err := ld.log.valid(); err != nil {
		return nil, fmt.Errorf("open zone %v: %w: %w", zone, nexusraft.ErrCorrupt, err)
	}
	return ld.log, nil
}

// loader puts a Log together from its records, which come in the order of their keys.
type loader struct {
	tree    *storage.Tree
	zone    nexusraft.ZoneID
	records int

	meta      *Meta
	hardState *raftpb.HardState
	applied   *nexusraft.Index
	log       *Log // nil until begin
}

func (ld *loader) load(pair nexusraft.Pair) error {
	ld.records++
	_, kind, index, err := parseKey(pair.Key)
	if err != nil {
		return err
	}
	switch kind {
	case kindMeta:
		m, err := decodeMeta(pair.Value)
		ld.meta = &m
		return err
	case kindHardState:
		ld.hardState, err = decodeHardState(pair.Value)
		return err
	case kindApplied:
		applied, err := decodeApplied(pair.Value)
		ld.applied = &applied
		return err
	}
	return ld.loadEntry(index, pair.Value)
}

// begin makes the Log, once all records are read that come before entries.
func (ld *loader) begin() error {
	if ld.meta == nil || ld.hardState == nil || ld.applied == nil {
		return fmt.Errorf("%w: of meta, hard state and applied index, one is missing", nexusraft.ErrCorrupt)
	}
	if ld.log == nil {
		ld.log = newLog(ld.tree, ld.zone, *ld.meta, ld.hardState, *ld.applied)
	}
	return nil
}

func (ld *loader) loadEntry(index nexusraft.Index, value []byte) error {
	if err := ld.begin(); err != nil {
		return err
	}
	e, err := decodeEntry(value, index)
	if err != nil {
		return err
	}
	o := &ld.log.outline
	if want := o.last() + 1; index != want {
		return fmt.Errorf("%w: entry %d where %d follows", nexusraft.ErrCorrupt, index, want)
	}
	if e.GetTerm() < uint64(o.lastTerm()) {
		return fmt.Errorf("%w: entry %d of term %d follows one of term %d", nexusraft.ErrCorrupt, index, e.GetTerm(),
			o.lastTerm())
	}
	o.append(nexusraft.Term(e.GetTerm()), len(value))
	return nil
}

// Drop stages that everything of a zone's replica is deleted from t, whatever is there; its state's tree is not.
// No Log of it may be used any more.
func Drop(b *storage.Batch, t *storage.Tree, zone nexusraft.ZoneID) error {
	start, end := zoneBounds(zone)
	if err := b.DeleteRange(t, start, end); err != nil {
		return fmt.Errorf("drop zone %v: %w", zone, err)
	}
	return nil
}
