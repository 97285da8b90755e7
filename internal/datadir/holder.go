package datadir

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// Holder returns the node whose data directory a store is, and whether it is a node's at all.
// Such a store may be read, but no other program must write to it: its replicas would no longer
// equal those of other nodes (I4). It looks for a record of the node's identity, and changes
// nothing; if that can't be read, it returns nexusraft.ErrCorrupt.
func Holder(s *storage.Store) (nexusraft.NodeID, bool, error) {
	own, _, err := s.OpenTree(nodeTree)
	if err != nil {
		return 0, false, err
	}
	log, _, err := s.OpenTree(raftTree)
	if err != nil || own == nil || log == nil {
		return 0, false, err // a user's own tree may be called "node", too
	}
	id, ok, err := loadIdentity(own)
	if err != nil {
		return 0, false, fmt.Errorf("find out whose store it is: %w", err)
	}
	return id.Node, ok, nil
}
