package transport

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

const firstVersion = "v1.0"

// quietFor is how long a peer that sends no pings and answers none must be borne: several
// times what makes one of today's peers a dead one.
const quietFor = 1500 * time.Millisecond

// tapedMethods are the calls that are recorded.
var tapedMethods = map[string]struct {
	method   string
	response func() proto.Message
}{
	"Exchange": {pb.RaftTransport_Exchange_FullMethodName, func() proto.Message { return &pb.ExchangeResponse{} }},
	"RequestVote": {
		pb.RaftTransport_RequestVote_FullMethodName,
		func() proto.Message { return &pb.RequestVoteResponse{} },
	},
	"InstallSnapshot": {
		pb.RaftTransport_InstallSnapshot_FullMethodName,
		func() proto.Message { return &pb.InstallSnapshotResponse{} },
	},
	"Propose": {pb.Zones_Propose_FullMethodName, func() proto.Message { return &pb.ProposeResponse{} }},
	"Join":    {pb.Cluster_Join_FullMethodName, func() proto.Message { return &pb.JoinResponse{} }},
}

// TestFirstVersionCalls plays the first version's clients to today's Server: it must answer
// as the first version's server did, and hand everything on.
func TestFirstVersionCalls(t *testing.T) {
	for name, tt := range tapedMethods {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newTapedNode()
			close(b.gate)
			addr, _ := serve(t, identityB, b.handlers())
			steps := readRecording(t, firstVersion, name)
			got := playClient(t, dialTest(t, addr), tt.method, steps)
			compareAnswers(t, got, steps, tt.response)
			b.checkReceived(t, name)
		})
	}
}

// playClient makes a recorded call and returns what the server has answered. It keeps quiet
// before it ends the call, as long as it can't mean anything.
func playClient(t *testing.T, conn *grpc.ClientConn, method string, steps []step) (answers [][]byte) {
	t.Helper()
	stream, err := conn.NewStream(t.Context(), bothWays, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		body []byte
		err  error
	}
	got := make(chan answer, 100)
	go func() {
		for {
			var a answer
			if a.err = stream.RecvMsg(&a.body); a.err == nil {
				got <- a
				continue
			}
			got <- a
			return
		}
	}()
	for i, s := range steps {
		if s.byClient {
			if err := stream.SendMsg(&s.body); err != nil {
				t.Fatalf("send step %d: %v", i, err)
			}
			continue
		}
		if i == len(steps)-1 {
			break // the answer to all of it
		}
		a := await(t, "an answer", got)
		if a.err != nil {
			t.Fatalf("step %d: got %v, want an answer", i, a.err)
		}
		answers = append(answers, a.body)
	}
	if steps[len(steps)-1].byClient { // it goes on for ever
		select {
		case a := <-got:
			t.Fatalf("got %x, %v while the client kept quiet", a.body, a.err)
		case <-time.After(quietFor):
		}
	}
	_ = stream.CloseSend() // it never fails
	for {
		switch a := await(t, "the end of the call", got); {
		case errors.Is(a.err, io.EOF):
			return answers
		case a.err != nil:
			t.Fatalf("got %v, want the end of the call", a.err)
		default:
			answers = append(answers, a.body)
		}
	}
}

// compareAnswers compares a server's answers with those that are recorded. Only the minor
// version may differ.
func compareAnswers(t *testing.T, got [][]byte, steps []step, empty func() proto.Message) {
	t.Helper()
	var want [][]byte
	for _, s := range steps {
		if !s.byClient {
			want = append(want, s.body)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %d answers, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := empty(), empty()
		if err := errors.Join(proto.Unmarshal(got[i], g), proto.Unmarshal(want[i], w)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, g, protocmp.Transform(), protocmp.IgnoreFields(&pb.Hello{}, "minor")); diff != "" {
			t.Errorf("answer %d differs (-first version +today's):\n%s", i, diff)
		}
	}
}

// checkReceived checks what the played clients have brought.
func (n *tapedNode) checkReceived(t *testing.T, method string) {
	t.Helper()
	who := identityA
	if method == "Join" {
		who = identityC
	}
	who.Full, who.Minor = true, 0 // by its own word, which was none yet
	if diff := cmp.Diff(who, await(t, "the handshake", n.greeted)); diff != "" {
		t.Errorf("the handshake differs (-want +got):\n%s", diff)
	}
	switch method {
	case "Exchange":
		for i, want := range append(tapedFirst[:len(tapedFirst):len(tapedFirst)], tapedLater...) {
			if diff := cmp.Diff(want, await(t, "a message", n.messages)); diff != "" {
				t.Errorf("message %d differs (-want +got):\n%s", i, diff)
			}
		}
		if got := await(t, "the end of the stream", n.left); got != nodeA {
			t.Errorf("node %v has left, want %v", got, nodeA)
		}
	case "RequestVote":
		compare(t, "votes", tapedVotes, await(t, "the votes", n.votes))
	case "InstallSnapshot":
		got := await(t, "the snapshot", n.snapshots)
		compare(t, "header", tapedHeader, got.header)
		if !bytes.Equal(got.state, tapedState) {
			t.Errorf("got %d bytes of state, other ones than the %d recorded", len(got.state), len(tapedState))
		}
	case "Propose":
		compare(t, "proposal", tapedProposal, await(t, "the proposal", n.proposals))
	case "Join":
		compare(t, "join", JoinRequest{Peer: who, Role: nexusraft.RoleMember}, await(t, "the join", n.joins))
	}
}

func compare[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mtls.TokenProof{})); diff != "" {
		t.Errorf("the %s differs (-want +got):\n%s", what, diff)
	}
}

// firstServer answers as the first version's server did, and checks that what it is sent
// would have passed there.
type firstServer struct {
	t       *testing.T
	answers map[string][]step
	edit    func(response proto.Message) // nil leaves the answers as they are

	mu       sync.Mutex
	messages []Message
	streams  int // that were opened
}

func newFirstServer(t *testing.T) *firstServer {
	s := &firstServer{t: t, answers: make(map[string][]step)}
	for name := range tapedMethods {
		for _, step := range readRecording(t, firstVersion, name) {
			if !step.byClient {
				s.answers[name] = append(s.answers[name], step)
			}
		}
	}
	return s
}

func (s *firstServer) handle(method string, stream grpc.ServerStream) error {
	name := path.Base(method)
	if tapedMethods[name].method != method {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	var got [][]byte
	for {
		var body []byte
		err := stream.RecvMsg(&body)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err == nil {
			got = append(got, body)
		}
		switch {
		case name == "Exchange" && err == nil:
			if err := s.exchange(stream, len(got) == 1, body); err != nil {
				return err
			}
		case name == "Exchange":
			return nil
		case err != nil || name != "InstallSnapshot":
			if err := checkFirst(name, got); err != nil {
				s.t.Error(err)
			}
			return s.answer(name, stream)
		}
	}
}

// answer sends the one answer of a call.
func (s *firstServer) answer(name string, stream grpc.ServerStream) error {
	body := s.answers[name][0].body
	if s.edit != nil {
		m := tapedMethods[name].response()
		if err := proto.Unmarshal(body, m); err != nil {
			return err
		}
		s.edit(m)
		body, _ = proto.Marshal(m) // it was one before
	}
	return stream.SendMsg(&body)
}

// exchange takes one request of an Exchange stream, by the first version's rules.
func (s *firstServer) exchange(stream grpc.ServerStream, first bool, body []byte) error {
	var req pb.ExchangeRequest
	if err := proto.Unmarshal(body, &req); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first {
		s.streams++
		return s.answer("Exchange", stream)
	}
	if req.GetFrame() == nil || len(req.GetFrame().GetMessages()) > 8192 {
		s.t.Errorf("a request after the handshake is no frame of the first version: %v", &req)
	}
	for _, e := range req.GetFrame().GetMessages() {
		s.messages = append(s.messages, Message{Zone: nexusraft.ZoneID(e.GetZone()), Data: e.GetMessage()})
	}
	return nil
}

// state returns what has come, and on how many streams.
func (s *firstServer) state() (messages []Message, streams int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages[:len(s.messages):len(s.messages)], s.streams
}

// checkFirst checks the requests of a call against the recorded ones: the first version can
// do nothing with what it doesn't know.
func checkFirst(name string, got [][]byte) error {
	switch name {
	case "InstallSnapshot":
		return checkFirstSnapshot(got)
	case "RequestVote":
		var req pb.RequestVoteRequest
		if err := proto.Unmarshal(got[0], &req); err != nil {
			return err
		}
		if votes, err := votesFromProto(req.GetVotes()); err != nil || !cmp.Equal(tapedVotes, votes) {
			return fmt.Errorf("RequestVote: got %v, %v, want the recorded votes", votes, err)
		}
	}
	return nil
}

// checkFirstSnapshot reads a snapshot by the first version's rules.
func checkFirstSnapshot(got [][]byte) error {
	var state []byte
	for i, body := range got {
		var req pb.InstallSnapshotRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			return err
		}
		c, trailer := req.GetChunk(), req.GetTrailer()
		switch {
		case i == 0 && req.GetHeader().GetIndex() == uint64(tapedHeader.Index):
		case c != nil && c.GetOffset() == uint64(len(state)) && len(c.GetData()) <= 256<<10 &&
			c.GetCrc32C() == crc32.Checksum(c.GetData(), castagnoli):
			state = append(state, c.GetData()...)
		case i == len(got)-1 && trailer.GetTotalBytes() == uint64(len(state)) &&
			trailer.GetCrc32C() == crc32.Checksum(state, castagnoli):
		default:
			return fmt.Errorf("InstallSnapshot: step %d of %d, after %d bytes, is none of the first version's", i, len(got),
				len(state))
		}
	}
	if !bytes.Equal(state, tapedState) {
		return fmt.Errorf("InstallSnapshot: got %d bytes of state, other ones than the %d sent", len(state), len(tapedState))
	}
	return nil
}

// TestCallsToFirstVersion has today's Peers speak to the first version's server: everything
// works, and no stream is dropped because that server answers no pings.
func TestCallsToFirstVersion(t *testing.T) {
	t.Parallel()
	old := newFirstServer(t)
	addr := serveRaw(t, old.handle)
	unreachable := make(chan nexusraft.NodeID, 100)
	p := peersOf(t, identityA, PeersOptions{OnUnreachable: func(id nexusraft.NodeID) { unreachable <- id }})
	connect(t, p, addr)
	for i, m := range tapedFirst {
		p.Send(nodeB, Append, m)
		eventually(t, "the message has come", func() bool { got, _ := old.state(); return len(got) > i })
	}
	got, before := old.state()
	compare(t, "messages", tapedFirst, got)

	if end := await(t, "the votes", ask(t, p, tapedVotes...)); end.err != nil || !cmp.Equal(tapedAnswers(), end.results) {
		t.Errorf("RequestVote: got %+v, %v, want %+v", end.results, end.err, tapedAnswers())
	}
	if err := SendSnapshot(t.Context(), p, nodeB, tapedSnapshot()); err != nil {
		t.Errorf("SendSnapshot: %v", err)
	}
	result, err := p.Propose(t.Context(), nodeB, tapedProposal)
	if err != nil {
		t.Errorf("Propose: %v", err)
	}
	compare(t, "result", tapedResult, result)
	joining := peersOf(t, identityC, PeersOptions{})
	admission, err := joining.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if err != nil {
		t.Errorf("Join: %v", err)
	}
	compare(t, "admission", tapedAdmission, admission)

	select {
	case <-unreachable:
		t.Error("the stream was dropped while nothing was sent")
	case <-time.After(quietFor):
	}
	if _, after := old.state(); after != before {
		t.Errorf("%d streams were opened while nothing was sent", after-before)
	}
}

// newerHello makes a handshake one of a version to come.
func newerHello(h *pb.Hello, major uint32, minor uint64) *pb.Hello {
	h.Protocol = major
	raw, err := proto.Marshal(h)
	if err != nil {
		panic(err) // it is the test's own message
	}
	raw = protowire.AppendTag(raw, 11, protowire.VarintType) // minor
	raw = protowire.AppendVarint(raw, minor)
	raw = protowire.AppendTag(raw, 99, protowire.BytesType) // a field that today's code has never heard of
	raw = protowire.AppendBytes(raw, []byte("from the future"))
	newer := &pb.Hello{}
	if err := proto.Unmarshal(raw, newer); err != nil {
		panic(err)
	}
	return newer
}

// versionsNamed matches a refusal that names a peer's version 2 and this node's version 1,
// and says what to do.
var versionsNamed = regexp.MustCompile(`speaks version 2(\.0)?\b.* version 1(\.\d+)?\b.*(same release|upgrade)`)

func TestServerRefusesNewerMajor(t *testing.T) {
	b := newTapedNode()
	close(b.gate)
	addr, _ := serve(t, identityB, b.handlers())
	conn := dialTest(t, addr)
	for method, call := range calls {
		err := asRefusal(call(t.Context(), conn, newerHello(hello(identityA, nodeB), 2, 0)))
		if !errors.Is(err, nexusraft.ErrRefused) || !versionsNamed.MatchString(err.Error()) {
			t.Errorf("%s: got %v, want ErrRefused that matches %v", method, err, versionsNamed)
		}
	}
}

func TestServerTalksToNewerMinor(t *testing.T) {
	b := newTapedNode()
	close(b.gate)
	addr, _ := serve(t, identityB, b.handlers())
	stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: newerHello(hello(identityA, nodeB), 1,
		99)}})
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	_ = stream.Send(frameToProto(tapedFirst[:1]))
	compare(t, "message", tapedFirst[0], await(t, "the message", b.messages))
}

// editHello has edit change the Hello of a response.
func editHello(edit func(*pb.Hello) *pb.Hello) func(proto.Message) {
	return func(m proto.Message) {
		r := m.ProtoReflect()
		field := r.Descriptor().Fields().ByName("hello")
		h := edit(r.Get(field).Message().Interface().(*pb.Hello))
		r.Set(field, protoreflect.ValueOfMessage(h.ProtoReflect()))
	}
}

func TestPeersRefuseNewerMajor(t *testing.T) {
	newer := newFirstServer(t)
	newer.edit = editHello(func(h *pb.Hello) *pb.Hello { return newerHello(h, 2, 0) })
	addr := serveRaw(t, newer.handle)
	log := &lines{}
	p := peersOf(t, identityA, PeersOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
	p.SetAddress(nodeB, addr)
	eventually(t, "the log names both versions", func() bool { return versionsNamed.MatchString(log.String()) })
	if statsOfB(t, p).Connected {
		t.Error("connected to a node of another major version")
	}
	_, err := peersOf(t, identityC, PeersOptions{}).Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || !versionsNamed.MatchString(err.Error()) {
		t.Errorf("Join: got %v, want ErrRefused that matches %v", err, versionsNamed)
	}
}

func TestPeersTalkToNewerMinor(t *testing.T) {
	newer := newFirstServer(t)
	newer.edit = editHello(func(h *pb.Hello) *pb.Hello { return newerHello(h, 1, 99) })
	addr := serveRaw(t, newer.handle)
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	p.Send(nodeB, Control, tapedFirst[0])
	eventually(t, "the message has come", func() bool { got, _ := newer.state(); return len(got) > 0 })
	got, _ := newer.state()
	compare(t, "message", tapedFirst[:1], got[:1])
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
