package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Publish appends an event to the zone's events and returns its sequence, once it is
// committed. Topic begins with "app/"; topic and kind have at most 256 bytes each, payload at
// most 1 MiB; it is copied. It may be called on any replica, as Zone.Propose may.
//
// Errors: those of Zone.Propose, and ErrRefused for another topic or where the zone's events
// are turned off.
func (z *Zone) Publish(ctx context.Context, topic, kind string, payload []byte) (sequence uint64, err error) {
	if err := system.CheckPublish(topic, kind, len(payload)); err != nil {
		return 0, err
	}
	answer, err := z.node.proposeSystem(ctx, z.id, &pb.NodeCommand{Kind: &pb.NodeCommand_Publish{
		Publish: &pb.PublishEvent{Topic: topic, Type: kind, Payload: payload},
	}})
	if err != nil {
		return 0, fmt.Errorf("publish an event: %w", err)
	}
	if len(answer) != 8 {
		return 0, fmt.Errorf("publish an event: %w: the answer has %d bytes", nexusraft.ErrCorrupt, len(answer))
	}
	return binary.BigEndian.Uint64(answer), nil
}

// SetEventRetention changes how many of the zone's events are kept, and for how long by the
// zone's time. What is over is deleted in steps, as commands publish. Errors are those of
// Zone.Propose, and ErrRefused for a negative age.
func (z *Zone) SetEventRetention(ctx context.Context, keep nexusraft.Retention) error {
	if err := system.CheckRetention(keep); err != nil {
		return err
	}
	_, err := z.node.proposeSystem(ctx, z.id, &pb.NodeCommand{Kind: &pb.NodeCommand_Retention{
		Retention: &pb.EventRetention{Count: keep.Count, AgeNanos: int64(keep.Age)},
	}})
	if err != nil {
		return fmt.Errorf("change how many events are kept: %w", err)
	}
	return nil
}

// Subscribe yields events in order, without end, from a sequence on: a zone's, or, with zone 0, the
// node's own. The first batch comes at once, and tells where it begins; it is empty, unless a gap
// is to be told. While nothing happens an empty one comes at least every rpc.EventIdle. An
// error comes once and last. A batch belongs to the caller, which may take any time over it: nothing
// piles up, and nobody waits for it. It may be called from many goroutines.
//
// A zone's events have one sequence, the same through every member: go on at EventBatch.Next, also
// through another one. A node's own are numbered anew in each incarnation; an event of type "gap"
// stands for those that are no longer there.
//
// Errors: GoneError for a zone's event that is no longer kept, with the oldest one that is;
// ErrRefused for one that was not published yet, and where the zone's events are turned off;
// ErrNoQuorum if the replica gets out of touch with its zone, so that another member may
// know more; ErrZoneNotFound, ErrClosed, ErrTooLarge, ErrOverloaded, the context's own.
func (n *Node) Subscribe(ctx context.Context, s nexusraft.Subscription) iter.Seq2[nexusraft.EventBatch, error] {
	return n.subscriptions.Subscribe(ctx, mtls.PrincipalOf(ctx), s)
}

func (n *Node) openEvents() {
	n.events = events.NewLocal(n.config.Clock, n.self().Incarnation)
	n.subscriptions = events.New(events.Options{
		Local: n.events, Source: eventSource{n}, Idle: rpc.EventIdle, ElectionTimeout: n.config.electionTimeout(),
		Counters: &n.counters,
	})
}

// eventSource is what internal/events needs of a node.
type eventSource struct{ node *Node }

// Changed implements events.Source.
func (z eventSource) Changed(id nexusraft.ZoneID) (<-chan struct{}, error) {
	p, err := z.node.replicas.View(id)
	if err != nil {
		return nil, err
	}
	changed := p.Events.Wait()
	if z.node.workers.Ended(id) { // looked at last, since the worker notifies when it has closed it
		return nil, nexusraft.ErrClosed
	}
	return changed, nil
}

// Confirm implements events.Source.
func (z eventSource) Confirm(ctx context.Context, id nexusraft.ZoneID) error {
	return z.node.workers.Confirm(ctx, id)
}

// ReadSystemLocal implements events.Source.
func (z eventSource) ReadSystemLocal(id nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	return z.node.readSystemLocal(id, fn)
}

// Expand implements events.Source.
func (z eventSource) Expand(id nexusraft.ZoneID, r nexusraft.Reader, e system.Event) (system.Event, error) {
	p, err := z.node.replicas.View(id)
	if err != nil {
		return system.Event{}, err
	}
	m, ok := p.Machine.(nexusraft.EventExpander)
	if !ok {
		return e, nil
	}
	e.Type, e.Payload, err = m.ExpandEvent(apply.MachineReader(r), e.Topic, e.Type, e.Payload)
	return e, err
}

// CountOpening implements events.Source.
func (z eventSource) CountOpening() error { return z.node.peering.Count() }
