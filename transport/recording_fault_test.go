package transport

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A recording is what one call carried: the protobuf messages as they were on the wire, in
// the order in which they passed. Those of each released version are kept in testdata; what
// plays them is in version_fault_test.go.

// step is one message of a recorded call.
type step struct {
	byClient bool
	body     []byte
}

// maxStepBytes bounds what readRecording believes a length to be.
const maxStepBytes = maxRPCBytes

// writeRecording keeps a call: for each step its direction, > or <, its length and its bytes.
func writeRecording(name string, steps []step) error {
	var file bytes.Buffer
	z := gzip.NewWriter(&file)
	for _, s := range steps {
		head := []byte{'<', 0, 0, 0, 0}
		if s.byClient {
			head[0] = '>'
		}
		binary.BigEndian.PutUint32(head[1:], uint32(len(s.body)))
		z.Write(append(head, s.body...)) // into memory: it can't fail
	}
	z.Close()
	return os.WriteFile(name, file.Bytes(), 0o644)
}

// readRecording returns a recorded call of a version.
func readRecording(t *testing.T, version, method string) []step {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", version, method+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatalf("read recording of %s: %v", method, err)
	}
	var steps []step
	for r := bufio.NewReader(z); ; {
		s, err := readStep(r)
		if errors.Is(err, io.EOF) {
			return steps
		}
		if err != nil {
			t.Fatalf("read recording of %s: step %d: %v", method, len(steps), err)
		}
		steps = append(steps, s)
	}
}

func readStep(r io.Reader) (step, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return step{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxStepBytes || head[0] != '>' && head[0] != '<' {
		return step{}, fmt.Errorf("the header is %x", head)
	}
	s := step{byClient: head[0] == '>', body: make([]byte, n)}
	if _, err := io.ReadFull(r, s.body); err != nil {
		return step{}, fmt.Errorf("cut off: %v", err)
	}
	return s, nil
}

// rawCodec passes the bytes of messages on, as *[]byte.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = rawCodec{}

// bothWays describes a call of any kind to gRPC.
var bothWays = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// serveRaw has handle answer every call on a free loopback port, until the test's end.
func serveRaw(t *testing.T, handle func(method string, stream grpc.ServerStream) error) (addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	srv := grpc.NewServer(append(ServerOptions(), grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			return handle(method, stream)
		}))...)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String()
}

// recorder passes calls on to another server and keeps what they carry.
type recorder struct {
	to *grpc.ClientConn

	mu    sync.Mutex
	calls map[string][]step // by method, without its service
}

// pass serves one call.
func (r *recorder) pass(method string, client grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(client.Context())
	defer cancel()
	server, err := r.to.NewStream(ctx, bothWays, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	go func() {
		for {
			var body []byte
			if client.RecvMsg(&body) != nil {
				_ = server.CloseSend() // it never fails
				return
			}
			r.keep(method, step{byClient: true, body: body})
			if server.SendMsg(&body) != nil {
				return // the call has ended, as RecvMsg says below
			}
		}
	}()
	for {
		var body []byte
		if err := server.RecvMsg(&body); err != nil {
			return endOfStream(err)
		}
		r.keep(method, step{body: body})
		if err := client.SendMsg(&body); err != nil {
			return err
		}
	}
}

func (r *recorder) keep(method string, s step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[path.Base(method)] = append(r.calls[path.Base(method)], s)
}

var recordAs = flag.String("record", "", "record today's protocol as a version `name` that has no recording yet")

// TestRecord makes testdata/NAME: go test -run 'TestRecord$' ./transport -record NAME. It never
// overwrites: a recording of a version that was released is not for changing.
func TestRecord(t *testing.T) {
	if *recordAs == "" {
		t.Skip("skipped: -record names no version")
	}
	b := newTapedNode()
	backend, _ := serve(t, identityB, b.handlers())
	r := &recorder{to: dialTest(t, backend), calls: map[string][]step{}}
	tapedCalls(t, serveRaw(t, r.pass), b)
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := filepath.Join("testdata", *recordAs)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for method, steps := range r.calls {
		if err := writeRecording(filepath.Join(dir, method+".gz"), steps); err != nil {
			t.Error(err)
		}
	}
}

// What the recorded calls carry.
var (
	identityC  = Identity{Node: 0xc, Incarnation: 1, Boot: 3, Address: "c:1", Name: "c"}
	tapedVotes = []Vote{
		{Zone: 1, Pre: true, From: 11, To: 12, Term: 8, LastIndex: 70, LastTerm: 7},
		{Zone: 2, From: 21, To: 22, Term: 9, LastIndex: 80, LastTerm: 8, Context: []byte("CampaignTransfer")},
	}
	tapedHeader   = SnapshotHeader{Zone: 4, From: 41, To: 42, Index: 1000, Term: 6, Message: []byte("a MsgSnap")}
	tapedState    = append(bytes.Repeat([]byte("key=value "), 2*MaxChunkBytes/10), "the rest of a third chunk"...)
	tapedProposal = Proposal{Zone: 1, Request: nexusraft.RequestID{Session: 77, Sequence: 3}, Command: []byte("put k v")}
	tapedFirst    = []Message{ // as they arrive: in one frame, class Control in front
		{Zone: 1, Data: []byte("heartbeat of zone 1")},
		{Zone: 2, Data: []byte("heartbeat of zone 2")},
		{Zone: 1, Data: []byte("first append of zone 1")},
		{Zone: 2, Data: []byte("first append of zone 2")},
		{Zone: 1, Data: []byte("second append of zone 1")},
	}
	tapedLater = []Message{
		{Zone: 3, Data: bytes.Repeat([]byte("large append of zone 3 "), 4000)},
		{Zone: 3, Data: []byte("heartbeat of zone 3")},
	}
	tapedMembers = nexusraft.Membership{
		Shape: nexusraft.Shape{Members: 2, Witnesses: 1},
		Members: []nexusraft.Member{
			{Replica: 11, Node: nodeA, Name: "a", Address: "a:1", Role: nexusraft.RoleMember},
			{Replica: 12, Node: nodeB, Name: "b", Address: "b:1", Role: nexusraft.RoleMember},
			{Replica: 13, Node: identityC.Node, Name: "c", Address: "c:1", Role: nexusraft.RoleLearner},
		},
	}
	tapedAdmission = JoinResult{Cluster: testCluster, Zone: 1, Replica: 13, Membership: tapedMembers}
	tapedResult    = nexusraft.Result{Data: []byte("done"), Index: 1234, Copies: 2}
)

func tapedAnswers() []VoteResult {
	return []VoteResult{
		{
			Zone: 1, Pre: true, From: 12, To: 11, Outcome: VoteIgnored, Term: 7, Why: "the leader is alive", LastTerm: 7,
			LastIndex: 70, LeaseTicksLeft: 4,
		},
		{Zone: 2, From: 22, To: 21, Outcome: VoteGranted, Term: 9, LastTerm: 8, LastIndex: 79},
	}
}

// tapedNode gives the answers that are recorded, and tells what it has received.
type tapedNode struct {
	gate      chan struct{} // no handshake ends before it is closed
	greeted   chan Identity
	messages  chan Message
	left      chan nexusraft.NodeID
	votes     chan []Vote
	snapshots chan installed
	proposals chan Proposal
	joins     chan JoinRequest
}

// installed is a snapshot as it was received.
type installed struct {
	header SnapshotHeader
	state  []byte
}

func newTapedNode() *tapedNode {
	return &tapedNode{
		gate:      make(chan struct{}),
		greeted:   make(chan Identity, 100),
		messages:  make(chan Message, 100),
		left:      make(chan nexusraft.NodeID, 1),
		votes:     make(chan []Vote, 1),
		snapshots: make(chan installed, 1),
		proposals: make(chan Proposal, 1),
		joins:     make(chan JoinRequest, 1),
	}
}

func (n *tapedNode) handlers() *fakeNode {
	return &fakeNode{
		hello: func(id Identity) error {
			<-n.gate
			n.greeted <- id
			return nil
		},
		receive: func(_ nexusraft.NodeID, msgs []Message) {
			for _, m := range msgs {
				n.messages <- m
			}
		},
		leaving: func(id nexusraft.NodeID) { n.left <- id },
		vote: func(_ context.Context, _ nexusraft.NodeID, votes []Vote) ([]VoteResult, error) {
			n.votes <- votes
			return tapedAnswers(), nil
		},
		install: func(_ context.Context, _ nexusraft.NodeID, h SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
			var state []byte
			for chunk, err := range chunks {
				if err != nil {
					return err
				}
				state = append(state, chunk...)
			}
			n.snapshots <- installed{header: h, state: state}
			return nil
		},
		propose: func(_ context.Context, p Proposal) (nexusraft.Result, error) {
			n.proposals <- p
			return tapedResult, nil
		},
		join: func(_ context.Context, r JoinRequest) (JoinResult, error) {
			n.joins <- r
			return tapedAdmission, nil
		},
	}
}

// tapedCalls makes the calls that are recorded, through the recorder at addr.
func tapedCalls(t *testing.T, addr string, b *tapedNode) {
	t.Helper()
	p := NewPeers(as(identityA), PeersOptions{VoteTimeout: callsTimeout})
	p.SetAddress(nodeB, addr)
	for _, i := range []int{2, 3, 4} {
		p.Send(nodeB, Append, tapedFirst[i])
	}
	for _, i := range []int{0, 1} {
		p.Send(nodeB, Control, tapedFirst[i])
	}
	close(b.gate)
	for range tapedFirst {
		await(t, "a message of the first frame", b.messages)
	}
	p.Send(nodeB, Append, tapedLater[0])
	await(t, "the large append", b.messages)
	p.Send(nodeB, Control, tapedLater[1])
	await(t, "the last heartbeat", b.messages)
	if end := await(t, "the votes", ask(t, p, tapedVotes...)); end.err != nil {
		t.Fatalf("RequestVote: %v", end.err)
	}
	if err := SendSnapshot(t.Context(), p, nodeB, tapedSnapshot()); err != nil {
		t.Fatalf("SendSnapshot: %v", err)
	}
	if _, err := p.Propose(t.Context(), nodeB, tapedProposal); err != nil {
		t.Fatalf("Propose: %v", err)
	}
	if _, err := peersOf(t, identityC, PeersOptions{}).Join(t.Context(), addr,
		JoinRequest{Role: nexusraft.RoleMember}); err != nil {
		t.Fatalf("Join: %v", err)
	}
	p.Close()
	await(t, "the end of the stream", b.left)
}

// callsTimeout is the deadline of calls that must not fail because a machine is slow.
const callsTimeout = 20 * time.Second

// tapedSnapshot is the snapshot that was recorded.
func tapedSnapshot() Snapshot {
	s := pieces(tapedState)
	s.SnapshotHeader = tapedHeader
	return s
}
