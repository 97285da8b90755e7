package feed

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// Of returns the feeds of a node: of its zones that run the key-value store. They need neither to be run nor closed.
func Of(n *node.Node) *Feeds {
	return New(func(id nexusraft.ZoneID) (Zone, error) {
		z, err := n.Zone(id)
		if err != nil {
			return nil, err // not found: an interface that holds a nil *node.Zone is not nil
		}
		if _, ok := z.Machine().(kv.StateMachine); !ok {
			return nil, fmt.Errorf("%w: zone %v runs another state machine than the key-value store, and has no keys",
				nexusraft.ErrRefused, id)
		}
		return z, nil
	})
}
