package datadir

import (
	"errors"
	"fmt"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
)

// NewStateTreeName returns the name of a new tree for a zone's state. Until a log's Meta names it too,
// DropOrphans drops the tree.
func NewStateTreeName(z nexusraft.ZoneID) string {
	return fmt.Sprintf("%s%016x", stateTreePrefix(z), nexusraft.MintID())
}

// stateTreePrefix begins the names of a zone's trees.
func stateTreePrefix(z nexusraft.ZoneID) string { return fmt.Sprintf("%s%v/", statePrefix, z) }

// DropOrphans removes state trees that no zone refers to: snapshots that a crash cut off. Those of a zone
// whose log can't be read are all kept; of the root zone that is an error.
func (d *Dir) DropOrphans() error {
	names, err := d.Store.Trees()
	if err != nil {
		return err
	}
	zones, err := raftlog.Zones(d.Raft)
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, id := range zones {
		log, err := raftlog.Open(d.Raft, id)
		switch {
		case err == nil:
			used[log.Meta().StateTree] = true
		case id != nexusraft.RootZone && errors.Is(err, nexusraft.ErrCorrupt):
			for _, name := range names {
				used[name] = used[name] || strings.HasPrefix(name, stateTreePrefix(id))
			}
		default:
			return fmt.Errorf("open the log of zone %v: %w", id, err)
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, statePrefix) && !used[name] {
			if err := d.Store.DropTree(name); err != nil {
				return fmt.Errorf("drop orphaned tree %s: %w", name, err)
			}
		}
	}
	return nil
}
