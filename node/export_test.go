package node

import (
	"context"
	"errors"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Awake returns how many of the node's zones do not sleep.
func (n *Node) Awake(ctx context.Context) (int, error) {
	awake, _, err := n.workers.Awake(ctx)
	return awake, err
}

// Changes is how often the node's signal has changed.
func (n *Node) Changes(ctx context.Context) (uint64, error) {
	_, own, err := n.workers.Awake(ctx)
	return own.Changes, err
}

// Handler is what the node does for its peers and clients, as the servers call it.
func (n *Node) Handler() handler { return handler{n} }

// EntriesInMemory returns how many bytes of log entries the node's zones keep in memory.
func (n *Node) EntriesInMemory() int64 { return n.dir.Entries.Used() }

// ReadAlone is the part of ReadLease that asks nobody; false if there is no lease.
func (z *Zone) ReadAlone(ctx context.Context, fn func(nexusraft.Reader) error) (bool, error) {
	err := z.readAlone(ctx, fn)
	if errors.Is(err, errNoLease) {
		return false, nil
	}
	return true, err
}
