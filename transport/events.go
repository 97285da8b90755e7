package transport

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// MaxEventFilters is the highest number of topics, and of types, that a Subscription names.
const MaxEventFilters = 64

// Event is something that happened in a zone or on a node.
type Event struct {
	Sequence    uint64 // from 1 on, without gaps in the zone or in the node's incarnation
	Topic       string
	Type        string
	Payload     []byte // its form goes with the topic
	Time        time.Time
	Zone        nexusraft.ZoneID      // 0 for the node as a whole
	Incarnation nexusraft.Incarnation // of the node whose own event it is; 0 for a zone's
}

// EventBatch is what was there to be sent at one moment. Whoever gets it owns it.
type EventBatch struct {
	Events      []Event // in order; may be empty
	Next        uint64  // where to go on: above all that were sent or filtered out
	Incarnation nexusraft.Incarnation
}

// Subscription says which events to send. None of Topics or Types means all.
type Subscription struct {
	Zone        nexusraft.ZoneID      // 0: the node's own events
	Topics      []string              // an event is sent if its topic is one of these or lies below one
	Types       []string              // and its type one of these
	From        uint64                // the first sequence to send; 0: what happens from now on
	Incarnation nexusraft.Incarnation // that From is of, for a node's own events; 0: the present one
}

// Validate returns ErrTooLarge if there are more than MaxEventFilters topics or types, or
// one of them is longer than any event's.
func (s Subscription) Validate() error {
	for _, names := range [][]string{s.Topics, s.Types} {
		if len(names) > MaxEventFilters {
			return fmt.Errorf("%w: subscribe to %d topics or types, limit %d", nexusraft.ErrTooLarge, len(names), MaxEventFilters)
		}
		for _, name := range names {
			if len(name) > nexusraft.MaxEventNameBytes {
				return fmt.Errorf("%w: subscribe to a topic or type of %d bytes, limit %d", nexusraft.ErrTooLarge, len(name), nexusraft.MaxEventNameBytes)
			}
		}
	}
	return nil
}

// Wants reports whether an event of that topic and type is to be sent.
func (s Subscription) Wants(topic, kind string) bool {
	return wanted(s.Types, func(t string) bool { return kind == t }) &&
		wanted(s.Topics, func(t string) bool { return below(topic, t) })
}

func wanted(names []string, fits func(string) bool) bool {
	for _, name := range names {
		if fits(name) {
			return true
		}
	}
	return len(names) == 0
}

// below reports whether a topic is prefix or lies below it: whole parts count, so that
// "member" includes "member/added" and not "members". A slash at prefix's end changes nothing.
func below(topic, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(topic, prefix)
	return ok && (rest == "" || rest[0] == '/' || prefix == "")
}

// EventHandler is what a node does that has events. A Server serves EventStream if its
// MemberHandler is an EventHandler, too. The methods are called from many goroutines at
// once; errors reach the caller as the sentinels of package nexusraft that they match.
type EventHandler interface {
	// Subscribe yields batches of events, without end: the first one at once, and it tells
	// where the subscription begins; an error once and last, with an empty batch. While the caller is busy with a
	// batch, nothing piles up: Subscribe holds nothing but where it is. S is valid.
	Subscribe(ctx context.Context, s Subscription) iter.Seq2[EventBatch, error]

	// Publish appends an application's event to a zone's events and returns its sequence
	// once it is committed. Payload belongs to the handler.
	Publish(ctx context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error)

	// Retain changes how many of a zone's events are kept, and for how long; count 0 turns
	// them off, age 0 is for ever.
	Retain(ctx context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error
}

// eventService is pb.EventStreamServer.
type eventService struct {
	pb.UnimplementedEventStreamServer
	handler EventHandler
}

// Subscribe implements pb.EventStreamServer.
func (e eventService) Subscribe(req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse]) error {
	s := Subscription{
		Zone: nexusraft.ZoneID(req.GetZone()), Topics: req.GetTopics(), Types: req.GetTypes(),
		From: req.GetFromSequence(), Incarnation: nexusraft.Incarnation(req.GetIncarnation()),
	}
	if err := s.Validate(); err != nil {
		return eventStatus(err)
	}
	for batch, err := range e.handler.Subscribe(stream.Context(), s) {
		if err != nil {
			if stream.Context().Err() != nil {
				return status.FromContextError(stream.Context().Err()).Err()
			}
			return eventStatus(err)
		}
		if err := stream.Send(batchToProto(batch)); err != nil {
			return err
		}
	}
	return nil
}

func batchToProto(b EventBatch) *pb.SubscribeResponse {
	resp := &pb.SubscribeResponse{NextSequence: b.Next, Incarnation: uint64(b.Incarnation)}
	for _, e := range b.Events {
		resp.Events = append(resp.Events, &pb.Event{
			Sequence: e.Sequence, Topic: e.Topic, Type: e.Type, Payload: e.Payload,
			Time: timestamppb.New(e.Time), Zone: uint64(e.Zone), Incarnation: uint64(e.Incarnation),
		})
	}
	return resp
}

// Publish implements pb.EventStreamServer.
func (e eventService) Publish(ctx context.Context, req *pb.PublishRequest) (*pb.PublishResponse, error) {
	sequence, err := e.handler.Publish(ctx, nexusraft.ZoneID(req.GetZone()), req.GetTopic(), req.GetType(), req.GetPayload())
	if err != nil {
		return nil, eventStatus(err)
	}
	return &pb.PublishResponse{Sequence: sequence}, nil
}

// Retain implements pb.EventStreamServer.
func (e eventService) Retain(ctx context.Context, req *pb.RetainRequest) (*pb.RetainResponse, error) {
	age := time.Duration(req.GetAgeNanos())
	if err := e.handler.Retain(ctx, nexusraft.ZoneID(req.GetZone()), req.GetCount(), age); err != nil {
		return nil, eventStatus(err)
	}
	return &pb.RetainResponse{}, nil
}

// eventCodes say which code an error of EventStream has. As for all errors the first row
// that matches counts, and an unknown outcome comes first: Unavailable means "not written".
var eventCodes = []struct {
	err  error
	code codes.Code
}{
	{nexusraft.ErrUncertain, codes.Unknown},
	{nexusraft.ErrCorrupt, codes.DataLoss},
	{nexusraft.ErrGone, codes.OutOfRange},
	{nexusraft.ErrClosed, codes.Unavailable},
	{nexusraft.ErrDiskFull, codes.ResourceExhausted},
	{nexusraft.ErrNoQuorum, codes.Unavailable},
	{nexusraft.ErrNotLeader, codes.Unavailable},
	{nexusraft.ErrOverloaded, codes.ResourceExhausted},
	{nexusraft.ErrZoneNotFound, codes.NotFound},
	{nexusraft.ErrTooLarge, codes.InvalidArgument},
	{nexusraft.ErrRefused, codes.FailedPrecondition},
	{nexusraft.ErrDenied, codes.PermissionDenied},
	{context.Canceled, codes.Unknown}, // of a Publish: it may be committed
	{context.DeadlineExceeded, codes.Unknown},
}

// eventStatus gives an error its code and its details.
func eventStatus(err error) error {
	code := codes.Internal
	for _, row := range eventCodes {
		if errors.Is(err, row.err) {
			code = row.code
			break
		}
	}
	return wire.WithDetails(status.New(code, err.Error()), err)
}
