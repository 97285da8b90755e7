package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// eventServer serves the events 1 to newest of a zone, and what is added to them.
type eventServer struct {
	pb.UnimplementedEventStreamServer
	address string

	mu     sync.Mutex
	newest uint64
	oldest uint64
	added  chan struct{} // closed when there are more
	last   *pb.SubscribeRequest
}

func serveEvents(t *testing.T, newest uint64) *eventServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &eventServer{address: l.Addr().String(), newest: newest, oldest: 1, added: make(chan struct{})}
	server := grpc.NewServer()
	pb.RegisterEventStreamServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func (s *eventServer) add(count uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest += count
	close(s.added)
	s.added = make(chan struct{})
}

func (s *eventServer) state() (newest uint64, added <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest, s.added
}

func (s *eventServer) Subscribe(
	req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse],
) error {
	s.mu.Lock()
	s.last = req
	s.mu.Unlock()
	newest, added := s.state()
	next := req.GetFromSequence()
	if next == 0 {
		next = newest + 1
	}
	if next < s.oldest {
		st, err := status.New(codes.OutOfRange, "gone").WithDetails(wire.ErrorToProto(&nexusraft.GoneError{
			Asked:  next,
			Oldest: s.oldest,
		}))
		if err != nil {
			return err
		}
		return st.Err()
	}
	resp := &pb.SubscribeResponse{NextSequence: next}
	for {
		if err := stream.Send(resp); err != nil {
			return err
		}
		resp = &pb.SubscribeResponse{}
		for ; next <= newest; next++ {
			resp.Events = append(resp.Events, serverEvent(next))
		}
		resp.NextSequence = next
		if len(resp.Events) == 0 {
			select {
			case <-added:
				newest, added = s.state()
			case <-stream.Context().Done():
				return nil
			}
		}
	}
}

func (s *eventServer) Publish(
	_ context.Context, req *pb.PublishRequest,
) (*pb.PublishResponse, error) {
	if string(req.Payload) != "with 7 apples" || req.Topic != "app/a" || req.Type != "made" || req.Zone != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "got %v", req)
	}
	return &pb.PublishResponse{Sequence: 57}, nil
}

func (s *eventServer) Retain(_ context.Context, req *pb.RetainRequest) (*pb.RetainResponse, error) {
	if req.Count != 500 || req.AgeNanos != int64(time.Hour) || req.Zone != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "got %v", req)
	}
	return &pb.RetainResponse{}, nil
}

func serverEvent(sequence uint64) *pb.Event {
	return &pb.Event{
		Sequence: sequence, Topic: "app/t", Type: "made", Payload: fmt.Append(nil, "p", sequence),
		Time: timestamppb.New(time.Unix(int64(sequence), 0)), Zone: 1,
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// How events look on a terminal, and as JSON.
func TestEventsArePrinted(t *testing.T) {
	pair := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v\n"), CreateRevision: 2, ModRevision: 4, Version: 3}
	gone := &mvccpb.KeyValue{Key: []byte("k\xff"), ModRevision: 5}
	span := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("b"), ModRevision: 6}
	member := &pb.Member{Replica: 1, Node: 2, Name: "n2", Address: "h:1", Role: pb.Role_ROLE_LEARNER}
	for _, tc := range []struct {
		topic, kind string
		payload     []byte
		text, json  string
	}{
		{
			"key", "put", marshal(t, &mvccpb.Event{Kv: pair}), `k = "v\n"`,
			`"pair":{"key":"k","value":"v\n","create_revision":2,"mod_revision":4,"version":3}`,
		},
		{
			"key", "delete", marshal(t, &mvccpb.Event{Type: mvccpb.DELETE, Kv: gone}), `"k\xff"`,
			`"pair":{"key_base64":"a/8=","create_revision":0,"mod_revision":5,"version":0}`,
		},
		{"key", "put-large", marshal(t, &mvccpb.Event{Kv: &mvccpb.KeyValue{
			Key: []byte("k"), CreateRevision: 2,
			ModRevision: 4, Version: 3,
		}}), `k`, `"pair":{"key":"k","create_revision":2,"mod_revision":4,"version":3}`},
		{
			"key", "delete-range", marshal(t, &mvccpb.Event{Kv: span}), `a to b`,
			`"range":{"key":"a","range_end":"b","mod_revision":6}`,
		},
		{
			"key", "delete-lease", marshal(t, &mvccpb.Event{Kv: span}), `a to b`,
			`"range":{"key":"a","range_end":"b","mod_revision":6}`,
		},
		{
			"key", "rename", marshal(t, &mvccpb.Event{Kv: pair}), `"\x12\r\n\x01k\x10\x02\x18\x04 \x03*\x02v\n"`,
			`"payload":"\u0012\r\n\u0001k\u0010\u0002\u0018\u0004 \u0003*\u0002v\n"`,
		},
		{"key", "put", []byte{0xff}, `"\xff"`, `"payload_base64":"/w=="`},
		{
			"member", "added", marshal(t, member), `learner n2 (0000000000000002) at h:1`,
			`"member":{"replica":"0000000000000001","node":"0000000000000002","name":"n2","address":"h:1","role":"learner"}`,
		},
		{
			"zone", "created", marshal(t, &pb.ZoneInfo{Id: 2, Name: "orders", Machine: "kv", CreatedNanos: 5e9}),
			`orders (2), state machine kv`,
			`"zone_info":{"id":"2","name":"orders","machine":"kv","created":"1970-01-01T00:00:05Z"}`,
		},
		{
			"leader", "elected", marshal(t, &pb.LeaderEvent{Node: 2, Replica: 1, Term: 7}),
			`zone 1 node 0000000000000002 term 7`, `"detail":{"node":"0000000000000002","replica":"0000000000000001","term":7}`,
		},
		{
			"peer", "lost", marshal(t, &pb.PeerEvent{Node: 2, Address: "h\x1b:1"}),
			`"zone 1 node 0000000000000002 at h\x1b:1"`, `"detail":{"node":"0000000000000002","address":"h\u001b:1"}`,
		},
		{"app/a", "made", []byte("text"), "text", `"payload":"text"`},
		{
			"app/a", "made", bytes.Repeat([]byte("x"), 100), strings.Repeat("x", 80) + "… (100 bytes)",
			`"payload":"` + strings.Repeat("x", 100) + `"`,
		},
		{"app/a\x1b[2J", "a\tb", nil, "", ""},
	} {
		e := nexusraft.Event{
			Sequence: 57, Topic: tc.topic, Type: tc.kind, Payload: tc.payload, Time: time.Unix(1, 5e6), Zone: 1,
		}
		var text, object bytes.Buffer
		for out, asJSON := range map[*bytes.Buffer]bool{&text: false, &object: true} {
			p := &eventPrinter{out: out, json: asJSON}
			if err := p.take(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		want := fmt.Sprintf("1970-01-01T00:00:01.005Z\t57\t%s\t%s\t%s\n", printable(tc.topic), printable(tc.kind), tc.text)
		if got := text.String(); got != want || strings.ContainsAny(got, "\x1b") {
			t.Errorf("%s %s: got %q, want %q", tc.topic, tc.kind, got, want)
		}
		topic, err := json.Marshal(tc.topic)
		if err != nil {
			t.Fatal(err)
		}
		kind, err := json.Marshal(tc.kind)
		if err != nil {
			t.Fatal(err)
		}
		more := ""
		if tc.json != "" {
			more = "," + tc.json
		}
		want = fmt.Sprintf(`{"sequence":57,"time":"1970-01-01T00:00:01.005Z","zone":"1","topic":%s,"type":%s%s}`+"\n", topic,
			kind, more)
		if got := object.String(); got != want {
			t.Errorf("%s %s: got %s, want %s", tc.topic, tc.kind, got, want)
		}
	}
}

// Flags become the request, and what comes is printed until there is enough.
func TestEventsFollow(t *testing.T) {
	s := serveEvents(t, 5)
	code, stdout, stderr := command(t, "events", "--endpoints", s.address, "--from", "2", "--count", "3", "--topic", "app",
		"--topic", "key", "--type", "made")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != exitOK || len(lines) != 3 || lines[0] != "1970-01-01T00:00:02.000Z\t2\tapp/t\tmade\tp2" ||
		stderr != "to go on: --from 5\n" {
		t.Errorf("got status %d, %q, %q", code, stdout, stderr)
	}
	want := &pb.SubscribeRequest{
		Zone: 1, FromSequence: 2, Topics: []string{"app", "key"},
		Types: []string{"made"},
	}
	if !proto.Equal(s.last, want) {
		t.Errorf("got request %v, want %v", s.last, want)
	}
	command(t, "events", "--endpoints", s.address, "--from", "5", "--count", "1", "--local")
	if want := (&pb.SubscribeRequest{FromSequence: 5}); !proto.Equal(s.last, want) {
		t.Errorf("--local: got request %v, want %v", s.last, want)
	}
}

// SIGINT ends it in order, and it says where to go on: no event is printed twice or missed.
func TestEventsEndWithSIGINT(t *testing.T) {
	s := serveEvents(t, 3)
	p := launch(t, "events", "--endpoints", s.address, "--from", "1")
	p.says(t, "\tp3\n")
	s.add(2)
	p.says(t, "\tp5\n")
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.exits(t); code != exitOK || !strings.HasSuffix(p.out.String(), "\nto go on: --from 6\n") {
		t.Errorf("got status %d and %q", code, p.out.String())
	}
}

func TestEventsFail(t *testing.T) {
	s := serveEvents(t, 50)
	s.oldest = 40
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--endpoints", s.address, "--from", "7"}, exitFailed, "event 7 is no longer kept, the oldest is 40; to " +
			"go on without what is missing: --from 40"},
		{[]string{"--endpoints", "127.0.0.1:1", "--timeout", "50ms"}, exitFailed, "no answer in time within 50ms: "},
		{[]string{"--timeout", "0s"}, exitUsage, "--timeout 0s"},
		{[]string{"--local", "--endpoints", "127.0.0.1:1,127.0.0.1:2"}, exitUsage, "--local follows one node"},
		{[]string{"--state", "x"}, exitUsage, "need --webhook"},
		{[]string{"--webhook-secret-file", "x"}, exitUsage, "need --webhook"},
		{[]string{"--webhook", "h.example/SECRET"}, exitUsage, "http://"},
		{[]string{"--webhook", "http://h.example", "--webhook-secret-file", "/absent/file"}, exitFailed, "/absent/file"},
	} {
		code, stdout, stderr := command(t, append([]string{"events"}, tc.args...)...)
		last := strings.TrimSpace(stderr[strings.LastIndex(strings.TrimSpace(stderr), "\n")+1:])
		if code != tc.code || stdout != "" || !strings.Contains(last, tc.says) || strings.Contains(stderr, "SECRET") {
			t.Errorf("%q: got status %d, %q, %q; want %d and %q", tc.args, code, stdout, stderr, tc.code, tc.says)
		}
	}
}

func TestEventCommandsHaveAnExample(t *testing.T) {
	for _, name := range []string{"events", "publish", "retain"} {
		if code, stdout, _ := command(t, name, "--help"); code != exitOK || !strings.Contains(stdout, "Example") {
			t.Errorf("%s --help: got status %d, %q", name, code, stdout)
		}
	}
}

func TestPublishAndRetain(t *testing.T) {
	s := serveEvents(t, 5)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte("with 7 apples"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"publish", "app/a", "made", "with 7 apples"}, exitOK, "sequence 57\n"},
		{[]string{"publish", "app/a", "made", "--file", file, "--json"}, exitOK, `{"sequence":57}` + "\n"},
		{[]string{"publish", "app/a", "made"}, exitFailed, ""},
		{[]string{"publish", "app/a", "made", "x", "--file", file}, exitUsage, ""},
		{[]string{"retain", "500", "--age", "1h"}, exitOK, "changed\n"},
		{[]string{"retain", "500", "--age=-1h"}, exitUsage, ""},
		{[]string{"retain", "-5"}, exitUsage, ""},
	} {
		code, stdout, stderr := command(t, append(tc.args, "--endpoints", s.address)...)
		if code != tc.code || stdout != tc.want || (stderr != "") != (code != exitOK) {
			t.Errorf("%q: got status %d, %q, %q; want %d, %q", tc.args, code, stdout, stderr, tc.code, tc.want)
		}
	}
}

// hook is a receiver of webhooks that answers as a test says.
type hook struct {
	*httptest.Server
	mu    sync.Mutex
	posts []string // sequences
	body  string   // of the last
	sign  string   // of the last
}

func newHook(t *testing.T, answer func(n int, sequence string) int) *hook {
	t.Helper()
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // a bridge that was killed
		}
		sequence := req.Header.Get("Nexus-Raft-Event-Sequence")
		h.mu.Lock()
		h.posts = append(h.posts, sequence)
		h.body, h.sign = string(body), req.Header.Get("Nexus-Raft-Signature")
		n := len(h.posts)
		h.mu.Unlock()
		w.WriteHeader(answer(n, sequence))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.posts...)
}

func accept(int, string) int { return 200 }

// Events are posted in order, again after failures, and from where an earlier bridge
// stopped.
func TestWebhook(t *testing.T) {
	t.Setenv("NEXUS_RAFT_WEBHOOK_SECRET", "s3cret")
	s := serveEvents(t, 5)
	state := filepath.Join(t.TempDir(), "state")
	h := newHook(t, func(n int, _ string) int { return []int{200, 503, 200}[min(n, 3)-1] })
	args := []string{"events", "--endpoints", s.address, "--webhook", h.URL + "/SECRET", "--state", state, "--from", "1"}
	code, stdout, stderr := command(t, append(args, "--count", "3")...)
	if d := cmp.Diff([]string{"1", "2", "2", "3"}, h.got()); d != "" || code != exitOK || stdout != "" {
		t.Errorf("got status %d, %q, posts (-want +got):\n%s", code, stdout, d)
	}
	for _, want := range []string{
		"posting the events of zone 1 to " + h.URL + ", from sequence 1 on\n",
		"event 2: " + h.URL + ": status 503 Service Unavailable; trying again in ", "to go on: --from 4\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("got %q, want %q in it", stderr, want)
		}
	}
	if strings.Contains(stderr, "SECRET") || strings.Contains(stderr, "s3cret") {
		t.Errorf("got %q, want no secret in it", stderr)
	}
	if want := `{"sequence":3,"time":"1970-01-01T00:00:03Z","zone":"1","topic":"app/t","type":"made","payload":"p3"}` +
		"\n"; h.body != want || !strings.HasPrefix(h.sign, "t=") {
		t.Errorf("got body %q, signature %q; want %q", h.body, h.sign, want)
	}
	code, _, stderr = command(t, append(args, "--count", "2")...)
	if d := cmp.Diff([]string{"1", "2", "2", "3", "4", "5"}, h.got()); d != "" || code != exitOK {
		t.Errorf("the second bridge: got status %d, %q, posts (-want +got):\n%s", code, stderr, d)
	}
}

// An answer that trying again would not change ends the bridge; it says at which event, and
// goes on there when it is started again.
func TestWebhookThatRefuses(t *testing.T) {
	s := serveEvents(t, 5)
	state := filepath.Join(t.TempDir(), "state")
	broken := true
	h := newHook(t, func(_ int, sequence string) int {
		if broken && sequence == "3" {
			return 422
		}
		return 200
	})
	args := []string{
		"events", "--endpoints", s.address, "--webhook", h.URL, "--state", state, "--from", "1", "--count",
		"5",
	}
	code, _, stderr := command(t, args...)
	if code != exitFailed || !strings.Contains(stderr, "refuses event 3 for good: status 422") ||
		!strings.Contains(stderr, "to go on: --from 3\n") {
		t.Errorf("got status %d, %q", code, stderr)
	}
	broken = false
	command(t, append(args, "--count", "3")...)
	if d := cmp.Diff([]string{"1", "2", "3", "3", "4", "5"}, h.got()); d != "" {
		t.Errorf("posts (-want +got):\n%s", d)
	}
}

// A second bridge with the same state file is refused, and the first goes on.
func TestTwoBridgesAtOnce(t *testing.T) {
	s := serveEvents(t, 0)
	state := filepath.Join(t.TempDir(), "state")
	h := newHook(t, accept)
	args := []string{"events", "--endpoints", s.address, "--webhook", h.URL, "--state", state, "--from", "1"}
	p := launch(t, args...)
	p.says(t, "posting the events")
	if code, _, stderr := command(t, args...); code != exitFailed ||
		!strings.Contains(stderr, state+" is in use by another bridge") {
		t.Errorf("the second one: got status %d, %q", code, stderr)
	}
	s.add(3)
	eventually(t, "the first one posts", func() bool { return len(h.got()) == 3 })
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The second event is noted, as the third one came; that one need not be, if the stop came before its answer.
	code, out := p.exits(t), p.out.String()
	if code != exitOK || !strings.Contains(out, "to go on: --from 3\n") && !strings.Contains(out, "to go on: --from 4\n") {
		t.Errorf("got status %d, %q", code, out)
	}
}

// A bridge that is killed has its successor post again what was not noted yet, and nothing
// is missing.
func TestKilledBridgeMissesNothing(t *testing.T) {
	const events = 40
	s := serveEvents(t, events)
	state := filepath.Join(t.TempDir(), "state")
	h := newHook(t, accept)
	args := []string{"events", "--endpoints", s.address, "--webhook", h.URL, "--state", state, "--from", "1"}
	for i := 1; i <= 3; i++ {
		p := launch(t, args...)
		before := len(h.got())
		eventually(t, "it posts", func() bool { return len(h.got()) >= before+3 })
		p.Process.Kill()
		p.exits(t)
		s.add(5)
	}
	p := launch(t, args...)
	last := fmt.Sprint(events + 15)
	eventually(t, "all is posted", func() bool { got := h.got(); return len(got) > 0 && got[len(got)-1] == last })
	p.stop(t)
	seen := uint64(0)
	for _, post := range h.got() {
		var n uint64
		fmt.Sscan(post, &n)
		if n > seen+1 {
			t.Errorf("event %d was posted after %d: %v", n, seen, h.got())
		}
		seen = max(seen, n)
	}
}

// SIGINT ends a bridge whose receiver is down, too.
func TestBridgeEndsWhileItWaits(t *testing.T) {
	s := serveEvents(t, 5)
	h := newHook(t, func(int, string) int { return 503 })
	p := launch(t, "events", "--endpoints", s.address, "--webhook", h.URL, "--from", "2")
	p.says(t, "trying again")
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.exits(t); code != exitOK || !strings.Contains(p.out.String(), "to go on: --from 2\n") {
		t.Errorf("got status %d, %q", code, p.out.String())
	}
}
