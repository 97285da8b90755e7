package rpc

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// EventIdle is how often, at least, a subscription hears of its node while nothing happens: a
// subscriber that hears nothing for three times as long goes on elsewhere.
const EventIdle = time.Second

// EventHandler is what a node does for the service EventStream.
type EventHandler interface {
	// Subscribe yields batches of events, without end: the first one at once, and it tells
	// where the subscription begins; an empty one at least every EventIdle while nothing
	// happens; an error once and last, with an empty batch. While the caller is busy with a
	// batch, nothing piles up: Subscribe holds nothing but where it is. S is valid.
	Subscribe(ctx context.Context, s nexusraft.Subscription) iter.Seq2[nexusraft.EventBatch, error]

	// Publish appends an application's event to a zone's events and returns its sequence
	// once it is committed. Payload belongs to the handler.
	Publish(ctx context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error)

	// Retain changes how many of a zone's events are kept, and for how long; count 0 turns
	// them off, age 0 is for ever.
	Retain(ctx context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error
}

// events is pb.EventStreamServer.
type events struct {
	pb.UnimplementedEventStreamServer
	handler EventHandler
}

// Subscribe implements pb.EventStreamServer.
func (s *events) Subscribe(
	req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse],
) error {
	want := wire.SubscriptionFromProto(req)
	if err := want.Validate(); err != nil {
		return wire.Status(err)
	}
	for batch, err := range s.handler.Subscribe(stream.Context(), want) {
		if err != nil {
			if stream.Context().Err() != nil {
				return status.FromContextError(stream.Context().Err()).Err()
			}
			return wire.Status(err)
		}
		if err := stream.Send(batchToProto(batch)); err != nil {
			return err
		}
	}
	return nil
}

func batchToProto(b nexusraft.EventBatch) *pb.SubscribeResponse {
	resp := &pb.SubscribeResponse{
		NextSequence: b.Next, Incarnation: uint64(b.Incarnation), IdleMillis: uint32(EventIdle.Milliseconds()),
	}
	for _, e := range b.Events {
		resp.Events = append(resp.Events, wire.EventToProto(e))
	}
	return resp
}

// Publish implements pb.EventStreamServer.
func (s *events) Publish(ctx context.Context, req *pb.PublishRequest) (*pb.PublishResponse, error) {
	sequence, err := s.handler.Publish(ctx, nexusraft.ZoneID(req.GetZone()), req.GetTopic(), req.GetType(),
		req.GetPayload())
	if err != nil {
		return nil, wire.Status(err)
	}
	return &pb.PublishResponse{Sequence: sequence}, nil
}

// Retain implements pb.EventStreamServer.
func (s *events) Retain(ctx context.Context, req *pb.RetainRequest) (*pb.RetainResponse, error) {
	age := time.Duration(req.GetAgeNanos())
	if err := s.handler.Retain(ctx, nexusraft.ZoneID(req.GetZone()), req.GetCount(), age); err != nil {
		return nil, wire.Status(err)
	}
	return &pb.RetainResponse{}, nil
}
