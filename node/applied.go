package node

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
)

// Applied returns a channel that is closed once this replica may have applied something more, or has taken its state
// from a snapshot, and when the zone or the node stops. Ask for it before the state is read, so that nothing
// falls in between. It costs nothing until then, however many wait; all that wait now have the same channel.
//
// Errors: ErrZoneNotFound, ErrNotLeader where the zone is on other nodes, ErrClosed once it has stopped here.
func (z *Zone) Applied() (<-chan struct{}, error) {
	p, err := z.node.replicas.View(z.id)
	if err != nil {
		return nil, err
	}
	applied := p.Applied.Wait()
	if z.node.workers.Ended(z.id) { // looked at last, since the worker notifies when it has closed it
		return nil, nexusraft.ErrClosed
	}
	return applied, nil
}

// Permits returns ErrDenied if ctx is that of a client's call, and the client may not make it any more by the records
// of access as this node has them: for what was read for several callers at once, before it is handed to
// one of them.
func (z *Zone) Permits(ctx context.Context) error {
	return z.node.access.Permits(authz.RequesterOf(ctx))
}
