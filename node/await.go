package node

import (
	"context"
	"fmt"
	"math"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// AwaitReady returns nil once the node has joined and serves its zones. If Run ends before, it returns
// Run's error, or ErrClosed if Run has none; if the context ends before, the context's.
func (n *Node) AwaitReady(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-n.ended:
		return n.errEnded()
	case <-ctx.Done():
		return fmt.Errorf("the node is not ready: %w", context.Cause(ctx))
	}
}

// AwaitWorkers returns nil once each of the goroutines that share the zones has taken this call, so that none of them
// stands still, in a sync of a stalled disk for example; otherwise why it waits no more, as AwaitReady.
func (n *Node) AwaitWorkers(ctx context.Context) error {
	_, _, err := n.workers.Led(ctx, math.MaxUint64)
	return err
}

// AwaitWhole returns nil once the zone can lose any one node: it has two members and a witness, or
// three members, the leader hears all of them, and with a witness the zone is in sync. Of a zone with a
// shape it waits for all members and witnesses of that: one of a single member is whole with it, and can
// lose none. It may be called on any node of the zone, and says nothing about later. If Run ends before,
// it returns Run's error, or ErrClosed if Run has none; if the context ends before, the context's and
// what is missing.
func (z *Zone) AwaitWhole(ctx context.Context) error {
	waiting := z.node.awaits()
	for {
		changed := z.node.events.Changed() // before the zone is looked at, so that nothing falls in between
		missing := z.missing(ctx)
		if missing == nil || z.node.replicas.Stopped(z.id) {
			return missing
		}
		if err := waiting.next(ctx, changed); err != nil {
			return fmt.Errorf("zone %v: %w: %w", z.id, missing, err)
		}
	}
}

// missing says what the zone lacks to be whole, by its leader's view; nil if nothing.
func (z *Zone) missing(ctx context.Context) error {
	s, err := z.leadersStatus(ctx)
	if err != nil {
		return err
	}
	return zone.Lacks(s)
}

// leadersStatus returns the zone's status as its leader has it.
func (z *Zone) leadersStatus(ctx context.Context) (nexusraft.ZoneStatus, error) {
	s, err := z.Status(ctx)
	if err != nil || s.State == nexusraft.Leader {
		return s, err
	}
	leader, ok := s.Membership.Replica(s.Leader)
	if !ok {
		return s, &nexusraft.NotLeaderError{Zone: z.id}
	}
	ctx, cancel := context.WithTimeout(ctx, driver.StatusTimeout)
	defer cancel()
	answer, err := z.node.peers.Status(ctx, leader.Node, z.id)
	if err != nil {
		return s, err
	}
	for _, s := range answer.Zones {
		if s.Zone == z.id && s.State == nexusraft.Leader {
			return s, nil
		}
	}
	return s, &nexusraft.NotLeaderError{Zone: z.id}
}

// end tells everybody that waits that the node has ended.
func (n *Node) end(err error) {
	n.endedBy = err
	close(n.ended)
}

// errEnded is why a wait ends with the node; ended is closed.
func (n *Node) errEnded() error {
	if n.endedBy != nil {
		return n.endedBy
	}
	return fmt.Errorf("%w: the node has stopped", nexusraft.ErrClosed)
}

// await is a wait for what may change with each of the node's own events, and sometimes without one:
// a peer that is reached again, or another node's view.
type await struct {
	node  *Node
	pause time.Duration // until it is looked at without an event
}

func (n *Node) awaits() await { return await{n, n.config.TickInterval} }

// next returns nil when it is time to look again, or why there is nothing to wait for any more. It
// waits a tick at first, and longer each time, up to an election timeout.
func (a *await) next(ctx context.Context, changed <-chan struct{}) error {
	pause := time.NewTimer(a.pause)
	defer pause.Stop()
	a.pause = min(2*a.pause, a.node.config.electionTimeout())
	select {
	case <-changed:
		return nil
	case <-pause.C:
		return nil
	case <-a.node.ended:
		return a.node.errEnded()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
