package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// zonesServer is the one member of a cluster with zones. It keeps no keys: it notes for which zone a call is.
type zonesServer struct {
	pb.UnimplementedZonesServer
	pb.UnimplementedClusterServer
	pb.UnimplementedAccessServer
	pb.UnimplementedEventStreamServer
	etcdserverpb.UnimplementedKVServer
	address string

	mu    sync.Mutex
	zones []nexusraft.ZoneInfo
	asked []string // calls, but for lists and statuses
	err   error    // of lists
	sick  nexusraft.ZoneID
}

func serveZones(t *testing.T, names ...string) *zonesServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &zonesServer{address: l.Addr().String()}
	for _, name := range names {
		s.add(name)
	}
	server := grpc.NewServer()
	pb.RegisterZonesServer(server, s)
	pb.RegisterClusterServer(server, s)
	pb.RegisterAccessServer(server, s)
	pb.RegisterEventStreamServer(server, s)
	etcdserverpb.RegisterKVServer(server, s)
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

func (s *zonesServer) add(name string) nexusraft.ZoneInfo {
	z := nexusraft.ZoneInfo{
		ID: nexusraft.ZoneID(0x2f + len(s.zones)), Name: name, Machine: "kv",
		Created: time.Date(2026, 11, 22, 23, 56, 15, 0, time.UTC),
	}
	s.zones = append(s.zones, z)
	return z
}

func (s *zonesServer) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
}

func (s *zonesServer) noted() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.asked = nil }()
	return strings.Join(s.asked, "; ")
}

func (s *zonesServer) CreateZone(_ context.Context, req *pb.CreateZoneRequest) (*pb.CreateZoneResponse, error) {
	s.note("create %s %s", req.GetName(), req.GetMachine())
	s.mu.Lock()
	defer s.mu.Unlock()
	made := wire.ZoneInfoToProto(s.add(req.GetName()))
	return &pb.CreateZoneResponse{Result: &pb.CreateZoneResponse_Zone{Zone: made}}, nil
}

func (s *zonesServer) DeleteZone(_ context.Context, req *pb.DeleteZoneRequest) (*pb.DeleteZoneResponse, error) {
	s.note("delete %x %s", req.GetZone(), req.GetName())
	return &pb.DeleteZoneResponse{}, nil
}

func (s *zonesServer) ListZones(_ context.Context, req *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return &pb.ListZonesResponse{Result: &pb.ListZonesResponse_Error{Error: wire.ErrorToProto(s.err)}}, nil
	}
	list := &pb.ZoneList{}
	for _, z := range s.zones {
		if uint64(z.ID) > req.GetAfter() && (req.GetName() == "" || req.GetName() == z.Name) {
			list.Zones = append(list.Zones, wire.ZoneInfoToProto(z))
		}
	}
	return &pb.ListZonesResponse{Result: &pb.ListZonesResponse_Zones{Zones: list}}, nil
}

func (s *zonesServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := nexusraft.Member{Replica: 5, Node: 0xa1, Name: "n1", Address: s.address, Role: nexusraft.RoleMember}
	st := nexusraft.NodeStatus{Cluster: 7, Node: m.Node, Name: "n1", Address: s.address, Healthy: true}
	for _, z := range append([]nexusraft.ZoneInfo{{ID: nexusraft.RootZone}}, s.zones...) {
		view := nexusraft.ZoneStatus{
			Zone: z.ID, Replica: 5, Role: m.Role, State: nexusraft.Leader, Leader: 5, Term: 3, Applied: 13, LastIndex: 13,
			Sync: nexusraft.InSync, Membership: nexusraft.Membership{}.With(m),
			Replicas: []nexusraft.ReplicaStatus{{Member: m, Match: 13, Active: true}},
		}
		if z.ID == s.sick {
			view.State, view.Leader, view.Sync, view.Replicas = nexusraft.Follower, 0, "", nil
		}
		st.Zones = append(st.Zones, view)
	}
	return &pb.StatusResponse{Status: wire.NodeStatusToProto(st)}, nil
}

// zoneNamed is the zone that a call's metadata names.
func zoneNamed(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("nexus-zone"), ",")
}

func (s *zonesServer) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if !strings.HasPrefix(string(req.Key), "bench/") {
		s.note("put in %s", zoneNamed(ctx))
	}
	return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 2}}, nil
}

func (s *zonesServer) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	s.note("range in %s", zoneNamed(ctx))
	return &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 2}}, nil
}

func (s *zonesServer) Publish(_ context.Context, req *pb.PublishRequest) (*pb.PublishResponse, error) {
	s.note("publish in %x", req.GetZone())
	return &pb.PublishResponse{Sequence: 1}, nil
}

func (s *zonesServer) Retain(_ context.Context, req *pb.RetainRequest) (*pb.RetainResponse, error) {
	s.note("retain in %x", req.GetZone())
	return &pb.RetainResponse{}, nil
}

func (s *zonesServer) Subscribe(
	req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse],
) error {
	s.note("subscribe to %x", req.GetZone())
	e := nexusraft.Event{Sequence: 1, Zone: nexusraft.ZoneID(req.GetZone()), Topic: "app/t", Type: "x"}
	return stream.Send(&pb.SubscribeResponse{Events: []*pb.Event{wire.EventToProto(e)}, NextSequence: 2, IdleMillis: 1000})
}

func (s *zonesServer) TransferLeader(
	_ context.Context, req *pb.TransferLeaderRequest,
) (*pb.TransferLeaderResponse, error) {
	s.note("transfer in %x", req.GetZone())
	return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Leader{Leader: 0xa1}}, nil
}

func (s *zonesServer) Grant(_ context.Context, req *pb.GrantRequest) (*pb.GrantResponse, error) {
	s.note("grant in %x", req.GetRole().GetZone())
	return &pb.GrantResponse{}, nil
}

func (s *zonesServer) ListAccess(context.Context, *pb.ListAccessRequest) (*pb.ListAccessResponse, error) {
	return &pb.ListAccessResponse{Principals: []*pb.PrincipalInfo{{Name: "ann", Roles: []*pb.ZoneRole{
		{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ},
		{Zone: 0x2f, Role: pb.AccessRole_ACCESS_ROLE_WRITE},
		{Zone: 0x77, Role: pb.AccessRole_ACCESS_ROLE_ADMIN},
	}}}}, nil
}

func (s *zonesServer) Revoke(_ context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	s.note("revoke in %x", req.GetZone())
	return &pb.RevokeResponse{}, nil
}

// What the commands about zones ask for, and what they print.
func TestZoneCommands(t *testing.T) {
	s := serveZones(t, "orders", "jobs")
	const created = "created 2026-11-22T23:56:15Z"
	node := fmt.Sprintf(`n1    00000000000000a1  %s  member  leader  n1      13       in sync`, s.address)
	for _, tc := range []struct{ args, asked, out, err string }{
		{"list", "", `ID  NAME    STATE MACHINE  CREATED               SHAPE
2f  orders  kv             2026-11-22T23:56:15Z  each node
30  jobs    kv             2026-11-22T23:56:15Z  each node
`, ""},
		{"list --json", "", `{"id":"2f","name":"orders","machine":"kv","created":"2026-11-22T23:56:15Z"}
{"id":"30","name":"jobs","machine":"kv","created":"2026-11-22T23:56:15Z"}
`, ""},
		{"create more", "create more kv", "zone more (31) with state machine kv, " + created + "\n", ""},
		{
			"create most --machine queue --json", "create most queue",
			`{"id":"32","name":"most","machine":"kv","created":"2026-11-22T23:56:15Z"}` + "\n", "",
		},
		{
			"delete orders --yes", "delete 2f orders", "deleted zone orders (2f)\n", "zone orders (2f) with state machine kv, " +
				created + ": all its keys and events will be lost, on every node, for ever\n",
		},
		{
			"delete 30 --yes --json", "delete 30 jobs",
			`{"id":"30","name":"jobs","machine":"kv","created":"2026-11-22T23:56:15Z"}` + "\n", "zone jobs (30) with state " +
				"machine kv, " + created + ": all its keys and events will be lost, on every node, for ever\n",
		},
		{
			"show orders", "", "zone orders (2f) with state machine kv, " + created +
				"\nNAME  NODE              ADDRESS" + strings.Repeat(" ", len(s.address)-len("ADDRESS")) +
				"  ROLE    STATE   LEADER  APPLIED  SYNC\n" + node + "\n", "",
		},
	} {
		args := append([]string{"zone"}, strings.Fields(tc.args)...)
		status, stdout, stderr := command(t, append(args, "--endpoints", s.address)...)
		if d := cmp.Diff(tc.out+tc.err, stdout+stderr); d != "" || status != exitOK {
			t.Errorf("%s: status %d (-want +got):\n%s", tc.args, status, d)
		}
		if got := s.noted(); got != tc.asked {
			t.Errorf("%s: asked for %q, want %q", tc.args, got, tc.asked)
		}
	}
	status, stdout, _ := command(t, "zone", "show", "root", "--json", "--endpoints", s.address+",127.0.0.1:1")
	var shown struct {
		nexusraft.ZoneInfo
		Nodes []zoneView
	}
	if err := json.Unmarshal([]byte(stdout), &shown); status != exitOK || err != nil || shown.Name != "root" ||
		len(shown.Nodes) != 2 || shown.Nodes[0].Status.Zone != 1 || shown.Nodes[1].Error == "" {
		t.Errorf("show root --json: got status %d, %s, %v", status, stdout, err)
	}
}

// Each command that has --zone takes a name or an ID, and asks for the same zone.
func TestZoneByName(t *testing.T) {
	s := serveZones(t, "orders", "all-of-it")
	for _, tc := range []struct{ args, asked string }{
		{"put k v", "put in 2f"},
		{"list k", "range in 2f"},
		{"publish app/t x", "publish in 2f"},
		{"retain 10", "retain in 2f"},
		{"events --from 1 --count 1", "subscribe to 2f"},
		{"transfer", "transfer in 2f"},
		{"member list", ""},
		{"access grant ann --role read", "grant in 2f"},
		{"access revoke ann", "revoke in 2f"},
		{"status", ""},
	} {
		for _, zone := range []string{"orders", "2f", "2F"} {
			args := append(strings.Fields(tc.args), "--zone", zone, "--endpoints", s.address)
			status, _, stderr := command(t, args...)
			if got := s.noted(); status != exitOK || got != tc.asked {
				t.Errorf("%q: got status %d, %s, and asked for %q, want %q", args, status, stderr, got, tc.asked)
			}
		}
		args := append(strings.Fields(tc.args), "--zone", "orderz", "--endpoints", s.address)
		status, stdout, stderr := command(t, args...)
		want := "nexus-raft: there is no zone orderz; nexus-raft zone list shows which there are\n"
		if got := s.noted(); status != exitFailed || stdout != "" || stderr != want || got != "" {
			t.Errorf("%q: got status %d, %q, %q, and asked for %q", args, status, stdout, stderr, got)
		}
	}
	t.Setenv("NEXUS_RAFT_ZONE", "orders")
	command(t, "put", "k", "v", "--endpoints", s.address)
	command(t, "put", "k", "v", "--endpoints", s.address, "--zone", "root")
	if got := s.noted(); got != "put in 2f; put in 1" {
		t.Errorf("with NEXUS_RAFT_ZONE: asked for %q", got)
	}
	status, stdout, stderr := command(t, "events", "--local", "--endpoints", s.address, "--count", "1", "--zone", "orderz")
	if got := s.noted(); status != exitOK || got != "subscribe to 0" {
		t.Errorf("events --local: got status %d, %q, %q, and asked for %q", status, stdout, stderr, got)
	}
}

// Roles are listed with the names of their zones; a zone that was deleted has none.
func TestAccessListNamesZones(t *testing.T) {
	s := serveZones(t, "orders")
	status, stdout, stderr := command(t, "access", "list", "--endpoints", s.address)
	want := `NAME  ROLE   IN
ann   read   zone 1
ann   write  zone orders (2f)
ann   admin  zone 77, which there is not (any more)
`
	if d := cmp.Diff(want, stdout); d != "" || status != exitOK {
		t.Errorf("status %d, %s (-want +got):\n%s", status, stderr, d)
	}
	s.mu.Lock()
	s.err = nexusraft.ErrNoQuorum // which zones there are is not known
	s.mu.Unlock()
	_, stdout, _ = command(t, "access", "list", "--endpoints", s.address, "--timeout", "300ms")
	if !strings.HasSuffix(stdout, "ann   write  zone 2f\nann   admin  zone 77\n") {
		t.Errorf("without the names: got %s", stdout)
	}
}

func TestBenchOfAZoneByName(t *testing.T) {
	s := serveZones(t, "orders")
	status, _, stderr := command(t, "bench", "--zone", "orders", "--duration", "50ms", "--endpoints", s.address, "--json")
	if got := s.noted(); status != exitOK || got != "range in 2f" {
		t.Errorf("got status %d, %s, and asked for %q", status, stderr, got)
	}
	status, _, stderr = command(t, "bench", "--zone", "orderz", "--duration", "50ms", "--endpoints", s.address)
	if status != exitFailed || !strings.Contains(stderr, "there is no zone orderz; nexus-raft zone list") {
		t.Errorf("an unknown name: got status %d, %q", status, stderr)
	}
}

// A node that does not answer has a row of the same columns, and the rows after it keep theirs.
func TestZoneViewsOfASilentNode(t *testing.T) {
	views := []zoneView{
		{Endpoint: "127.0.0.1:1", Node: 0xa1, Name: "n1", Status: &nexusraft.ZoneStatus{
			Role: nexusraft.RoleMember, State: nexusraft.Leader, Applied: 13, Sync: nexusraft.InSync,
		}},
		{Endpoint: "127.0.0.1:2", Error: "connect: connection refused"},
		{Endpoint: "127.0.0.1:3", Node: 0xa3, Name: "w1"},
	}
	var out strings.Builder
	if err := printViews(&out, views); err != nil {
		t.Fatal(err)
	}
	want := `NAME  NODE              ADDRESS      ROLE    STATE   LEADER   APPLIED  SYNC
n1    00000000000000a1  127.0.0.1:1  member  leader  unknown  13       in sync
-     -                 127.0.0.1:2  -       -       -        -        does not answer: connect: connection refused
w1    00000000000000a3  127.0.0.1:3  -       -       -        -        no replica of it
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// While the root zone answers nobody, an ID still does, and status says what it knows.
func TestZonesWithoutTheRootZone(t *testing.T) {
	t.Parallel()
	s := serveZones(t, "orders")
	s.err, s.sick = nexusraft.ErrNoQuorum, nexusraft.RootZone
	if status, _, stderr := command(t, "put", "k", "v", "--zone", "orders", "--timeout", "300ms", "--endpoints",
		s.address); status != exitFailed || !strings.Contains(stderr, "zone orders: its ID is not known: ") ||
		!strings.Contains(stderr, "its ID can be given instead") {
		t.Errorf("by name: got status %d, %q", status, stderr)
	}
	if status, _, stderr := command(t, "put", "k", "v", "--zone", "2f", "--endpoints", s.address); status != exitOK {
		t.Errorf("by ID: got status %d, %q", status, stderr)
	}
	status, stdout, stderr := command(t, "zone", "list", "--timeout", "300ms", "--endpoints", s.address)
	if status != exitFailed || stdout != "" || !strings.Contains(stderr, "list zones: ") {
		t.Errorf("zone list: got status %d, %q, %q, want no list", status, stdout, stderr)
	}
	status, stdout, stderr = command(t, "status", "--endpoints", s.address)
	if status != exitOK || !strings.Contains(stdout, "zone root (1) of cluster 0000000000000007: NO LEADER answers") ||
		!strings.Contains(stdout, "zone 2f of cluster 0000000000000007: in sync") {
		t.Errorf("status: got %d, %s, %s", status, stdout, stderr)
	}
}

func TestStatusOfManyZones(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("zone-%d", i))
	}
	s := serveZones(t, names...)
	s.sick = 0x30
	type outcome struct {
		status         int
		stdout, stderr string
	}
	lines := []string{
		"", "--zone zone-1", "--zone 30", "--all", "--json", "--json --zone zone-1", "--check", "--zone 77",
	}
	outcomes := make([]outcome, len(lines))
	var all sync.WaitGroup
	for i, line := range lines { // beside one another: each waits a second for the sick zone
		all.Go(func() {
			args := append([]string{"status", "--endpoints", s.address}, strings.Fields(line)...)
			outcomes[i].status, outcomes[i].stdout, outcomes[i].stderr = command(t, args...)
		})
	}
	all.Wait()
	said := func(line string) outcome { return outcomes[slices.Index(lines, line)] }

	stdout := said("").stdout
	for _, want := range []string{
		"zone root (1) of cluster", "20 zones by their state", "zone-0 (2f)\n",
		"1      NONE ANSWERS  -        n1       -          NO                zone-1 (30)\n",
	} {
		if !strings.Contains(stdout, want) || strings.Count(stdout, "\n") > 12 {
			t.Errorf("status: got\n%s\nwant %q in a few lines", stdout, want)
		}
	}
	stdout = said("--zone zone-1").stdout
	if !strings.HasPrefix(stdout, "zone zone-1 (30) of cluster") || strings.Contains(stdout, "root") {
		t.Errorf("--zone: got\n%s", stdout)
	}
	if byID := said("--zone 30").stdout; byID != stdout {
		t.Errorf("--zone with an ID: got\n%s\nwant\n%s", byID, stdout)
	}
	stdout = said("--all").stdout
	if strings.Count(stdout, "\nNAME ") != 21 || !strings.Contains(stdout, "zone zone-19 (42) of cluster") {
		t.Errorf("--all: got\n%s\nwant 21 tables", stdout)
	}
	for line, count := range map[string]int{"--json": 21, "--json --zone zone-1": 1} {
		var r report
		if err := json.Unmarshal([]byte(said(line).stdout), &r); err != nil || len(r.Zones) != count ||
			len(r.Answers[0].Status.Zones) != count || r.Zones[count-1].Name == "" {
			t.Errorf("%s: got %v and %s, want %d zones", line, err, said(line).stdout, count)
		}
	}
	if got := said("--check"); got.status != exitFailed ||
		!strings.HasSuffix(got.stderr, "2f, 30, 31, 32, 33, 34, 35 and 13 more\n") {
		t.Errorf("--check: got status %d, %q", got.status, got.stderr)
	}
	if got := said("--zone 77"); got.status != exitFailed ||
		!strings.Contains(got.stderr, "no node that answers has a replica of zone 77; nexus-raft") {
		t.Errorf("an ID that no zone has: got status %d, %q", got.status, got.stderr)
	}
}

// Only the zone's name, typed in, deletes it.
func TestDeletionIsConfirmed(t *testing.T) {
	for typed, ok := range map[string]bool{
		"orders\n": true, " orders \n": true, "orders": true,
		"": false, "\n": false, "y\n": false, "Orders\n": false, "order\x1b\n": false,
	} {
		var out bytes.Buffer
		err := confirm(t.Context(), strings.NewReader(typed), &out, "orders")
		if (err == nil) != ok || err != nil && !strings.HasSuffix(err.Error(), "nothing was deleted") ||
			!strings.Contains(out.String(), "type its name") {
			t.Errorf("%q: got %v after %q", typed, err, &out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, hold := net.Pipe() // nothing comes
	defer hold.Close()
	if err := confirm(ctx, in, &bytes.Buffer{}, "orders"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: got %v, want it said", err)
	}
}
