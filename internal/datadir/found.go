package datadir

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Found founds a cluster in a directory that has no identity yet: it writes that, the root zone with
// this node as its only member, reached at address, and what the zone begins with, in one synced batch.
func (d *Dir) Found(id peering.Identity, address string, f authority.Founding) error {
	replica := nexusraft.ReplicaID(nexusraft.MintID())
	state, err := d.Store.Tree(NewStateTreeName(nexusraft.RootZone))
	if err != nil {
		return err
	}
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}.With(nexusraft.Member{
		Replica: replica, Node: id.Node, Name: id.Name, Address: address, Role: nexusraft.RoleMember,
	})
	hs, cs := zone.FoundingState(members)
	meta := raftlog.Meta{
		Replica: replica, StateTree: state.Name(),
		Compacted: zone.FoundingIndex, CompactedTerm: zone.FoundingTerm,
		ConfState: cs, Membership: members,
	}
	b := d.Store.NewBatch()
	defer b.Close()
	if err := raftlog.Create(b, d.Raft, nexusraft.RootZone, meta, hs, zone.FoundingIndex); err != nil {
		return err
	}
	if err := stageIdentity(b, d.node, storedIdentity{Identity: id}); err != nil {
		return err
	}
	for _, p := range f.State {
		if err := b.Set(state, p.Key, p.Value); err != nil {
			return err
		}
	}
	if err := stageCredentials(b, d.node, f.Credentials); err != nil {
		return err
	}
	return b.Commit(true)
}
