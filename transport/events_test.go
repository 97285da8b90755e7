package transport

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// eventNode is a fakeNode that has events, too.
type eventNode struct {
	*fakeNode
	subscribe func(context.Context, Subscription) iter.Seq2[EventBatch, error]
	publish   func(zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error)
	retain    func(zone nexusraft.ZoneID, count uint64, age time.Duration) error
}

func (n *eventNode) Subscribe(ctx context.Context, s Subscription) iter.Seq2[EventBatch, error] {
	return n.subscribe(ctx, s)
}

func (n *eventNode) Publish(_ context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error) {
	return n.publish(zone, topic, kind, payload)
}

func (n *eventNode) Retain(_ context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error {
	return n.retain(zone, count, age)
}

// clientOf serves a node with events and returns a client of it, and the pool's raw address.
func clientOf(t *testing.T, n *eventNode) (*Client, string) {
	t.Helper()
	n.fakeNode = &fakeNode{}
	addr, _ := serveAt(t, "127.0.0.1:0", NewServer(as(identityB), n, n))
	pool := NewClientPool(as(identityA), PoolOptions{})
	t.Cleanup(pool.Close)
	c, err := pool.Get(t.Context(), NodeAddress{ID: nodeB, Endpoint: addr})
	if err != nil {
		t.Fatal(err)
	}
	return c, addr
}

func TestSubscriptionWants(t *testing.T) {
	for _, tc := range []struct {
		topics, types string
		topic, kind   string
		want          bool
	}{
		{"", "", "anything", "at all", true},
		{"member", "", "member", "added", true},
		{"member", "", "member/added", "x", true},
		{"member/", "", "member/added", "x", true},
		{"member", "", "members", "x", false},
		{"member/added", "", "member", "x", false},
		{"key member", "", "member", "x", true},
		{"key sync", "", "member", "x", false},
		{"", "put", "key", "put", true},
		{"", "put", "key", "delete", false},
		{"", "put delete", "key", "delete", true},
		{"", "put", "key", "put/x", false},
		{"key", "put", "key", "put", true},
		{"key", "put", "key", "delete", false},
		{"key", "put", "member", "put", false},
		{"/", "", "anything", "x", true},
	} {
		s := Subscription{Topics: strings.Fields(tc.topics), Types: strings.Fields(tc.types)}
		if got := s.Wants(tc.topic, tc.kind); got != tc.want {
			t.Errorf("topics %q, types %q: %s %s: got %t, want %t", tc.topics, tc.types, tc.topic, tc.kind, got, tc.want)
		}
	}
}

func TestEventsOverTheWire(t *testing.T) {
	want := []EventBatch{
		{Next: 5, Incarnation: 9},
		{Next: 7, Incarnation: 9, Events: []Event{
			{Sequence: 5, Topic: "a/b", Type: "t", Payload: []byte("p"), Time: time.Unix(1, 2).UTC(), Zone: 1, Incarnation: 9},
			{Sequence: 6, Topic: "c", Type: "u", Time: time.Unix(3, 0).UTC()},
		}},
		{Next: 8, Incarnation: 9},
	}
	gone := &nexusraft.GoneError{Asked: 8, Oldest: 99}
	asked := make(chan Subscription, 1)
	c, _ := clientOf(t, &eventNode{subscribe: func(_ context.Context, s Subscription) iter.Seq2[EventBatch, error] {
		asked <- s
		return func(yield func(EventBatch, error) bool) {
			for _, b := range want {
				if !yield(b, nil) {
					return
				}
			}
			yield(EventBatch{}, fmt.Errorf("wrapped: %w", gone))
		}
	}})
	s := Subscription{Zone: 3, Topics: []string{"a", "c"}, Types: []string{"t", "u"}, From: 5, Incarnation: 9}
	var got []EventBatch
	var end error
	for b, err := range c.Subscribe(t.Context(), s) {
		if end = err; err == nil {
			got = append(got, b)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("batches (-want +got):\n%s", d)
	}
	if d := cmp.Diff(s, <-asked); d != "" {
		t.Errorf("subscription (-want +got):\n%s", d)
	}
	found, ok := errors.AsType[*nexusraft.GoneError](end)
	if !ok || *found != *gone {
		t.Errorf("it ended with %v, want %v", end, gone)
	}
}

// A subscriber that stops, or goes away, ends the handler; one that reads slowly holds it up.
func TestSubscriberHoldsUpTheHandler(t *testing.T) {
	sent := make(chan int, 1<<16)
	ended := make(chan error, 1)
	c, _ := clientOf(t, &eventNode{subscribe: func(ctx context.Context, _ Subscription) iter.Seq2[EventBatch, error] {
		return func(yield func(EventBatch, error) bool) {
			for i := 0; ; i++ {
				if !yield(EventBatch{Next: uint64(i), Events: []Event{{Sequence: uint64(i), Payload: make([]byte, 64<<10)}}}, nil) {
					ended <- ctx.Err()
					return
				}
				sent <- i
			}
		}
	}})
	for range c.Subscribe(t.Context(), Subscription{}) {
		before := -1
		eventually(t, "the handler stands still", func() bool { // with this one batch not taken yet
			now := len(sent)
			still := now == before
			before = now
			time.Sleep(10 * time.Millisecond)
			return still
		})
		if before > 1000 {
			t.Errorf("%d batches were sent to a subscriber that takes none", before)
		}
		break
	}
	if err := await(t, "the handler's end", ended); err == nil {
		t.Error("the handler's context has not ended")
	}
}

func TestEventErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		code codes.Code
		want error
	}{
		"gone":        {&nexusraft.GoneError{Asked: 1, Oldest: 2}, codes.OutOfRange, nexusraft.ErrGone},
		"uncertain":   {fmt.Errorf("%w: %w", nexusraft.ErrUncertain, nexusraft.ErrClosed), codes.Unknown, nexusraft.ErrUncertain},
		"gave up":     {context.DeadlineExceeded, codes.Unknown, nexusraft.ErrUncertain},
		"no quorum":   {nexusraft.ErrNoQuorum, codes.Unavailable, nexusraft.ErrNoQuorum},
		"not leader":  {&nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}, codes.Unavailable, nexusraft.ErrNotLeader},
		"refused":     {nexusraft.ErrRefused, codes.FailedPrecondition, nexusraft.ErrRefused},
		"too large":   {nexusraft.ErrTooLarge, codes.InvalidArgument, nexusraft.ErrTooLarge},
		"no zone":     {nexusraft.ErrZoneNotFound, codes.NotFound, nexusraft.ErrZoneNotFound},
		"overloaded":  {nexusraft.ErrOverloaded, codes.ResourceExhausted, nexusraft.ErrOverloaded},
		"disk full":   {nexusraft.ErrDiskFull, codes.ResourceExhausted, nexusraft.ErrDiskFull},
		"corrupt":     {nexusraft.ErrCorrupt, codes.DataLoss, nexusraft.ErrCorrupt},
		"closed":      {nexusraft.ErrClosed, codes.Unavailable, nexusraft.ErrClosed},
		"a bug's own": {errors.New("odd"), codes.Internal, ErrApplication},
	} {
		c, addr := clientOf(t, &eventNode{publish: func(nexusraft.ZoneID, string, string, []byte) (uint64, error) { return 0, tc.err }})
		_, err := pb.NewEventStreamClient(dialTest(t, addr)).Publish(t.Context(), &pb.PublishRequest{})
		if got := status.Code(err); got != tc.code {
			t.Errorf("%s: got code %v, want %v", name, got, tc.code)
		}
		waits := slices.Contains([]string{"no quorum", "overloaded", "disk full"}, name)
		if got := slices.ContainsFunc(status.Convert(err).Details(), isRetryInfo); got != waits {
			t.Errorf("%s: says when to ask again: %t, want %t", name, got, waits)
		}
		if _, err := c.Publish(t.Context(), 1, "app/x", "t", nil); !errors.Is(err, tc.want) {
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
	c, addr := clientOf(t, &eventNode{
		publish: func(zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error) {
			got = append(got, zone, topic, kind, string(payload))
			return 42, nil
		},
		retain: func(zone nexusraft.ZoneID, count uint64, age time.Duration) error {
			got = append(got, zone, count, age)
			return nil
		},
	})
	sequence, err := c.Publish(t.Context(), 1, "app/x", "t", []byte("p"))
	if err != nil || sequence != 42 {
		t.Errorf("publish: got %d, %v, want 42", sequence, err)
	}
	_, err = pb.NewEventStreamClient(dialTest(t, addr)).Retain(t.Context(), &pb.RetainRequest{Zone: 1, Count: 7, AgeNanos: int64(time.Hour)})
	if err != nil {
		t.Error(err)
	}
	want := []any{nexusraft.ZoneID(1), "app/x", "t", "p", nexusraft.ZoneID(1), uint64(7), time.Hour}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("handed over (-want +got):\n%s", d)
	}
}

// Too many filters are refused by whoever sees them first, and never get to the handler.
func TestSubscriptionLimits(t *testing.T) {
	c, addr := clientOf(t, &eventNode{subscribe: func(context.Context, Subscription) iter.Seq2[EventBatch, error] {
		t.Error("it got to the handler")
		return func(func(EventBatch, error) bool) {}
	}})
	long := strings.Repeat("x", nexusraft.MaxEventNameBytes+1)
	for _, s := range []Subscription{{Topics: make([]string, MaxEventFilters+1)}, {Types: make([]string, MaxEventFilters+1)}, {Topics: []string{long}}, {Types: []string{long}}} {
		for _, err := range c.Subscribe(t.Context(), s) {
			if !errors.Is(err, nexusraft.ErrTooLarge) {
				t.Errorf("client: got %v, want ErrTooLarge", err)
			}
		}
		stream, err := pb.NewEventStreamClient(dialTest(t, addr)).Subscribe(t.Context(), &pb.SubscribeRequest{Topics: s.Topics, Types: s.Types})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("server: got %v, want InvalidArgument", err)
		}
	}
}

// A node without events, as a witness is, says so.
func TestNoEvents(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	stream, err := pb.NewEventStreamClient(dialTest(t, addr)).Subscribe(t.Context(), &pb.SubscribeRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v, want Unimplemented", err)
	}
}
