package datadir

import (
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// StageZone stages a replica of a zone. If it is one of the zone's founders, it begins as one of its
// voters, with a state that has these pairs; all founders make the same, each for itself. Otherwise it
// begins with nothing, and waits for the zone's leader to admit it.
func (d *Dir) StageZone(
	b *storage.Batch, id nexusraft.ZoneID, self nexusraft.ReplicaID, founders []nexusraft.Member, begin ...nexusraft.Pair,
) error {
	state, err := d.Store.Tree(NewStateTreeName(id))
	if err != nil {
		return fmt.Errorf("make the state of zone %v: %w", id, err)
	}
	meta := raftlog.Meta{
		Replica: self, StateTree: state.Name(),
		Membership: nexusraft.Membership{Shape: nexusraft.DefaultShape, Members: founders},
	}
	if _, ok := meta.Membership.Replica(self); !ok {
		return raftlog.Create(b, d.Raft, id, meta, nil, 0)
	}
	for _, p := range begin {
		if err := b.Set(state, p.Key, p.Value); err != nil {
			return fmt.Errorf("begin the state of zone %v: %w", id, err)
		}
	}
	hs, cs := zone.FoundingState(meta.Membership)
	meta.Compacted, meta.CompactedTerm, meta.ConfState = zone.FoundingIndex, zone.FoundingTerm, cs
	return raftlog.Create(b, d.Raft, id, meta, hs, zone.FoundingIndex)
}

// DropZone stages that a zone's replica is gone, with its log and its state; one that is gone already
// is no error.
func (d *Dir) DropZone(b *storage.Batch, id nexusraft.ZoneID) error {
	log, err := raftlog.Open(d.Raft, id)
	if errors.Is(err, nexusraft.ErrZoneNotFound) {
		return nil
	}
	if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
		return fmt.Errorf("drop zone %v: %w", id, err)
	}
	if err == nil { // of a corrupt one the state's name is not known; the next opening drops it as an orphan
		state, ok, err := d.Store.OpenTree(log.Meta().StateTree)
		if err != nil {
			return fmt.Errorf("drop zone %v: %w", id, err)
		}
		if ok {
			if err := b.DropTree(state); err != nil {
				return fmt.Errorf("drop zone %v: %w", id, err)
			}
		}
	}
	return raftlog.Drop(b, d.Raft, id)
}
