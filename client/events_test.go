package client

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

func TestSubscribe(t *testing.T) {
	var req *subscribeRequest
	n := startEvents(t, func(n *eventNode) {
		h := &history{newest: 5}
		n.subscribe = func(r *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			req = r
			return h.subscribe(r, send, ended)
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, Zone: 7})
	got := collect(t, c, Subscription{From: 2, Topics: []string{"app"}, Types: []string{"a", "b"}}, 5)
	if d := cmp.Diff(wantEvents(2, 5), got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	want := &subscribeRequest{Zone: 7, FromSequence: 2, Topics: []string{"app"}, Types: []string{"a", "b"}}
	if !proto.Equal(req, want) {
		t.Errorf("got request %v, want %v", req, want)
	}
}

// The first batch says where the subscription stands, so that it can be gone on with even
// if nothing happens.
func TestSubscribeFromNowOnSaysWhere(t *testing.T) {
	n := startEvents(t, func(n *eventNode) { n.subscribe = (&history{newest: 41}).subscribe })
	c := connect(t, Options{Endpoints: []string{n.address}})
	for batch, err := range c.Subscribe(within(t), Subscription{}) {
		if err != nil || len(batch.Events) != 0 || batch.Next != 42 {
			t.Errorf("got %+v, %v; want no event and Next 42", batch, err)
		}
		break
	}
}

// Wherever a stream breaks, and however, the events come once each and in order, through one
// endpoint or two.
func TestBrokenStreamsLeaveNoGap(t *testing.T) {
	t.Parallel()
	const newest = 9
	for name, broken := range map[string]error{
		"cut":      status.Error(codes.Unavailable, "cut"),
		"ended":    nil,
		"internal": status.Error(codes.Internal, "stream terminated by RST_STREAM"),
		"closed":   answer(nexusraft.ErrClosed, codes.Unavailable, "stops"),
		"quorum":   answer(nexusraft.ErrNoQuorum, codes.Unavailable, "no leader"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= 6; at++ {
				if name == "internal" && at == 1 {
					continue // not in the middle of a stream: it is final
				}
				breaks := map[int]bool{at: true, at + 2: true, at + 3: at > 1 && name != "internal"}
				brokenStreams(t, 1, &history{newest: newest, broken: broken, breaks: breaks})
				brokenStreams(t, 2, &history{newest: newest, broken: broken, breaks: breaks})
			}
		})
	}
}

// brokenStreams follows a history through so many endpoints.
func brokenStreams(t *testing.T, endpoints int, h *history) {
	t.Helper()
	var nodes []*eventNode
	var o Options
	for range endpoints {
		n := startEvents(t, func(n *eventNode) { n.subscribe = h.subscribe })
		nodes, o.Endpoints = append(nodes, n), append(o.Endpoints, n.address)
	}
	got := collect(t, connect(t, o), Subscription{From: 1}, h.newest)
	if d := cmp.Diff(wantEvents(1, h.newest), got); d != "" {
		t.Errorf("broken before responses %v, %d endpoints (-want +got):\n%s", h.breaks, endpoints, d)
	}
	if len(h.asked) < 2 || nodes[endpoints-1].streams.Load() == 0 {
		t.Errorf("broken before responses %v, %d endpoints: streams from %v: it never broke", h.breaks, endpoints, h.asked)
	}
}

// A subscription from now on that breaks before anything happens misses nothing of what
// happens until it is back.
func TestFromNowOnIsKeptThroughABreak(t *testing.T) {
	h := &history{newest: 3, breaks: map[int]bool{2: true}, broken: status.Error(codes.Unavailable, "cut")}
	stands := make(chan struct{})
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(r *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			if n.streams.Load() == 1 {
				if err := send(&subscribeResponse{NextSequence: 4}); err != nil {
					return err
				}
				<-stands
				h.newest = 6
				return h.broken
			}
			return h.subscribe(r, send, ended)
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	var got []nexusraft.Event
	for batch, err := range c.Subscribe(within(t), Subscription{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got == nil && len(batch.Events) == 0 {
			close(stands)
			got = []nexusraft.Event{}
		}
		if got = append(got, batch.Events...); len(got) >= 3 {
			break
		}
	}
	if d := cmp.Diff(wantEvents(4, 6), got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestDuplicatesAreLeftOut(t *testing.T) {
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			for _, resp := range []*subscribeResponse{
				{NextSequence: 1},
				{Events: []*pb.Event{event(1), event(2)}, NextSequence: 3},
				{Events: []*pb.Event{event(1), event(2)}, NextSequence: 2},
				{Events: []*pb.Event{event(2), event(3)}}, // and no next
				{Events: []*pb.Event{event(4)}, NextSequence: 5},
			} {
				if err := send(resp); err != nil {
					return err
				}
			}
			<-ended
			return nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	var next []uint64
	var got []nexusraft.Event
	for batch, err := range c.Subscribe(within(t), Subscription{From: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		got, next = append(got, batch.Events...), append(next, batch.Next)
		if len(got) >= 4 {
			break
		}
	}
	if d := cmp.Diff(wantEvents(1, 4), got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]uint64{1, 3, 4, 5}, next); d != "" {
		t.Errorf("positions (-want +got):\n%s", d)
	}
}

// What a filter leaves out moves the position, and only that is told.
func TestFilteredEventsMoveThePosition(t *testing.T) {
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			for _, resp := range []*subscribeResponse{
				{NextSequence: 3},
				{NextSequence: 3},
				{NextSequence: 90},
				{Events: []*pb.Event{event(100)}, NextSequence: 120},
			} {
				if err := send(resp); err != nil {
					return err
				}
			}
			<-ended
			return nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	var next []uint64
	for batch, err := range c.Subscribe(within(t), Subscription{From: 3, Types: []string{"type100"}}) {
		if err != nil {
			t.Fatal(err)
		}
		next = append(next, batch.Next)
		if len(batch.Events) > 0 {
			break
		}
	}
	if d := cmp.Diff([]uint64{3, 90, 120}, next); d != "" {
		t.Errorf("positions (-want +got):\n%s", d)
	}
}

// A node that leaves out events of a subscription to all of them is found out.
func TestMissingEventsAreAnError(t *testing.T) {
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, _ <-chan struct{}) error {
			return send(&subscribeResponse{Events: []*pb.Event{event(5), event(7)}, NextSequence: 8})
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	for batch, err := range c.Subscribe(within(t), Subscription{From: 5}) {
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "after event 5 comes event 7") {
			t.Errorf("got %v, %v; want %v, and which is missing", batch, err, nexusraft.ErrCorrupt)
		}
	}
}

// What is no longer kept is no longer kept at any endpoint: the error says what still is.
func TestGoneEvents(t *testing.T) {
	gone := answer(&nexusraft.GoneError{Asked: 5, Oldest: 40}, codes.OutOfRange, "gone")
	a, b := startEvents(t, refusing(gone)), startEvents(t, refusing(gone))
	c := connect(t, Options{Endpoints: []string{a.address, b.address}})
	err := subscribeError(t, c, Subscription{From: 5})
	g, ok := errors.AsType[*nexusraft.GoneError](err)
	if !ok || *g != (nexusraft.GoneError{Asked: 5, Oldest: 40}) || a.streams.Load()+b.streams.Load() != 1 {
		t.Errorf("got %v after %d streams, want what is gone after one", err, a.streams.Load()+b.streams.Load())
	}
}

func TestSubscriptionEndsWithItsContext(t *testing.T) {
	n := startEvents(t, func(n *eventNode) { n.subscribe = (&history{newest: 3}).subscribe })
	c := connect(t, Options{Endpoints: []string{n.address}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	errs := 0
	for _, err := range c.Subscribe(ctx, Subscription{}) {
		cancel()
		if err != nil {
			last = err
			errs++
		}
	}
	if !errors.Is(last, context.Canceled) || errs != 1 || strings.Contains(last.Error(), "written") {
		t.Errorf("got %d errors, last %v; want one, %v", errs, last, context.Canceled)
	}
}

func TestSubscriptionOfAClosedClient(t *testing.T) {
	c := connect(t, Options{Endpoints: []string{"127.0.0.1:1"}})
	c.Close()
	if err := subscribeError(t, c, Subscription{}); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want %v", err, nexusraft.ErrClosed)
	}
}

func ownEvent(incarnation, sequence uint64, kind string) *pb.Event {
	return &pb.Event{Sequence: sequence, Incarnation: incarnation, Topic: "leader", Type: kind}
}

// A node's own events are asked of that node alone. When it was started again they begin
// anew, and the gap is told.
func TestOwnEvents(t *testing.T) {
	var asked []*subscribeRequest
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(r *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			asked = append(asked, r)
			if len(asked) == 1 {
				send(&subscribeResponse{NextSequence: 7, Incarnation: 3})
				send(&subscribeResponse{
					Events: []*pb.Event{ownEvent(3, 7, "a"), ownEvent(3, 8, "b")}, NextSequence: 9,
					Incarnation: 3,
				})
				return status.Error(codes.Unavailable, "stops")
			}
			send(&subscribeResponse{Events: []*pb.Event{ownEvent(4, 0, GapType)}, NextSequence: 1, Incarnation: 4})
			send(&subscribeResponse{Events: []*pb.Event{ownEvent(4, 1, "c")}, NextSequence: 2, Incarnation: 4})
			send(&subscribeResponse{
				Events: []*pb.Event{ownEvent(4, 8, GapType), ownEvent(4, 9, "d")}, NextSequence: 10,
				Incarnation: 4,
			})
			<-ended
			return nil
		}
	})
	other := startEvents(t, refusing(status.Error(codes.Internal, "not asked")))
	c := connect(t, Options{Endpoints: []string{other.address, n.address}})
	type at struct {
		kind        string
		sequence    uint64
		incarnation nexusraft.Incarnation
	}
	var got []at
	for batch, err := range c.Subscribe(within(t), Subscription{Node: n.address}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			got = append(got, at{e.Type, e.Sequence, e.Incarnation})
		}
		got = append(got, at{"next", batch.Next, batch.Incarnation})
		if len(got) == 11 {
			break
		}
	}
	want := []at{
		{"next", 7, 3},
		{"a", 7, 3},
		{"b", 8, 3},
		{"next", 9, 3},
		{GapType, 0, 4},
		{"next", 1, 4},
		{"c", 1, 4},
		{"next", 2, 4},
		{GapType, 8, 4},
		{"d", 9, 4},
		{"next", 10, 4},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(at{})); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	wantAsked := []*subscribeRequest{{}, {FromSequence: 9, Incarnation: 3}}
	if len(asked) != 2 || !proto.Equal(asked[0], wantAsked[0]) || !proto.Equal(asked[1], wantAsked[1]) {
		t.Errorf("got requests %v, want %v", asked, wantAsked)
	}
	if other.streams.Load() != 0 {
		t.Error("another node was asked for a node's own events")
	}
}
