package transport

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// End ends a node's stream, and what comes by it afterwards, or by a new one whose handshake was
// accepted before, is not handed on.
func TestEndOfANode(t *testing.T) {
	var received atomic.Int32
	f := &fakeNode{receive: func(nexusraft.NodeID, []Message) { received.Add(1) }}
	s := NewServer(as(identityB), f.handlers())
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	client := pb.NewRaftTransportClient(dialTest(t, addr))
	open := func() pb.RaftTransport_ExchangeClient {
		t.Helper()
		stream, err := client.Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: hello(identityA,
			nodeB)}}); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	stream := open()
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	s.End(nodeA, fmt.Errorf("%w: node a was removed", nexusraft.ErrFenced))
	// It may have ended by now.
	_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Frame{Frame: &pb.Frame{Messages: []*pb.Envelope{{
		Zone:    1,
		Message: []byte("late"),
	}}}}})
	for name, stream := range map[string]pb.RaftTransport_ExchangeClient{"the open one": stream, "a new one": open()} {
		if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition ||
			!strings.Contains(err.Error(), "node a was removed") {
			t.Errorf("%s: got %v, want FailedPrecondition with the reason", name, err)
		}
	}
	if n := received.Load(); n != 0 {
		t.Errorf("%d frames were handed on after the end", n)
	}
}
