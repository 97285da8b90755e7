package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// eventNode is a node that has events.
type eventNode struct {
	subscribe func(context.Context, nexusraft.Subscription) iter.Seq2[nexusraft.EventBatch, error]
	publish   func(zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error)
	retain    func(zone nexusraft.ZoneID, count uint64, age time.Duration) error
}

func (n *eventNode) Subscribe(
	ctx context.Context, s nexusraft.Subscription,
) iter.Seq2[nexusraft.EventBatch, error] {
	return n.subscribe(ctx, s)
}

func (n *eventNode) Publish(
	_ context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte,
) (uint64, error) {
	return n.publish(zone, topic, kind, payload)
}

func (n *eventNode) Retain(_ context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error {
	return n.retain(zone, count, age)
}

// connectTo runs services on a loopback socket and returns a connection to them.
func connectTo(t *testing.T, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return conn
}

// eventsOf serves a node's events and returns a client of them.
func eventsOf(t *testing.T, n *eventNode) pb.EventStreamClient {
	t.Helper()
	return pb.NewEventStreamClient(connectTo(t, func(r grpc.ServiceRegistrar) { Register(r, ClientHandlers{Events: n}) }))
}

// said is the error that a status carries as its detail.
func said(err error) error {
	for _, d := range status.Convert(err).Details() {
		if m, ok := d.(*pb.Error); ok {
			return wire.ErrorFromProto(m)
		}
	}
	return err
}

func TestEventsOverTheWire(t *testing.T) {
	want := []nexusraft.EventBatch{
		{Next: 5, Incarnation: 9},
		{Next: 7, Incarnation: 9, Events: []nexusraft.Event{
			{Sequence: 5, Topic: "a/b", Type: "t", Payload: []byte("p"), Time: time.Unix(1, 2).UTC(), Zone: 1, Incarnation: 9},
			{Sequence: 6, Topic: "c", Type: "u", Time: time.Unix(3, 0).UTC()},
		}},
		{Next: 8, Incarnation: 9},
	}
	gone := &nexusraft.GoneError{Asked: 8, Oldest: 99}
	asked := make(chan nexusraft.Subscription, 1)
	c := eventsOf(t, &eventNode{subscribe: func(
		_ context.Context, s nexusraft.Subscription,
	) iter.Seq2[nexusraft.EventBatch, error] {
		asked <- s
		return func(yield func(nexusraft.EventBatch, error) bool) {
			for _, b := range want {
				if !yield(b, nil) {
					return
				}
			}
			yield(nexusraft.EventBatch{}, fmt.Errorf("wrapped: %w", gone))
		}
	}})
	stream, err := c.Subscribe(t.Context(), &pb.SubscribeRequest{
		Zone: 3, Topics: []string{"a", "c"}, Types: []string{"t", "u"}, FromSequence: 5, Incarnation: 9,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []nexusraft.EventBatch
	for {
		resp, recvErr := stream.Recv()
		if err = recvErr; err != nil {
			break
		}
		if resp.GetIdleMillis() != uint32(EventIdle.Milliseconds()) {
			t.Errorf("it promises to be heard of each %d ms", resp.GetIdleMillis())
		}
		b := nexusraft.EventBatch{Next: resp.GetNextSequence(), Incarnation: nexusraft.Incarnation(resp.GetIncarnation())}
		for _, e := range resp.GetEvents() {
			b.Events = append(b.Events, wire.EventFromProto(e))
		}
		got = append(got, b)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("batches (-want +got):\n%s", d)
	}
	s := nexusraft.Subscription{Zone: 3, Topics: []string{"a", "c"}, Types: []string{"t", "u"}, From: 5, Incarnation: 9}
	if d := cmp.Diff(s, <-asked); d != "" {
		t.Errorf("subscription (-want +got):\n%s", d)
	}
	found, ok := errors.AsType[*nexusraft.GoneError](said(err))
	if !ok || *found != *gone {
		t.Errorf("it ended with %v, want %v", err, gone)
	}
}

// A subscriber that goes away ends the handler; one that reads slowly holds it up.
func TestSubscriberHoldsUpTheHandler(t *testing.T) {
	sent := make(chan int, 1<<16)
	ended := make(chan error, 1)
	c := eventsOf(t, &eventNode{subscribe: func(
		ctx context.Context, _ nexusraft.Subscription,
	) iter.Seq2[nexusraft.EventBatch, error] {
		return func(yield func(nexusraft.EventBatch, error) bool) {
			for i := 0; ; i++ {
				e := nexusraft.Event{Sequence: uint64(i), Payload: make([]byte, 64<<10)}
				if !yield(nexusraft.EventBatch{Next: uint64(i), Events: []nexusraft.Event{e}}, nil) {
					ended <- ctx.Err()
					return
				}
				sent <- i
			}
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Subscribe(ctx, &pb.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	before := -1
	for deadline := time.Now().Add(time.Minute); before != len(sent); time.Sleep(20 * time.Millisecond) {
		if before = len(sent); time.Now().After(deadline) {
			t.Fatalf("the handler does not stand still, after %d batches", before)
		}
	}
	if before > 1000 {
		t.Errorf("%d batches were sent to a subscriber that takes none", before)
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the handler's context has not ended")
		}
	case <-time.After(time.Minute):
		t.Error("the handler has not ended")
	}
}

func TestEventErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		code codes.Code
		want error
	}{
		"gone": {&nexusraft.GoneError{Asked: 1, Oldest: 2}, codes.OutOfRange, nexusraft.ErrGone},
		"uncertain": {
			fmt.Errorf("%w: %w", nexusraft.ErrUncertain, nexusraft.ErrClosed), codes.Unknown,
			nexusraft.ErrUncertain,
		},
		"gave up":   {context.DeadlineExceeded, codes.Unknown, nexusraft.ErrUncertain},
		"no quorum": {nexusraft.ErrNoQuorum, codes.Unavailable, nexusraft.ErrNoQuorum},
		"not leader": {
			&nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}, codes.Unavailable,
			nexusraft.ErrNotLeader,
		},
		"refused":     {nexusraft.ErrRefused, codes.FailedPrecondition, nexusraft.ErrRefused},
		"too large":   {nexusraft.ErrTooLarge, codes.InvalidArgument, nexusraft.ErrTooLarge},
		"no zone":     {nexusraft.ErrZoneNotFound, codes.NotFound, nexusraft.ErrZoneNotFound},
		"overloaded":  {nexusraft.ErrOverloaded, codes.ResourceExhausted, nexusraft.ErrOverloaded},
		"disk full":   {nexusraft.ErrDiskFull, codes.ResourceExhausted, nexusraft.ErrDiskFull},
		"corrupt":     {nexusraft.ErrCorrupt, codes.DataLoss, nexusraft.ErrCorrupt},
		"closed":      {nexusraft.ErrClosed, codes.Unavailable, nexusraft.ErrClosed},
		"fenced":      {nexusraft.ErrFenced, codes.FailedPrecondition, nexusraft.ErrFenced},
		"a bug's own": {errors.New("odd"), codes.Internal, wire.ErrApplication},
	} {
		c := eventsOf(t, &eventNode{publish: func(nexusraft.ZoneID, string, string, []byte) (uint64, error) {
			return 0, tc.err
		}})
		_, err := c.Publish(t.Context(), &pb.PublishRequest{})
		if got := status.Convert(err); got.Code() != tc.code || got.Message() != tc.err.Error() {
			t.Errorf("%s: got %v, want %v and its own text", name, got, tc.code)
		}
		waits := slices.Contains([]string{"no quorum", "overloaded", "disk full"}, name)
		if got := slices.ContainsFunc(status.Convert(err).Details(), isRetryInfo); got != waits {
			t.Errorf("%s: says when to ask again: %t, want %t", name, got, waits)
		}
		if !errors.Is(said(err), tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func isRetryInfo(detail any) bool {
	_, ok := detail.(*errdetails.RetryInfo)
	return ok
}

func TestPublishAndRetainOverTheWire(t *testing.T) {
	var got []any
	c := eventsOf(t, &eventNode{
		publish: func(zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error) {
			got = append(got, zone, topic, kind, string(payload))
			return 42, nil
		},
		retain: func(zone nexusraft.ZoneID, count uint64, age time.Duration) error {
			got = append(got, zone, count, age)
			return nil
		},
	})
	resp, err := c.Publish(t.Context(), &pb.PublishRequest{Zone: 1, Topic: "app/x", Type: "t", Payload: []byte("p")})
	if err != nil || resp.GetSequence() != 42 {
		t.Errorf("publish: got %d, %v, want 42", resp.GetSequence(), err)
	}
	if _, err := c.Retain(t.Context(), &pb.RetainRequest{Zone: 1, Count: 7, AgeNanos: int64(time.Hour)}); err != nil {
		t.Error(err)
	}
	want := []any{nexusraft.ZoneID(1), "app/x", "t", "p", nexusraft.ZoneID(1), uint64(7), time.Hour}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("handed over (-want +got):\n%s", d)
	}
}

// Too many filters are refused, and never get to the handler.
func TestSubscriptionLimits(t *testing.T) {
	c := eventsOf(t, &eventNode{subscribe: func(
		context.Context, nexusraft.Subscription,
	) iter.Seq2[nexusraft.EventBatch, error] {
		t.Error("it got to the handler")
		return func(func(nexusraft.EventBatch, error) bool) {}
	}})
	long := strings.Repeat("x", nexusraft.MaxEventNameBytes+1)
	many := make([]string, nexusraft.MaxEventFilters+1)
	for _, req := range []*pb.SubscribeRequest{
		{Topics: many}, {Types: many}, {Topics: []string{long}}, {Types: []string{long}},
	} {
		stream, err := c.Subscribe(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || errors.Is(err, io.EOF) {
			t.Errorf("got %v, want InvalidArgument", err)
		}
	}
}
