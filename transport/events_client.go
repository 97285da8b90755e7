package transport

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Subscribe yields events in order, without end, as the node's EventHandler does; see there. An error is
// yielded once and last: ErrUnreachable if the stream broke, and then go on with From
// at the last batch's Next, through this node or, if they are a zone's events, another one of its
// members. A batch belongs to the caller. While it takes its time, the node waits.
func (c *Client) Subscribe(ctx context.Context, s Subscription) iter.Seq2[EventBatch, error] {
	return func(yield func(EventBatch, error) bool) {
		if err := c.subscribe(ctx, s, yield); err != nil {
			yield(EventBatch{}, fmt.Errorf("subscribe to events of %v: %w", c.addr, err))
		}
	}
}

func (c *Client) subscribe(ctx context.Context, s Subscription, yield func(EventBatch, error) bool) error {
	if err := s.Validate(); err != nil {
		return err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	stream, err := pb.NewEventStreamClient(c.conn).Subscribe(ctx, &pb.SubscribeRequest{
		Zone: uint64(s.Zone), Topics: s.Topics, Types: s.Types,
		FromSequence: s.From, Incarnation: uint64(s.Incarnation),
	})
	if err != nil {
		return c.eventError(ctx, err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return c.eventError(ctx, err)
		}
		if !yield(batchFromProto(resp), nil) {
			return nil
		}
	}
}

func batchFromProto(m *pb.SubscribeResponse) EventBatch {
	b := EventBatch{Next: m.GetNextSequence(), Incarnation: nexusraft.Incarnation(m.GetIncarnation())}
	for _, e := range m.GetEvents() {
		b.Events = append(b.Events, Event{
			Sequence: e.GetSequence(), Topic: e.GetTopic(), Type: e.GetType(), Payload: e.GetPayload(),
			Time: e.GetTime().AsTime(), Zone: nexusraft.ZoneID(e.GetZone()), Incarnation: nexusraft.Incarnation(e.GetIncarnation()),
		})
	}
	return b
}

// Publish appends an application's event to a zone's events, through the node, and returns
// its sequence once it is committed. It borrows the payload. After ErrUnreachable or
// ErrUncertain it may be committed all the same, or still be.
func (c *Client) Publish(ctx context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	resp, err := pb.NewEventStreamClient(c.conn).Publish(ctx, &pb.PublishRequest{Zone: uint64(zone), Topic: topic, Type: kind, Payload: payload})
	if err != nil {
		return 0, fmt.Errorf("publish through %v: %w", c.addr, c.eventError(ctx, err))
	}
	return resp.GetSequence(), nil
}

// eventError is the handler's error, if the status carries it, or how the call has failed.
func (c *Client) eventError(ctx context.Context, err error) error {
	for _, d := range status.Convert(err).Details() {
		if m, ok := d.(*pb.Error); ok {
			return wire.ErrorFromProto(m)
		}
	}
	return c.fail(ctx, err)
}
