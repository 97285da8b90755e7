package node

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
)

// Awake returns how many of the node's zones do not sleep.
func (n *Node) Awake(ctx context.Context) (awake int, err error) {
	return driver.Ask(ctx, n.worker.inbox, func(error) (awake int) {
		for range n.worker.neighbors.Awake {
			awake++
		}
		return awake
	})
}

// Changes is how often the node's signal has changed.
func (n *Node) Changes(ctx context.Context) (changes uint64, err error) {
	return driver.Ask(ctx, n.worker.inbox, func(error) uint64 { return n.worker.neighbors.Own().Changes })
}

// FailZone stops a zone on this node alone.
func (n *Node) FailZone(id nexusraft.ZoneID, err error) {
	n.worker.inbox.Post(func() { n.worker.fail(n.worker.zones[id], err) })
}

// Handler is what the node does for its peers and clients, as the servers call it.
func (n *Node) Handler() handler { return handler{n} }
