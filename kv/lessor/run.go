package lessor

import (
	"context"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// lookRest is the least time between two looks at which zones have changed.
const lookRest = 50 * time.Millisecond

// Run measures the leases of the zones that n leads and whose state machine is kv.StateMachine, and asks for those of
// others, until ctx or the node ends. It is called once, beside node.Node.Run of the node whose Config.Answer is
// l.Answer. Where it does not run, nothing is lost: no lease of what that node leads runs out, or can be renewed.
func (l *Lessor) Run(ctx context.Context, n *node.Node) {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan []zone)
	go func() {
		defer close(changed)
		watch(ctx, n, changed)
	}()
	l.run(ctx, nodeHost{n}, changed)
	cancel()
	for range changed { // until it is closed
	}
}

// watch tells of the zones that have changed, until ctx or the node ends.
func watch(ctx context.Context, n *node.Node, changed chan<- []zone) {
	n.FollowLedZones(ctx, lookRest, func(led []node.LedZone) {
		var zones []zone
		for _, z := range led {
			if _, ok := z.Zone.Machine().(kv.StateMachine); ok {
				zones = append(zones, ledZone{z})
			}
		}
		select {
		case changed <- zones:
		case <-ctx.Done():
		}
	})
}

// nodeHost is a node.
type nodeHost struct{ *node.Node }

// ProposeAt implements host.
func (h nodeHost) ProposeAt(
	ctx context.Context, zone nexusraft.ZoneID, command []byte,
) (nexusraft.Result, error) {
	z, err := h.Zone(zone)
	if err != nil {
		return nexusraft.Result{}, err
	}
	return z.ProposeOnce(ctx, nexusraft.RequestID{}, command)
}

// ledZone is a node's.
type ledZone struct{ node.LedZone }

// ID implements zone.
func (z ledZone) ID() nexusraft.ZoneID { return z.Zone.ID() }

// Term implements zone.
func (z ledZone) Term() nexusraft.Term { return z.LedZone.Term }

// ReadLocal implements zone.
func (z ledZone) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return z.Zone.ReadLocal(ctx, fn)
}
