package datadir

import (
	"errors"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
)

// The names of the store's trees. State trees are named by NewStateTreeName.
const (
	nodeTree    = "node"
	raftTree    = "raft"
	statePrefix = "zone/"
)

// Dir is an open data directory. Its methods may be called from many goroutines.
type Dir struct {
	Store *storage.Store
	Raft  *storage.Tree // the logs of all zones, see internal/raftlog
	node  *storage.Tree // the node's records

	Entries *raftlog.Memory // of the logs of all zones that run
}

// maxEntryBytes bounds the newest log entries of all zones that are kept in memory.
const maxEntryBytes = 64 << 20

// Open opens a data directory, or makes one. Errors are those of storage.Open. Close must follow.
func Open(path string, o *storage.Options) (_ *Dir, err error) {
	d := &Dir{Entries: raftlog.NewMemory(maxEntryBytes)}
	if d.Store, err = storage.Open(path, o); err != nil {
		return nil, err
	}
	if d.node, err = d.Store.Tree(nodeTree); err != nil {
		return nil, errors.Join(fmt.Errorf("open tree %s: %w", nodeTree, err), d.Store.Close())
	}
	if d.Raft, err = d.Store.Tree(raftTree); err != nil {
		return nil, errors.Join(fmt.Errorf("open tree %s: %w", raftTree, err), d.Store.Close())
	}
	return d, nil
}

// Close closes the store.
func (d *Dir) Close() error { return d.Store.Close() }

// witnessFile is in every data directory of a witness.
const witnessFile = "witness.lock"

// Exists refuses a data directory that holds something else than a store, before anything
// in it is touched, and reports whether it holds a store.
func Exists(path string, o *storage.Options) (exists bool, err error) {
	exists, err = storage.Exists(path, o)
	if foreign, ok := errors.AsType[*storage.ForeignError](err); ok && slices.Contains(foreign.Names, witnessFile) {
		return false, fmt.Errorf("%w: %s holds a witness: give it to nexus-witness, and this node a directory of its own",
			nexusraft.ErrRefused, path)
	}
	return exists, err
}

// Removed reports whether the root zone's records, as they are here, say that a node was removed.
func (d *Dir) Removed(node nexusraft.NodeID) (bool, error) {
	zones, err := raftlog.Zones(d.Raft)
	if err != nil || !slices.Contains(zones, nexusraft.RootZone) {
		return false, err
	}
	log, err := raftlog.Open(d.Raft, nexusraft.RootZone)
	if err != nil {
		return false, fmt.Errorf("open the log of zone %v: %w", nexusraft.RootZone, err)
	}
	return log.Meta().Membership.IsRemovedNode(node), nil
}

// ReadRoot runs fn over the root zone's state as it is in the store, whether the zone is open or not.
// It returns ErrNotFounded for the directory of a node that has not joined a cluster.
func (d *Dir) ReadRoot(fn func(cluster nexusraft.ClusterID, state nexusraft.Reader) error) error {
	id, ok, err := loadIdentity(d.node)
	if err != nil {
		return err
	}
	if !ok || id.Cluster == 0 {
		return fmt.Errorf("%w: its node has not joined one yet", nexusraft.ErrNotFounded)
	}
	log, err := raftlog.Open(d.Raft, nexusraft.RootZone)
	if err != nil {
		return fmt.Errorf("open the log of the root zone: %w", err)
	}
	state, ok, err := d.Store.OpenTree(log.Meta().StateTree)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: the root zone has no state", nexusraft.ErrCorrupt)
	}
	snap := d.Store.NewSnapshot()
	defer snap.Close()
	return fn(id.Cluster, snap.Reader(state))
}
