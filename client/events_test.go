package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	nexusraftv1 "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

type (
	subscribeRequest  = nexusraftv1.SubscribeRequest
	subscribeResponse = nexusraftv1.SubscribeResponse
)

// eventNode is a node on a loopback socket that serves events as a test says.
type eventNode struct {
	nexusraftv1.UnimplementedEventStreamServer

	address string
	server  *grpc.Server
	streams atomic.Int64

	subscribe func(req *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error
	publish   func(*nexusraftv1.PublishRequest) (*nexusraftv1.PublishResponse, error)
	retain    func(*nexusraftv1.RetainRequest) (*nexusraftv1.RetainResponse, error)
}

func (n *eventNode) Retain(_ context.Context, req *nexusraftv1.RetainRequest) (*nexusraftv1.RetainResponse, error) {
	return n.retain(req)
}

func (n *eventNode) Subscribe(req *subscribeRequest, s grpc.ServerStreamingServer[subscribeResponse]) error {
	n.streams.Add(1)
	return n.subscribe(req, s.Send, s.Context().Done())
}

func (n *eventNode) Publish(_ context.Context, req *nexusraftv1.PublishRequest) (*nexusraftv1.PublishResponse, error) {
	return n.publish(req)
}

func startEvents(t *testing.T, setup func(*eventNode)) *eventNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &eventNode{address: l.Addr().String(), server: grpc.NewServer()}
	setup(n)
	nexusraftv1.RegisterEventStreamServer(n.server, n)
	serve(t, n.server, l)
	return n
}

// event is the event with a sequence; all its fields depend on it.
func event(sequence uint64) *nexusraftv1.Event {
	return &nexusraftv1.Event{
		Sequence: sequence, Topic: "app/t", Type: fmt.Sprint("type", sequence), Payload: []byte{byte(sequence)},
		Time: timestamppb.New(time.Unix(int64(sequence), 0)), Zone: 1,
	}
}

// history serves the events 1 to newest in batches of two; after that it stays, or ends
// with broken. It breaks each stream before the response with a number in breaks, counted
// over all streams.
type history struct {
	newest uint64
	broken error

	mu        sync.Mutex
	responses int
	breaks    map[int]bool
	asked     []uint64 // from_sequence of each stream
}

func (h *history) subscribe(req *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
	h.mu.Lock()
	h.asked = append(h.asked, req.GetFromSequence())
	h.mu.Unlock()
	next := req.GetFromSequence()
	if next == 0 {
		next = h.newest + 1
	}
	resp := &subscribeResponse{NextSequence: next}
	for {
		if h.breaksNow() {
			return h.broken
		}
		if err := send(resp); err != nil {
			return err
		}
		if next > h.newest {
			<-ended
			return nil
		}
		resp = &subscribeResponse{}
		for ; next <= h.newest && len(resp.Events) < 2; next++ {
			resp.Events = append(resp.Events, event(next))
		}
		resp.NextSequence = next
	}
}

func (h *history) breaksNow() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.responses++
	return h.breaks[h.responses]
}

// collect takes events until it has the one with the sequence last.
func collect(t *testing.T, c *Client, s Subscription, last uint64) []Event {
	t.Helper()
	var got []Event
	for batch, err := range c.Subscribe(within(t), s) {
		if err != nil {
			t.Fatalf("after %d events: %v", len(got), err)
		}
		got = append(got, batch.Events...)
		if n := len(got); n > 0 && got[n-1].Sequence >= last {
			break
		}
	}
	return got
}

func wantEvents(first, last uint64) (want []Event) {
	for ; first <= last; first++ {
		want = append(want, newEvent(event(first)))
	}
	return want
}

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
	var got []Event
	for batch, err := range c.Subscribe(within(t), Subscription{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got == nil && len(batch.Events) == 0 {
			close(stands)
			got = []Event{}
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
				{Events: []*nexusraftv1.Event{event(1), event(2)}, NextSequence: 3},
				{Events: []*nexusraftv1.Event{event(1), event(2)}, NextSequence: 2},
				{Events: []*nexusraftv1.Event{event(2), event(3)}}, // and no next
				{Events: []*nexusraftv1.Event{event(4)}, NextSequence: 5},
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
	var got []Event
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
				{Events: []*nexusraftv1.Event{event(100)}, NextSequence: 120},
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
			return send(&subscribeResponse{Events: []*nexusraftv1.Event{event(5), event(7)}, NextSequence: 8})
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	for batch, err := range c.Subscribe(within(t), Subscription{From: 5}) {
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "after event 5 comes event 7") {
			t.Errorf("got %v, %v; want %v, and which is missing", batch, err, nexusraft.ErrCorrupt)
		}
	}
}

// subscribeError returns what a subscription ends with, within the test's time.
func subscribeError(t *testing.T, c *Client, s Subscription) error {
	t.Helper()
	for _, err := range c.Subscribe(within(t), s) {
		if err != nil {
			return err
		}
	}
	t.Fatal("the subscription ended without an error")
	return nil
}

func refusing(err error) func(*eventNode) {
	return func(n *eventNode) {
		n.subscribe = func(*subscribeRequest, func(*subscribeResponse) error, <-chan struct{}) error { return err }
	}
}

func TestRefusedSubscriptions(t *testing.T) {
	for _, tc := range []struct {
		err     error
		want    error // nil: only the text counts
		text    string
		streams int64 // with two such nodes
	}{
		{status.Error(codes.InvalidArgument, "too many topics"), nil, "too many topics", 1},
		{status.Error(codes.PermissionDenied, "needs read"), nil, "needs read", 1},
		{status.Error(codes.Internal, "broken"), nil, "broken", 1},
		{answer(nexusraft.ErrRefused, codes.FailedPrecondition, "ahead"), nexusraft.ErrRefused, "", 1},
		{answer(nexusraft.ErrZoneNotFound, codes.NotFound, "no zone"), nexusraft.ErrZoneNotFound, "", 2},
		{status.Error(codes.Unimplemented, "unknown service"), nil, "name a member", 2},
	} {
		a, b := startEvents(t, refusing(tc.err)), startEvents(t, refusing(tc.err))
		c := connect(t, Options{Endpoints: []string{a.address, b.address}})
		err := subscribeError(t, c, Subscription{From: 9})
		if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) || !strings.HasPrefix(err.Error(), "subscribe: client: 127.") {
			t.Errorf("%v: got %v", tc.err, err)
		}
		if got := a.streams.Load() + b.streams.Load(); got != tc.streams {
			t.Errorf("%v: got %d streams, want %d", tc.err, got, tc.streams)
		}
	}
}

// A witness or a member of other zones among the endpoints is passed over.
func TestUnfitEndpointsArePassedOver(t *testing.T) {
	for _, unfit := range []error{
		status.Error(codes.Unimplemented, "unknown service"),
		answer(nexusraft.ErrZoneNotFound, codes.NotFound, "no zone"),
	} {
		w := startEvents(t, refusing(unfit))
		n := startEvents(t, func(n *eventNode) { n.subscribe = (&history{newest: 3}).subscribe })
		c := connect(t, Options{Endpoints: []string{w.address, n.address}})
		if d := cmp.Diff(wantEvents(1, 3), collect(t, c, Subscription{From: 1}, 3)); d != "" {
			t.Errorf("%v: events (-want +got):\n%s", unfit, d)
		}
	}
}

// A witness is passed over however often the member's streams break.
func TestUnfitEndpointIsPassedOverAgainAndAgain(t *testing.T) {
	w := startEvents(t, refusing(status.Error(codes.Unimplemented, "unknown service")))
	h := &history{newest: 9, broken: status.Error(codes.Unavailable, "cut"), breaks: map[int]bool{3: true, 6: true, 9: true}}
	n := startEvents(t, func(n *eventNode) { n.subscribe = h.subscribe })
	c := connect(t, Options{Endpoints: []string{w.address, n.address}})
	if d := cmp.Diff(wantEvents(1, 9), collect(t, c, Subscription{From: 1}, 9)); d != "" || w.streams.Load() < 3 {
		t.Errorf("the witness was asked %d times, events (-want +got):\n%s", w.streams.Load(), d)
	}
}

func TestSilentNodeIsSaid(t *testing.T) {
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, _ func(*subscribeResponse) error, ended <-chan struct{}) error {
			<-ended
			return nil
		}
	})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var reason error
	c := connect(t, Options{Endpoints: []string{n.address}, AttemptTimeout: 50 * time.Millisecond, OnWait: func(err error) {
		reason = err
		cancel()
	}})
	for _, err := range c.Subscribe(ctx, Subscription{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	}
	if reason == nil || !strings.Contains(reason.Error(), n.address+": no answer in time") {
		t.Errorf("got reason %v, want who did not answer", reason)
	}
}

func TestSilentAndDeadEndpointsArePassedOver(t *testing.T) {
	stuck := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, _ func(*subscribeResponse) error, ended <-chan struct{}) error {
			<-ended
			return nil
		}
	})
	n := startEvents(t, func(n *eventNode) { n.subscribe = (&history{newest: 3}).subscribe })
	c := connect(t, Options{
		Endpoints:   []string{deadAddress(t), silentAddress(t), stuck.address, n.address},
		DialTimeout: 100 * time.Millisecond, AttemptTimeout: 100 * time.Millisecond,
	})
	if d := cmp.Diff(wantEvents(1, 3), collect(t, c, Subscription{From: 1}, 3)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if got, want := c.firstIndex(), 3; got != want {
		t.Errorf("endpoint to try first: got %d, want %d", got, want)
	}
}

// A stream that stands may be quiet for as long as it likes.
func TestQuietStreamIsKept(t *testing.T) {
	const silence = 50 * time.Millisecond
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			if err := send(&subscribeResponse{NextSequence: 1}); err != nil {
				return err
			}
			select {
			case <-ended:
				return nil
			case <-time.After(4 * silence):
				return send(&subscribeResponse{Events: []*nexusraftv1.Event{event(1)}, NextSequence: 2})
			}
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, AttemptTimeout: silence})
	collect(t, c, Subscription{From: 1}, 1)
	if got := n.streams.Load(); got != 1 {
		t.Errorf("got %d streams, want the first one kept", got)
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

// While no endpoint answers the caller is told why, and the subscription goes on as soon
// as one is back.
func TestSubscriptionWaitsForANode(t *testing.T) {
	address := deadAddress(t)
	var back atomic.Pointer[eventNode]
	var once sync.Once
	c := connect(t, Options{Endpoints: []string{address}, OnWait: func(reason error) {
		if !strings.Contains(reason.Error(), address) {
			t.Errorf("got reason %v, want the address in it", reason)
		}
		once.Do(func() {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			n := &eventNode{address: address, server: grpc.NewServer(), subscribe: (&history{newest: 3}).subscribe}
			nexusraftv1.RegisterEventStreamServer(n.server, n)
			serve(t, n.server, l)
			back.Store(n)
		})
	}})
	if d := cmp.Diff(wantEvents(2, 3), collect(t, c, Subscription{From: 2}, 3)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if back.Load() == nil {
		t.Error("nobody was told of the wait")
	}
}

// A node that breaks every stream at once is not asked without a pause.
func TestBreakingStreamsAreBackedOff(t *testing.T) {
	a := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, _ <-chan struct{}) error {
			return send(&subscribeResponse{NextSequence: 5}) // and ends
		}
	})
	c := connect(t, Options{Endpoints: []string{a.address, a.address}})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for _, err := range c.Subscribe(ctx, Subscription{From: 5}) {
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want it to go on", err)
		}
	}
	if got := a.streams.Load(); got < 4 || got > 40 {
		t.Errorf("got %d streams in half a second, want a few", got)
	}
}

func ownEvent(incarnation, sequence uint64, kind string) *nexusraftv1.Event {
	return &nexusraftv1.Event{Sequence: sequence, Incarnation: incarnation, Topic: "leader", Type: kind}
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
				send(&subscribeResponse{Events: []*nexusraftv1.Event{ownEvent(3, 7, "a"), ownEvent(3, 8, "b")}, NextSequence: 9, Incarnation: 3})
				return status.Error(codes.Unavailable, "stops")
			}
			send(&subscribeResponse{Events: []*nexusraftv1.Event{ownEvent(4, 0, GapType)}, NextSequence: 1, Incarnation: 4})
			send(&subscribeResponse{Events: []*nexusraftv1.Event{ownEvent(4, 1, "c")}, NextSequence: 2, Incarnation: 4})
			send(&subscribeResponse{Events: []*nexusraftv1.Event{ownEvent(4, 8, GapType), ownEvent(4, 9, "d")}, NextSequence: 10, Incarnation: 4})
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
	want := []at{{"next", 7, 3}, {"a", 7, 3}, {"b", 8, 3}, {"next", 9, 3}, {GapType, 0, 4}, {"next", 1, 4}, {"c", 1, 4}, {"next", 2, 4}, {GapType, 8, 4}, {"d", 9, 4}, {"next", 10, 4}}
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

func TestPublish(t *testing.T) {
	var got *nexusraftv1.PublishRequest
	n := startEvents(t, func(n *eventNode) {
		n.publish = func(r *nexusraftv1.PublishRequest) (*nexusraftv1.PublishResponse, error) {
			got = r
			return &nexusraftv1.PublishResponse{Sequence: 57}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{deadAddress(t), n.address}, Zone: 3})
	sequence, err := c.Publish(within(t), "app/a", "made", []byte("p"))
	want := &nexusraftv1.PublishRequest{Zone: 3, Topic: "app/a", Type: "made", Payload: []byte("p")}
	if sequence != 57 || err != nil || !proto.Equal(got, want) {
		t.Errorf("got %d, %v, request %v; want 57, %v", sequence, err, got, want)
	}
}

func TestRetainEvents(t *testing.T) {
	var got *nexusraftv1.RetainRequest
	n := startEvents(t, func(n *eventNode) {
		n.retain = func(r *nexusraftv1.RetainRequest) (*nexusraftv1.RetainResponse, error) {
			got = r
			return &nexusraftv1.RetainResponse{}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, Zone: 3})
	err := c.RetainEvents(within(t), 500, time.Hour)
	want := &nexusraftv1.RetainRequest{Zone: 3, Count: 500, AgeNanos: time.Hour.Nanoseconds()}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, request %v; want %v", err, got, want)
	}
}

func TestPublishErrors(t *testing.T) {
	for _, tc := range []struct {
		answer, want error
		times        int64
	}{
		{answer(nexusraft.ErrUncertain, codes.Unknown, "?"), nexusraft.ErrUncertain, 1},
		{status.Error(codes.Unavailable, "cut"), nexusraft.ErrUncertain, 1},
		{answer(nexusraft.ErrRefused, codes.InvalidArgument, "topic"), nexusraft.ErrRefused, 1},
		{answer(nexusraft.ErrOverloaded, codes.ResourceExhausted, "busy"), nil, 2}, // not appended: tried again
	} {
		var times atomic.Int64
		n := startEvents(t, func(n *eventNode) {
			n.publish = func(*nexusraftv1.PublishRequest) (*nexusraftv1.PublishResponse, error) {
				if times.Add(1) == 1 {
					return nil, tc.answer
				}
				return &nexusraftv1.PublishResponse{Sequence: 5}, nil
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		_, err := c.Publish(within(t), "app/a", "made", nil)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || times.Load() != tc.times {
			t.Errorf("%v: got %v after %d calls, want %v after %d", tc.answer, err, times.Load(), tc.want, tc.times)
		}
	}
	c := connect(t, Options{Endpoints: []string{"127.0.0.1:1"}})
	if _, err := c.Publish(within(t), "app/a", "made", make([]byte, maxPutBytes)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("a huge payload: got %v, want %v", err, nexusraft.ErrTooLarge)
	}
}

func TestPayloads(t *testing.T) {
	pair := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: 4, Version: 3}
	b, err := proto.Marshal(&mvccpb.Event{Kv: pair})
	if err != nil {
		t.Fatal(err)
	}
	kv, err := Event{Payload: b}.KeyValue()
	if d := cmp.Diff(keyValue(pair), kv); d != "" || err != nil {
		t.Errorf("pair: %v, (-want +got):\n%s", err, d)
	}
	m := nexusraft.Member{Replica: 1, Node: 2, Name: "n", Address: "a:1", Role: nexusraft.RoleLearner}
	set := wire.MembershipToProto(nexusraft.Membership{Members: []nexusraft.Member{m}})
	if b, err = proto.Marshal(set.Members[0]); err != nil {
		t.Fatal(err)
	}
	got, err := Event{Payload: b}.Member()
	if d := cmp.Diff(m, got); d != "" || err != nil {
		t.Errorf("member: %v, (-want +got):\n%s", err, d)
	}
}

func TestDetails(t *testing.T) {
	for topic, tc := range map[string]struct {
		payload proto.Message
		want    Detail
	}{
		LeaderTopic:   {&nexusraftv1.LeaderEvent{Node: 1, Replica: 2, Term: 3}, Detail{Node: 1, Replica: 2, Term: 3}},
		SyncTopic:     {&nexusraftv1.SyncEvent{Term: 3, Index: 4}, Detail{Term: 3, Index: 4}},
		PeerTopic:     {&nexusraftv1.PeerEvent{Node: 1, Address: "a:1"}, Detail{Node: 1, Address: "a:1"}},
		HealthTopic:   {&nexusraftv1.HealthEvent{Problem: "disk"}, Detail{Problem: "disk"}},
		SnapshotTopic: {&nexusraftv1.SnapshotEvent{Node: 1, Index: 4, Term: 3, Problem: "cut"}, Detail{Node: 1, Index: 4, Term: 3, Problem: "cut"}},
		"app/leader":  {&nexusraftv1.LeaderEvent{Node: 1}, Detail{}},
	} {
		b, err := proto.Marshal(tc.payload)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (Event{Topic: topic, Payload: b}).Detail(); got != tc.want || err != nil {
			t.Errorf("%s: got %+v, %v; want %+v", topic, got, err, tc.want)
		}
	}
}

// A payload is decoded, or refused as corrupt.
func FuzzPayload(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xff})
	f.Add([]byte("\x12\x06\x0a\x01k\x2a\x01v"))
	f.Add([]byte("\x09\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e := Event{Sequence: 5, Topic: "t", Payload: payload}
		if kv, err := e.KeyValue(); (err == nil) == (len(kv.Key) == 0) || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got pair %v, %v", kv, err)
		}
		for _, topic := range []string{LeaderTopic, SyncTopic, PeerTopic, HealthTopic, SnapshotTopic} {
			own := Event{Topic: topic, Payload: payload}
			if d, err := own.Detail(); err != nil && (d != Detail{} || !errors.Is(err, nexusraft.ErrCorrupt)) {
				t.Errorf("got detail %v, %v", d, err)
			}
		}
		if m, err := e.Member(); (err == nil) == (m.Replica == 0) || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got member %v, %v", m, err)
		}
	})
}

// A node that says when to ask again is not asked before.
func TestSubscriptionKeepsRetryAfter(t *testing.T) {
	const after = 300 * time.Millisecond
	busy, err := status.New(codes.ResourceExhausted, "busy").WithDetails(
		wire.ErrorToProto(nexusraft.ErrOverloaded), &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		t.Fatal(err)
	}
	h, asked := &history{newest: 2}, atomic.Int64{}
	n := startEvents(t, func(n *eventNode) {
		n.subscribe = func(req *subscribeRequest, send func(*subscribeResponse) error, gone <-chan struct{}) error {
			if asked.Add(1) == 1 {
				return busy.Err()
			}
			return h.subscribe(req, send, gone)
		}
	})
	begin := time.Now()
	got := collect(t, connect(t, Options{Endpoints: []string{n.address}}), Subscription{From: 1}, 2)
	if d := cmp.Diff(wantEvents(1, 2), got); d != "" || time.Since(begin) < after {
		t.Errorf("after %v, want %v; events (-want +got):\n%s", time.Since(begin), after, d)
	}
}
