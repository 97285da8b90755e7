package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// floodFor is how long the tests here press.
const floodFor = 500 * time.Millisecond

// heapPeak samples the live heap until stop, which returns by how much it has grown at most.
func heapPeak() (stop func() uint64) {
	before := liveHeap()
	end, peak := make(chan struct{}), make(chan uint64)
	go func() {
		most := before
		for {
			select {
			case <-end:
				peak <- most - before
				return
			case <-time.After(20 * time.Millisecond):
				most = max(most, liveHeap())
			}
		}
	}()
	return func() uint64 {
		close(end)
		return <-peak
	}
}

// pulse sends a heartbeat at a time to a peer, and measures how long each takes to arrive.
type pulse struct {
	p       *Peers
	to      nexusraft.NodeID
	arrived chan struct{}
}

// receive is the receiving handler's.
func (h *pulse) receive(nexusraft.NodeID, []Message) { signal(h.arrived) }

// beat returns the longest of the beats until a time.
func (h *pulse) beat(t *testing.T, until time.Time) (worst time.Duration) {
	t.Helper()
	for time.Now().Before(until) {
		begun := time.Now()
		for came := false; !came; {
			h.p.Send(h.to, Control, Message{Zone: 1, Data: []byte("beat")})
			select {
			case <-h.arrived:
				came = true
			case <-time.After(beatBound / 20): // lost with its stream: the next one follows, as Raft's do
			}
			if time.Since(begun) > 4*beatBound {
				t.Fatal("no heartbeat arrives any more")
			}
		}
		worst = max(worst, time.Since(begun))
	}
	return worst
}

// beatBound is how long a heartbeat may take while others flood, on a machine that runs the
// flood, too.
const beatBound = 5 * time.Second

// TestPeerThatStopsReading has one of two peers take nothing while much is sent to it. Its
// queue stays within its limits, and the other's heartbeats go on.
func TestPeerThatStopsReading(t *testing.T) {
	for name, stuck := range map[string]func(t *testing.T) string{
		"the handler waits":         stuckHandler,
		"nobody accepts":            stuckListener,
		"connected, but reads none": stuckReader,
	} {
		t.Run(name, func(t *testing.T) {
			idC := Identity{Cluster: testCluster, Node: 0xc, Incarnation: 1, Boot: 1, Address: "c:1"}
			h := &pulse{to: idC.Node, arrived: make(chan struct{}, 1)}
			addrC, _ := serve(t, idC, &fakeNode{receive: h.receive})
			var lost atomic.Int64
			h.p = peersOf(t, identityA, PeersOptions{QueueBytes: 4 << 20, OnUnreachable: func(id nexusraft.NodeID) {
				if id == nodeB {
					lost.Add(1)
				}
			}})
			h.p.SetAddress(nodeB, stuck(t))
			h.p.SetAddress(idC.Node, addrC)

			before := liveHeap()
			ctx, cancel := context.WithCancel(t.Context())
			var flood sync.WaitGroup
			var sent atomic.Int64
			flood.Go(func() {
				for ctx.Err() == nil {
					h.p.Send(nodeB, Append, Message{Zone: 1, Data: make([]byte, 4<<10)})
					if sent.Add(1)%64 == 0 {
						runtime.Gosched()
					}
				}
			})
			worst := h.beat(t, time.Now().Add(floodFor))
			cancel()
			flood.Wait()
			// What waits goes on waiting, and the flood makes no garbage any more.
			if after := liveHeap(); after > before+32<<20 {
				t.Errorf("the heap grew by %d MiB while %d MiB were sent to a peer that takes none", (after-before)>>20,
					sent.Load()*4>>10)
			}
			if worst > beatBound {
				t.Errorf("a heartbeat to another peer took %v", worst)
			}
			if lost.Load() == 0 {
				t.Error("no loss was reported")
			}
			t.Logf("%d MiB sent, the slowest heartbeat took %v", sent.Load()*4>>10, worst)
		})
	}
}

// stuckHandler is a server of B whose handler returns at the test's end.
func stuckHandler(t *testing.T) string {
	end := make(chan struct{})
	addr, _ := serve(t, identityB, &fakeNode{receive: func(nexusraft.NodeID, []Message) { <-end }})
	t.Cleanup(func() { close(end) })
	return addr
}

// stuckListener listens and never accepts.
func stuckListener(t *testing.T) string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	return lis.Addr().String()
}

// stuckReader shakes hands and reads nothing any more.
func stuckReader(t *testing.T) string {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	old := newFirstServer(t)
	return serveRaw(t, func(method string, stream grpc.ServerStream) error {
		if method != pb.RaftTransport_Exchange_FullMethodName {
			return status.Error(codes.Unavailable, "it does nothing else")
		}
		var body []byte
		if err := stream.RecvMsg(&body); err != nil {
			return err
		}
		if err := old.answer("Exchange", stream); err != nil {
			return err
		}
		select {
		case <-end:
		case <-stream.Context().Done():
		}
		return nil
	})
}

// victim is node B under attack: node A attacks, node C sends heartbeats.
type victim struct {
	addr string
	pulse
	idC Identity
}

// newVictim serves B with f's handlers, and connects C.
func newVictim(t *testing.T, f *fakeNode) *victim {
	t.Helper()
	v := &victim{
		idC:   Identity{Cluster: testCluster, Node: 0xc, Incarnation: 1, Boot: 1, Address: "c:1"},
		pulse: pulse{to: nodeB, arrived: make(chan struct{}, 1)},
	}
	attacked := f.receive
	f.receive = func(from nexusraft.NodeID, msgs []Message) {
		if from == v.idC.Node {
			v.receive(from, msgs)
		} else if attacked != nil {
			attacked(from, msgs)
		}
	}
	v.addr, _ = serve(t, identityB, f)
	v.p = peersOf(t, v.idC, PeersOptions{})
	connect(t, v.p, v.addr)
	return v
}

// attack runs a number of attackers, each with a connection of its own, while C's heartbeats
// are measured. Memory and heartbeats have to stay in bounds.
func (v *victim) attack(
	t *testing.T, attackers int, maxHeap uint64, do func(ctx context.Context, conn *grpc.ClientConn),
) {
	t.Helper()
	peak := heapPeak()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range attackers {
		conn := dialTest(t, v.addr)
		wg.Go(func() { do(ctx, conn) })
	}
	worst := v.beat(t, time.Now().Add(floodFor))
	grown := peak()
	cancel()
	wg.Wait()
	if grown > maxHeap {
		t.Errorf("the heap grew by %d MiB, want %d at most", grown>>20, maxHeap>>20)
	}
	if worst > beatBound {
		t.Errorf("a heartbeat of another peer took %v", worst)
	}
	t.Logf("the heap grew by %d MiB, the slowest heartbeat took %v", grown>>20, worst)
}

// openRaw opens an Exchange stream as node A and shakes hands.
func openRaw(ctx context.Context, conn *grpc.ClientConn) (exchangeClient, error) {
	stream, err := pb.NewRaftTransportClient(conn).Exchange(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: hello(identityA,
		nodeB)}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

// TestFloodOfFrames has a peer send frames as fast as it can to a node that is slower.
func TestFloodOfFrames(t *testing.T) {
	v := newVictim(t, &fakeNode{receive: func(nexusraft.NodeID, []Message) {
		runtime.Gosched()
		time.Sleep(time.Millisecond) // work
	}})
	frame := frameToProto([]Message{{Zone: 1, Data: make([]byte, 64<<10)}})
	v.attack(t, 1, 32<<20, func(ctx context.Context, conn *grpc.ClientConn) {
		stream, err := openRaw(ctx, conn)
		if err != nil {
			t.Errorf("handshake: %v", err)
			return
		}
		for stream.Send(frame) == nil {
		}
	})
}

// TestFloodOfStreams has a node open Exchange streams without end. No more than a few of them
// live: a node needs one for each lane, and a new one replaces the old.
func TestFloodOfStreams(t *testing.T) {
	const streams, lanes = 200, 2
	v := newVictim(t, &fakeNode{})
	var ended atomic.Int64
	v.attack(t, 1, 64<<20, func(_ context.Context, conn *grpc.ClientConn) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // until all are open, however long that takes
		defer cancel()
		var wg sync.WaitGroup
		for range streams {
			stream, err := openRaw(ctx, conn)
			if err != nil {
				ended.Add(1)
				continue
			}
			wg.Go(func() {
				if _, err := stream.Recv(); ctx.Err() == nil && err != nil {
					ended.Add(1)
				}
			})
		}
		for ended.Load() < streams-lanes && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
		wg.Wait()
	})
	if n := ended.Load(); n < streams-lanes {
		t.Errorf("%d of %d Exchange streams of one node were ended, want all but %d", n, streams, lanes)
	}
}

// TestFloodOfVotes has a node ask for thousands of votes at once of a node that is slow to
// answer. Few get to the handler at a time, and another node's vote is answered.
func TestFloodOfVotes(t *testing.T) {
	const calls, atATime = 3000, 256
	var running, most atomic.Int64
	v := newVictim(t, &fakeNode{vote: func(ctx context.Context, from nexusraft.NodeID, votes []Vote) ([]VoteResult,
		error,
	) {
		if from == nodeA {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return grantAll(ctx, from, votes)
	}})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		v.attack(t, 1, 64<<20, func(ctx context.Context, conn *grpc.ClientConn) {
			var wg sync.WaitGroup
			for range calls {
				wg.Go(func() {
					_, err := pb.NewRaftTransportClient(conn).RequestVote(ctx, &pb.RequestVoteRequest{Hello: hello(identityA, nodeB)})
					if code := status.Code(err); ctx.Err() == nil && code != codes.ResourceExhausted && code != codes.Unavailable &&
						code != codes.Canceled {
						t.Errorf("got %v, want RESOURCE_EXHAUSTED or UNAVAILABLE", err)
					}
				})
			}
			wg.Wait()
		})
	}()
	eventually(t, "the flood has come", func() bool { return running.Load() > 0 })
	eventually(t, "another node's vote is answered", func() bool { // it may be late, on a machine that runs the flood
		return await(t, "an answer", ask(t, v.p, Vote{Zone: 1, From: 1, To: 2, Term: 3})).err == nil
	})
	<-flooded
	if n := most.Load(); n > atATime {
		t.Errorf("%d votes of one node were in the handler at once, want %d at most", n, atATime)
	}
}

// allocated returns how many bytes f allocates, in all goroutines.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// repeated returns n empty submessages of a field: two bytes on the wire for each.
func repeated(field protowire.Number, n int) []byte {
	one := protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), nil)
	return []byte(strings.Repeat(string(one), n))
}

// TestManyTinyThingsInOneRequest sends, to each method and in each list that its request may
// have, a million empty elements of two bytes each. They are refused, or at least don't become
// a million objects of a hundred bytes.
func TestManyTinyThingsInOneRequest(t *testing.T) {
	const million = 1 << 20
	s := NewServer(as(identityB), (&fakeNode{}).handlers())
	register := func(r grpc.ServiceRegistrar) {
		s.Register(r)
		pb.RegisterEventStreamServer(r, pb.UnimplementedEventStreamServer{}) // which reads a request first
	}
	addr, _ := serveServices(t, "127.0.0.1:0", s, register)
	conn := dialTest(t, addr)
	tested := 0
	for method, input := range methodsOf(register) {
		for field, body := range tinyThings(input, million, 3) {
			tested++
			t.Run(path.Base(method)+"/"+field, func(t *testing.T) {
				var err error
				bytes := allocated(func() { err = sendRaw(t.Context(), conn, method, body) })
				if bytes > 32<<20 {
					t.Errorf("a request of %d MiB made the node allocate %d MiB; it was answered with %v", len(body)>>20, bytes>>20,
						err)
				}
				if method == pb.RaftTransport_Exchange_FullMethodName && err == nil {
					t.Error("a million messages in one frame were accepted")
				}
			})
		}
	}
	if tested < 4 { // the messages of a frame, votes, topics and types
		t.Errorf("found %d lists in requests", tested)
	}
}

// methodsOf lists the methods of registered services, with what they take.
func methodsOf(register func(grpc.ServiceRegistrar)) map[string]protoreflect.MessageDescriptor {
	srv := grpc.NewServer()
	register(srv)
	methods := make(map[string]protoreflect.MessageDescriptor)
	for service := range srv.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			panic(err) // it is in package pb
		}
		list := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range list.Len() {
			methods["/"+service+"/"+string(list.Get(i).Name())] = list.Get(i).Input()
		}
	}
	return methods
}

// tinyThings returns, for each list of a message and of those in it, a message with n empty
// elements of that list.
func tinyThings(m protoreflect.MessageDescriptor, n, depth int) map[string][]byte {
	bodies := make(map[string][]byte)
	fields := m.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		kind := f.Kind()
		switch {
		case depth == 0 || kind != protoreflect.MessageKind && kind != protoreflect.StringKind &&
			kind != protoreflect.BytesKind:
		case f.IsList() || f.IsMap():
			bodies[string(f.Name())] = repeated(f.Number(), n)
		case kind == protoreflect.MessageKind:
			for name, body := range tinyThings(f.Message(), n, depth-1) {
				bodies[string(f.Name())+"."+name] = protowire.AppendBytes(protowire.AppendTag(nil, f.Number(), protowire.BytesType),
					body)
			}
		}
	}
	return bodies
}

// sendRaw makes a call with a body as it is, after a handshake if it is a stream, and returns
// how it was refused.
func sendRaw(ctx context.Context, conn *grpc.ClientConn, method string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callsTimeout)
	defer cancel()
	stream, err := conn.NewStream(ctx, bothWays, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	if method == pb.RaftTransport_Exchange_FullMethodName {
		first := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), marshal(hello(identityA, nodeB)))
		_ = stream.SendMsg(&first) // what went wrong, RecvMsg says
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
	}
	_ = stream.SendMsg(&body)
	_ = stream.CloseSend()
	var answer []byte
	if err := stream.RecvMsg(&answer); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// TestGiantRequestsAreRefused sends more than any request may have, and a handshake of huge
// strings. The refusal says the sizes, and nothing of the strings.
func TestGiantRequestsAreRefused(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	conn := dialTest(t, addr)
	giant := frameToProto([]Message{{Zone: 1, Data: make([]byte, maxRPCBytes)}})
	err := sendRaw(t.Context(), conn, pb.RaftTransport_Exchange_FullMethodName, marshal(giant))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a frame of %d bytes: got %v, want RESOURCE_EXHAUSTED", maxRPCBytes, err)
	}
	large := frameToProto([]Message{{Zone: 1, Data: make([]byte, maxMessageBytes+1)}})
	err = sendRaw(t.Context(), conn, pb.RaftTransport_Exchange_FullMethodName, marshal(large))
	if want := fmt.Sprintf("a message of %d bytes, limit %d", maxMessageBytes+1,
		maxMessageBytes); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want INVALID_ARGUMENT with %q", err, want)
	}
	long := strings.Repeat("x", 6<<20)
	for field, spoil := range map[string]func(*pb.Hello){
		"address": func(h *pb.Hello) { h.Address = long },
		"name":    func(h *pb.Hello) { h.Name = long },
	} {
		for method, call := range calls {
			h := hello(identityA, nodeB)
			spoil(h)
			err := asRefusal(call(t.Context(), conn, h))
			if !errors.Is(err, nexusraft.ErrRefused) ||
				!strings.Contains(err.Error(), fmt.Sprintf("%d bytes, limit", len(long))) || len(err.Error()) > 1<<10 {
				t.Errorf("%s: got %.200q, want ErrRefused that says how long the %s is", method, err, field)
			}
		}
	}
}
