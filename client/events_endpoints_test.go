package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

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
		if tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) ||
			!strings.HasPrefix(err.Error(), "subscribe: client: 127.") {
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
	h := &history{
		newest: 9, broken: status.Error(codes.Unavailable, "cut"),
		breaks: map[int]bool{3: true, 6: true, 9: true},
	}
	n := startEvents(t, func(n *eventNode) { n.subscribe = h.subscribe })
	c := connect(t, Options{Endpoints: []string{w.address, n.address}})
	if d := cmp.Diff(wantEvents(1, 9), collect(t, c, Subscription{From: 1}, 9)); d != "" || w.streams.Load() < 3 {
		t.Errorf("the witness was asked %d times, events (-want +got):\n%s", w.streams.Load(), d)
	}
}

// A witness is asked again and again while the members elect a leader.
func TestUnfitEndpointDuringAnElectionOfEvents(t *testing.T) {
	t.Parallel()
	w := startEvents(t, refusing(status.Error(codes.Unimplemented, "unknown service")))
	h := &history{newest: 3, broken: answer(nexusraft.ErrNoQuorum, codes.Unavailable, "no leader")}
	h.breaks = map[int]bool{1: true, 2: true, 3: true, 4: true}
	n := startEvents(t, func(n *eventNode) { n.subscribe = h.subscribe })
	c := connect(t, Options{Endpoints: []string{w.address, n.address}})
	if d := cmp.Diff(wantEvents(1, 3), collect(t, c, Subscription{From: 1}, 3)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
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
	c := connect(t, Options{
		Endpoints: []string{n.address}, AttemptTimeout: 50 * time.Millisecond,
		OnWait: func(err error) {
			reason = err
			cancel()
		},
	})
	for _, err := range c.Subscribe(ctx, Subscription{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	}
	if reason == nil || !strings.Contains(reason.Error(), n.address+": no answer in time") {
		t.Errorf("got reason %v, want the endpoint that did not answer", reason)
	}
}

func TestSilentAndDeadEndpointsArePassedOver(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
				return send(&subscribeResponse{Events: []*pb.Event{event(1)}, NextSequence: 2})
			}
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, AttemptTimeout: silence})
	collect(t, c, Subscription{From: 1}, 1)
	if got := n.streams.Load(); got != 1 {
		t.Errorf("got %d streams, want the first one kept", got)
	}
}

// A node that hangs in the middle of a stream is left, though nothing breaks: it promises to be
// heard of, and is not. One that keeps its promise is kept, however long nothing happens.
func TestHungNodeIsLeft(t *testing.T) {
	t.Parallel()
	const idle = 20 // milliseconds
	hung := startEvents(t, func(n *eventNode) {
		n.subscribe = func(_ *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error {
			for range 10 { // it lives for three times as long as silence is borne
				if err := send(&subscribeResponse{NextSequence: 1, IdleMillis: idle}); err != nil {
					return err
				}
				select {
				case <-ended:
				case <-time.After(idle * time.Millisecond):
				}
			}
			<-ended
			return nil
		}
	})
	n := startEvents(t, func(n *eventNode) { n.subscribe = (&history{newest: 3}).subscribe })
	c := connect(t, Options{Endpoints: []string{hung.address, n.address}})
	if d := cmp.Diff(wantEvents(1, 3), collect(t, c, Subscription{From: 1}, 3)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if got := hung.streams.Load(); got != 1 {
		t.Errorf("the node that hung got %d streams, want 1", got)
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
			pb.RegisterEventStreamServer(n.server, n)
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
	t.Parallel()
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

// A node that says when to ask again is not asked before.
func TestSubscriptionKeepsRetryAfter(t *testing.T) {
	t.Parallel()
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
