package transport

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

func protoSize(m proto.Message) int { return proto.Size(m) }

// refusals are handshakes that B refuses, each with a text that names why.
var refusals = []struct {
	name  string
	spoil func(*pb.Hello)
	text  string
}{
	{"protocol", func(h *pb.Hello) { h.Protocol = 2 }, "protocol mismatch"},
	{"cluster", func(h *pb.Hello) { h.ClusterId = 0xc2 }, "cluster mismatch"},
	{"no cluster", func(h *pb.Hello) { h.ClusterId = 0 }, "belongs to no cluster yet"},
	{"node", func(h *pb.Hello) { h.ToNodeId = 0xd }, "node mismatch"},
	{"node not said", func(h *pb.Hello) { h.ToNodeId = 0 }, "node mismatch"},
	{"incarnation", func(h *pb.Hello) { h.Incarnation-- }, "copied or rolled back"},
	{"boot", func(h *pb.Hello) { h.Boot++ }, "another opening"},
	{
		"forgotten boots", func(h *pb.Hello) { h.Incarnation++; h.EarlierBoots = []uint64{99} },
		"knows nothing of its incarnation",
	},
	{"many boots", func(h *pb.Hello) { h.EarlierBoots = make([]uint64, recentEarlier+1) }, "earlier boots"},
	{"many older boots", func(h *pb.Hello) {
		h.EarlierBoots, h.OlderBoots = make([]uint64, recentEarlier), make([]uint64, MaxEarlier-recentEarlier+1)
	}, "older boots"},
	{"older boots alone", func(h *pb.Hello) { h.OlderBoots = []uint64{99} }, "older boots behind"},
	{"no boot", func(h *pb.Hello) { h.Boot = 0 }, "boot number of peer"},
	{"no address", func(h *pb.Hello) { h.Address = "" }, "does not say its address"},
	{"no incarnation", func(h *pb.Hello) { h.Incarnation = 0 }, "incarnation of peer"},
	{"no node", func(h *pb.Hello) { h.NodeId = 0 }, "node ID is 0"},
	{"itself", func(h *pb.Hello) { h.NodeId = uint64(nodeB) }, "speaks to itself"},
	{"address", func(h *pb.Hello) { h.Address = strings.Repeat("x", nexusraft.MaxAddressBytes+1) }, "address of peer"},
	{"name", func(h *pb.Hello) { h.Name = strings.Repeat("x", nexusraft.MaxNameBytes+1) }, "name of peer"},
	{"removed", func(h *pb.Hello) { h.NodeId = 0xdead }, "node was removed"},
}

// calls make each call that opens with a handshake, and return how it was refused.
var calls = map[string]func(context.Context, *grpc.ClientConn, *pb.Hello) error{
	"RequestVote": func(ctx context.Context, c *grpc.ClientConn, h *pb.Hello) error {
		_, err := pb.NewRaftTransportClient(c).RequestVote(ctx, &pb.RequestVoteRequest{Hello: h})
		return err
	},
	"Exchange": func(ctx context.Context, c *grpc.ClientConn, h *pb.Hello) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewRaftTransportClient(c).Exchange(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: h}})
		_, err = stream.Recv()
		return err
	},
	"InstallSnapshot": func(ctx context.Context, c *grpc.ClientConn, h *pb.Hello) error {
		stream, err := pb.NewRaftTransportClient(c).InstallSnapshot(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Header{Header: headerToProto(h,
			SnapshotHeader{Zone: 1})}})
		resp, err := stream.CloseAndRecv()
		return errors.Join(err, wire.ErrorFromProto(resp.GetError()))
	},
	"SnapshotOffset": func(ctx context.Context, c *grpc.ClientConn, h *pb.Hello) error {
		resp, err := pb.NewRaftTransportClient(c).SnapshotOffset(ctx,
			&pb.SnapshotOffsetRequest{Header: headerToProto(h, SnapshotHeader{Zone: 1})})
		return errors.Join(err, wire.ErrorFromProto(resp.GetError()))
	},
	"Propose": func(ctx context.Context, c *grpc.ClientConn, h *pb.Hello) error {
		resp, err := pb.NewZonesClient(c).Propose(ctx, &pb.ProposeRequest{Hello: h})
		return errors.Join(err, wire.ErrorFromProto(resp.GetError()))
	},
}

func TestServerRefusesWrongHandshakes(t *testing.T) {
	handled := func() { t.Error("a refused handshake reached the handler") }
	f := &fakeNode{hello: func(id Identity) error {
		if id.Node == 0xdead {
			return errors.New("the node was removed")
		}
		return nil
	}, receive: func(nexusraft.NodeID, []Message) { handled() }}
	s := NewServer(as(identityB), f.handlers())
	s.seen.record(identityA)
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	conn := dialTest(t, addr)
	for method, call := range calls {
		for _, tt := range refusals {
			t.Run(method+"/"+tt.name, func(t *testing.T) {
				h := hello(identityA, nodeB)
				tt.spoil(h)
				err := asRefusal(call(t.Context(), conn, h))
				want := nexusraft.ErrRefused
				if slices.Contains([]string{"incarnation", "boot", "forgotten boots"}, tt.name) {
					want = nexusraft.ErrFenced
				}
				if !errors.Is(err, want) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v, want %v with %q", err, want, tt.text)
				}
			})
		}
		t.Run(method+"/missing", func(t *testing.T) {
			err := asRefusal(call(t.Context(), conn, nil))
			if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "handshake") {
				t.Errorf("got %v, want ErrRefused that names the handshake", err)
			}
		})
	}
}

func TestExchangeRefusalIsFailedPrecondition(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	h := hello(identityA, nodeB)
	h.ClusterId++
	if got := status.Code(calls["Exchange"](t.Context(), dialTest(t, addr), h)); got != codes.FailedPrecondition {
		t.Errorf("got code %v, want FailedPrecondition", got)
	}
}

func TestUnfoundedNodeRefusesPeers(t *testing.T) {
	id := identityB
	id.Cluster = 0
	addr, _ := serve(t, id, &fakeNode{})
	for _, method := range []string{"Exchange", "RequestVote"} {
		err := asRefusal(calls[method](t.Context(), dialTest(t, addr), hello(identityA, nodeB)))
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "belongs to no cluster") {
			t.Errorf("%s: got %v, want ErrRefused that says there is no cluster yet", method, err)
		}
	}
	joiner := identityA
	joiner.Cluster = 0
	_, err := peersOf(t, joiner, PeersOptions{}).Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrNotFounded) {
		t.Errorf("Join: got %v, want ErrNotFounded", err)
	}
}

func TestFormerIncarnationLosesItsStream(t *testing.T) {
	received := make(chan string, 2)
	addr, _ := serve(t, identityB, &fakeNode{receive: func(_ nexusraft.NodeID, msgs []Message) {
		for _, m := range msgs {
			received <- string(m.Data)
		}
	}})
	stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: hello(identityA, nodeB)}})
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	_ = stream.Send(frameToProto([]Message{{Zone: 1, Data: []byte("old")}}))
	await(t, "the old node's message", received)

	next := identityA
	next.Incarnation++
	p := peersOf(t, next, PeersOptions{})
	connect(t, p, addr)
	_ = stream.Send(frameToProto([]Message{{Zone: 1, Data: []byte("void")}}))
	_, err = stream.Recv()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "copied or rolled back") {
		t.Errorf("got %v, want FailedPrecondition that names the incarnation", err)
	}
	if len(received) != 0 {
		t.Errorf("the old node's message %q was accepted", <-received)
	}
}

func TestClientRefusesWrongAnswers(t *testing.T) {
	for _, tt := range []struct {
		name string
		mend func(*Identity)
		text string
	}{
		{"other node", func(id *Identity) { id.Node = 0xd }, "node mismatch"},
		{"other cluster", func(id *Identity) { id.Cluster = 0xc2 }, "cluster mismatch"},
		{"no cluster", func(id *Identity) { id.Cluster = 0 }, "belongs to no cluster yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := identityB
			tt.mend(&id)
			if _, err := checkAnswer(identityA, hello(id, nodeA), nodeB); !errors.Is(err, nexusraft.ErrRefused) ||
				!strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want ErrRefused with %q", err, tt.text)
			}
		})
	}
}

func TestClientRefusesLowerIncarnation(t *testing.T) {
	addr, stop := serve(t, identityB, &fakeNode{})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	stop()
	eventually(t, "B is disconnected", func() bool { return !statsOfB(t, p).Connected })

	rolledBack := identityB
	rolledBack.Incarnation--
	asked := make(chan Identity, 100)
	f := &fakeNode{hello: func(id Identity) error { asked <- id; return nil }}
	serveAt(t, addr, NewServer(as(rolledBack), f.handlers()))
	await(t, "the first attempt", asked)
	await(t, "the second attempt: the first was refused", asked)
	if statsOfB(t, p).Connected {
		t.Error("connected to a node whose incarnation went backwards")
	}
}

func TestExchangeRefusesMalformedFrames(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	for name, req := range map[string]*pb.ExchangeRequest{
		"second handshake": {Kind: &pb.ExchangeRequest_Hello{Hello: hello(identityA, nodeB)}},
		"empty":            {},
		"too many":         frameToProto(make([]Message, maxFrameMessages+1)),
		"too large":        frameToProto([]Message{{Data: make([]byte, maxMessageBytes+1)}}),
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).Exchange(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: hello(identityA, nodeB)}})
			if _, err := stream.Recv(); err != nil {
				t.Fatalf("handshake: %v", err)
			}
			_ = stream.Send(req)
			if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}

// FuzzPeerInput feeds a server's decoders what a peer may send: nothing may panic, and
// nothing over a limit may pass.
func FuzzPeerInput(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.RequestVoteRequest{Hello: hello(identityA, nodeB), Votes: votesToProto([]Vote{{
			Zone: 1, Pre: true, Term: 3,
			Context: []byte("x"),
		}})},
		frameToProto([]Message{{Zone: 1, Data: []byte("x")}, {Zone: 2}}),
		&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Header{Header: headerToProto(hello(identityA, nodeB),
			SnapshotHeader{Zone: 1, Message: []byte("x")})}},
		&pb.RequestVoteResponse{Hello: hello(identityB, nodeA), Results: resultsToProto([]VoteResult{{
			Zone: 1,
			Why:  "lease",
		}})},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var votes pb.RequestVoteRequest
		if proto.Unmarshal(b, &votes) == nil {
			fuzzHello(t, votes.GetHello())
			if got, err := votesFromProto(votes.GetVotes()); err == nil && len(got) > MaxVotes {
				t.Errorf("%d votes passed", len(got))
			}
		}
		var frame pb.ExchangeRequest
		if proto.Unmarshal(b, &frame) == nil {
			fuzzHello(t, frame.GetHello())
		}
		var step pb.InstallSnapshotRequest
		if proto.Unmarshal(b, &step) == nil {
			fuzzSnapshotStep(t, &step)
		}
		var results pb.RequestVoteResponse
		if proto.Unmarshal(b, &results) == nil {
			if got, err := resultsFromProto(results.GetResults(), 2); err == nil && len(got) > 2 {
				t.Errorf("%d results for 2 votes passed", len(got))
			}
		}
	})
}

func fuzzHello(t *testing.T, h *pb.Hello) {
	peer, err := checkCaller(identityB, h, false)
	if err != nil {
		return
	}
	if peer.Cluster != testCluster || peer.Node == 0 || peer.Node == nodeB || peer.Incarnation == 0 ||
		h.GetToNodeId() != uint64(nodeB) {
		t.Errorf("a wrong handshake passed: %v", h)
	}
}

func fuzzSnapshotStep(t *testing.T, step *pb.InstallSnapshotRequest) {
	data, err := new(snapshotReader).check(step)
	if err == nil && (len(data) == 0 || len(data) > MaxChunkBytes) {
		t.Errorf("a chunk of %d bytes passed", len(data))
	}
	_, _ = headerFromProto(step.GetHeader())
}
