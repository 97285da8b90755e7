package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// LedZone is a zone in a term in which this node leads it.
type LedZone struct {
	Zone           *Zone
	Term           nexusraft.Term
	MachineVersion uint32 // the zone's version of its state machine; see nexusraft.Versioned
}

// Propose is Zone.ProposeOnce, but the command runs in that term or not at all: in another one, or where this node
// does not lead the zone, it returns ErrNotLeader.
func (z LedZone) Propose(ctx context.Context, command []byte) (nexusraft.Result, error) {
	return z.Zone.node.proposeInTerm(ctx, z.Zone.id, z.Term, nexusraft.RequestID{}, command)
}

// Read runs fn over the zone's state, which includes every write that was acknowledged, by any node, before Read was
// called; a quorum has confirmed since then that this node leads the zone in the term. Otherwise it returns
// ErrNotLeader, or ErrNoQuorum if ctx ends first. The Reader is void when fn returns.
func (z LedZone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	// A node that leads in a term before and after leads in it throughout, and confirms the read itself.
	n, id := z.Zone.node, z.Zone.id
	if err := n.checkLeads(ctx, z); err != nil {
		return err
	}
	if err := n.workers.Confirm(ctx, id); err != nil {
		return err
	}
	if err := n.checkLeads(ctx, z); err != nil {
		return err
	}
	return z.Zone.ReadLocal(ctx, fn)
}

// checkLeads returns ErrNotLeader unless this node leads the zone in the term, as far as it knows.
func (n *Node) checkLeads(ctx context.Context, z LedZone) error {
	term, err := n.workers.LeadsIn(ctx, z.Zone.id)
	if err == nil && term != z.Term {
		err = &nexusraft.NotLeaderError{Zone: z.Zone.id}
	}
	return err
}

// LedZones returns zones that this node leads, the root zone included, and that have applied commands since an earlier
// call has returned next; with 0 all that it leads. It waits until there are any, or ctx or the node ends, and then
// returns next, too.
//
// It is for work that many zones need now and then, where a nexusraft.Leading, which is a goroutine for each zone,
// would be too much: zones that nothing happens in cost nothing, and sleep on. By the time that it returns, a
// zone may have another leader: LedZone.Propose finds out.
func (n *Node) LedZones(ctx context.Context, since uint64) (zones []LedZone, next uint64, err error) {
	for {
		changed := n.workers.LedChanged() // before the zones are looked at, so that nothing falls in between
		all, now, err := n.workers.Led(ctx, since)
		if err != nil {
			return nil, since, err
		}
		since = now
		for _, z := range all {
			zones = append(zones, LedZone{Zone: &Zone{node: n, id: z.Zone}, Term: z.Term, MachineVersion: z.MachineVersion})
		}
		if len(zones) > 0 {
			return zones, since, nil
		}
		select {
		case <-changed:
		case <-n.ended:
			return nil, since, n.errEnded()
		case <-ctx.Done():
			return nil, since, fmt.Errorf("wait for zones that this node leads: %w", context.Cause(ctx))
		}
	}
}

// FollowLedZones calls fn with the zones of LedZones, again and again, until ctx or the node ends; between two looks
// are at least rest. It begins once the node is ready. While the node can't say which zones it leads, fn gets none.
func (n *Node) FollowLedZones(ctx context.Context, rest time.Duration, fn func([]LedZone)) {
	if n.AwaitReady(ctx) != nil {
		return
	}
	var since uint64
	for {
		led, next, err := n.LedZones(ctx, since)
		if ctx.Err() != nil || errors.Is(err, nexusraft.ErrClosed) {
			return
		}
		if err == nil { // otherwise the node is overloaded: it is asked again
			since = next
		}
		fn(led)
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}
