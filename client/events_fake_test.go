package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

type (
	subscribeRequest  = pb.SubscribeRequest
	subscribeResponse = pb.SubscribeResponse
)

// eventNode is a node on a loopback socket that serves events as a test says.
type eventNode struct {
	pb.UnimplementedEventStreamServer

	address string
	server  *grpc.Server
	streams atomic.Int64

	subscribe func(req *subscribeRequest, send func(*subscribeResponse) error, ended <-chan struct{}) error
	publish   func(*pb.PublishRequest) (*pb.PublishResponse, error)
	retain    func(*pb.RetainRequest) (*pb.RetainResponse, error)
}

func (n *eventNode) Retain(_ context.Context, req *pb.RetainRequest) (*pb.RetainResponse, error) {
	return n.retain(req)
}

func (n *eventNode) Subscribe(req *subscribeRequest, s grpc.ServerStreamingServer[subscribeResponse]) error {
	n.streams.Add(1)
	return n.subscribe(req, s.Send, s.Context().Done())
}

func (n *eventNode) Publish(_ context.Context, req *pb.PublishRequest) (*pb.PublishResponse, error) {
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
	pb.RegisterEventStreamServer(n.server, n)
	serve(t, n.server, l)
	return n
}

// event is the event with a sequence; all its fields depend on it.
func event(sequence uint64) *pb.Event {
	return &pb.Event{
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
func collect(t *testing.T, c *Client, s Subscription, last uint64) []nexusraft.Event {
	t.Helper()
	var got []nexusraft.Event
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

func wantEvents(first, last uint64) (want []nexusraft.Event) {
	for ; first <= last; first++ {
		want = append(want, wire.EventFromProto(event(first)))
	}
	return want
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
