package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

func TestProposeCarriesEverything(t *testing.T) {
	proposal := Proposal{
		Zone: 3, Request: nexusraft.RequestID{Session: 1, Sequence: 2}, Own: true,
		Command: []byte("command"),
	}
	want := nexusraft.Result{Data: []byte("answer"), Index: 42, Copies: 2}
	addr, _ := serve(t, identityB, &fakeNode{propose: func(_ context.Context, got Proposal) (nexusraft.Result, error) {
		if diff := cmp.Diff(proposal, got); diff != "" {
			t.Errorf("proposal (-want +got):\n%s", diff)
		}
		return want, nil
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
	p.SetAddress(nodeB, addr) // Propose waits for the connection
	got, err := p.Propose(t.Context(), nodeB, proposal)
	if err != nil {
		t.Fatalf("Propose: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestProposeErrorsKeepTheirMeaning(t *testing.T) {
	answer := make(chan error, 1)
	addr, _ := serve(t, identityB, &fakeNode{propose: func(context.Context, Proposal) (nexusraft.Result, error) {
		return nexusraft.Result{}, <-answer
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
	connect(t, p, addr)
	propose := func(t *testing.T, err error) error {
		t.Helper()
		answer <- err
		_, got := p.Propose(t.Context(), nodeB, Proposal{Zone: 1})
		return got
	}
	for _, sentinel := range []error{
		nexusraft.ErrNotLeader, nexusraft.ErrOverloaded, nexusraft.ErrUncertain, nexusraft.ErrNoQuorum,
		nexusraft.ErrZoneNotFound, nexusraft.ErrTooLarge, nexusraft.ErrDiskFull, nexusraft.ErrClosed,
		nexusraft.ErrCorrupt, nexusraft.ErrRefused, nexusraft.ErrUnknownSession, nexusraft.ErrNotFounded,
	} {
		t.Run(sentinel.Error(), func(t *testing.T) {
			err := fmt.Errorf("apply: %w", sentinel)
			if got := propose(t, err); !errors.Is(got, sentinel) || got.Error() != err.Error() {
				t.Errorf("got %v, want %v", got, err)
			}
		})
	}
	t.Run("leader's hint", func(t *testing.T) {
		want := &nexusraft.NotLeaderError{Zone: 3, Leader: 0xd, Address: "d:1"}
		got, ok := errors.AsType[*nexusraft.NotLeaderError](propose(t, fmt.Errorf("step: %w", want)))
		if !ok || *got != *want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("application", func(t *testing.T) {
		got := propose(t, errors.New("no such key"))
		if !errors.Is(got, wire.ErrApplication) || got.Error() != "no such key" {
			t.Errorf("got %v, want wire.ErrApplication with its text", got)
		}
	})
	t.Run("unknown wins over refused", func(t *testing.T) {
		got := propose(t, errors.Join(nexusraft.ErrNotLeader, nexusraft.ErrUncertain))
		if !errors.Is(got, nexusraft.ErrUncertain) || errors.Is(got, nexusraft.ErrNotLeader) {
			t.Errorf("got %v, want ErrUncertain alone", got)
		}
	})
	t.Run("context", func(t *testing.T) {
		if got := propose(t, context.DeadlineExceeded); !errors.Is(got, nexusraft.ErrUncertain) {
			t.Errorf("got %v, want ErrUncertain", got)
		}
	})
}

func TestProposeIsUncertainOnceSent(t *testing.T) {
	arrived := make(chan struct{})
	addr, stop := serve(t, identityB, &fakeNode{propose: func(ctx context.Context, _ Proposal) (nexusraft.Result, error) {
		arrived <- struct{}{}
		<-ctx.Done()
		return nexusraft.Result{}, ctx.Err()
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
	connect(t, p, addr)
	propose := func(ctx context.Context) <-chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := p.Propose(ctx, nodeB, Proposal{Zone: 1})
			ended <- err
		}()
		await(t, "the command at B", arrived)
		return ended
	}
	t.Run("caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := propose(ctx)
		cancel()
		if err := await(t, "the end", ended); !errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("got %v, want ErrUncertain", err)
		}
	})
	t.Run("peer dies", func(t *testing.T) {
		ended := propose(t.Context())
		stop()
		if err := await(t, "the end", ended); !errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("got %v, want ErrUncertain", err)
		}
	})
}

func TestProposeIsUnreachableBeforeItIsSent(t *testing.T) {
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 20 * time.Millisecond, Dialer: gatedDialer(nil)})
	propose := func(command []byte) error {
		_, err := p.Propose(t.Context(), nodeB, Proposal{Zone: 1, Command: command})
		if errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("got %v: nothing was sent", err)
		}
		return err
	}
	if err := propose(nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("unknown peer: got %v, want ErrUnreachable", err)
	}
	p.SetAddress(nodeB, "nowhere:1")
	if err := propose(nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no connection: got %v, want ErrUnreachable", err)
	}
	if err := propose(make([]byte, nexusraft.MaxCommandBytes+1)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("large command: got %v, want ErrTooLarge", err)
	}
}

func TestServerRefusesLargeCommand(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	resp, err := pb.NewZonesClient(dialTest(t, addr)).Propose(t.Context(), &pb.ProposeRequest{
		Hello:   hello(identityA, nodeB),
		Command: make([]byte, nexusraft.MaxCommandBytes+1),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.ErrorFromProto(resp.GetError()); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestEmptyAnswerIsUncertain(t *testing.T) {
	for name, resp := range map[string]*pb.ProposeResponse{
		"nothing": {Hello: hello(identityB, nodeA)},
		"other node": {
			Hello:  hello(Identity{Cluster: testCluster, Node: 0xd, Incarnation: 1, Boot: 1}, nodeA),
			Result: &pb.ProposeResponse_Ok{Ok: &pb.ProposeResult{}},
		},
	} {
		c := &Client{pool: NewClientPool(as(identityA), PoolOptions{}), addr: NodeAddress{ID: nodeB}}
		if _, err := c.proposeResult(identityA, resp); !errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("%s: got %v, want ErrUncertain", name, err)
		}
	}
}

func TestJoin(t *testing.T) {
	joiner := Identity{Node: nodeA, Incarnation: 1, Boot: 1, Earlier: []nexusraft.Boot{3, 2}, Address: "a:1", Name: "a"}
	want := JoinResult{
		Cluster: testCluster, Zone: 1, Replica: 77,
		Membership: nexusraft.Membership{
			Shape: nexusraft.DefaultShape,
			Members: []nexusraft.Member{
				{Replica: 70, Node: nodeB, Name: "b", Address: "b:1", Role: nexusraft.RoleMember},
				{Replica: 77, Node: nodeA, Name: "a", Address: "a:1", Role: nexusraft.RoleLearner},
			},
			Removed: []nexusraft.Tombstone{{Replica: 60, Node: 0xdead}},
		},
	}
	caller := joiner
	caller.Full, caller.Minor = true, MinorVersion // as it says and shows
	greeted := make(chan Identity, 1)
	addr, _ := serve(t, identityB, &fakeNode{
		hello: func(id Identity) error { greeted <- id; return nil },
		join: func(_ context.Context, r JoinRequest) (JoinResult, error) {
			if diff := cmp.Diff(JoinRequest{Peer: caller, Role: nexusraft.RoleMember}, r,
				cmp.AllowUnexported(mtls.TokenProof{})); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			return want, nil
		},
	})
	answered := make(chan Identity, 1)
	p := peersOf(t, joiner, PeersOptions{Accept: func(id Identity) error { answered <- id; return nil }})
	got, err := p.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if err != nil {
		t.Fatalf("Join: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(caller, await(t, "the joiner's handshake", greeted)); diff != "" {
		t.Errorf("Hello (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(identityB, await(t, "the answering node's handshake", answered)); diff != "" {
		t.Errorf("Accept (-want +got):\n%s", diff)
	}
}

func TestJoinRefusals(t *testing.T) {
	hint := &nexusraft.NotLeaderError{Zone: 1, Leader: 0xd, Address: "d:1"}
	f := &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, hint }}
	addr, _ := serve(t, identityB, f)
	witness, _ := serveAt(t, "127.0.0.1:0", NewServer(as(identityB), Handlers{Peer: f}))
	joiner := Identity{Node: nodeA, Incarnation: 1, Boot: 1, Address: "a:1"}
	stranger := joiner
	stranger.Cluster = 0xc2
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, tt := range []struct {
		name string
		id   Identity
		addr string
		role nexusraft.Role
		want error
		text string
	}{
		{"not the leader", joiner, addr, nexusraft.RoleMember, nexusraft.ErrNotLeader, "d:1"},
		{"other cluster", stranger, addr, nexusraft.RoleMember, nexusraft.ErrRefused, "cluster mismatch"},
		{"itself", identityB, addr, nexusraft.RoleMember, nexusraft.ErrRefused, "speaks to itself"},
		{"as a learner", joiner, addr, nexusraft.RoleLearner, nexusraft.ErrRefused, "learner"},
		{"as what it is not", joiner, addr, nexusraft.RoleWitness, nexusraft.ErrRefused, "witness=false"},
		{"by a witness", joiner, witness, nexusraft.RoleMember, nexusraft.ErrRefused, "witness"},
		{"nobody listens", joiner, closed.Addr().String(), nexusraft.RoleMember, ErrUnreachable, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := peersOf(t, tt.id, PeersOptions{}).Join(t.Context(), tt.addr, JoinRequest{Role: tt.role})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestJoinRefusesBadAdmissions(t *testing.T) {
	good := func() *pb.Admission { return &pb.Admission{ClusterId: 1, Zone: 1, Replica: 7} }
	if _, err := joinResult("b:1", good()); err != nil {
		t.Errorf("good admission: %v", err)
	}
	for name, spoil := range map[string]func(*pb.Admission){
		"no cluster": func(a *pb.Admission) { a.ClusterId = 0 },
		"no zone":    func(a *pb.Admission) { a.Zone = 0 },
		"no replica": func(a *pb.Admission) { a.Replica = 0 },
		"bad member": func(a *pb.Admission) { a.Membership = &pb.Membership{Members: []*pb.Member{{}}} },
	} {
		a := good()
		spoil(a)
		if _, err := joinResult("b:1", a); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
}

func TestStatusAndChecksum(t *testing.T) {
	st := nexusraft.NodeStatus{Cluster: testCluster, Node: nodeB, Name: "b", Healthy: true}
	sum := nexusraft.Checksum{Applied: 9, Revision: 4, Sum: []byte{1, 2}, Pairs: 3, Bytes: 30}
	f := &fakeNode{
		status: func(context.Context) (nexusraft.NodeStatus, error) { return st, nil },
		checksum: func(_ context.Context, zone nexusraft.ZoneID) (nexusraft.Checksum, error) {
			if zone != 1 {
				return nexusraft.Checksum{}, nexusraft.ErrZoneNotFound
			}
			return sum, nil
		},
	}
	addr, _ := serve(t, identityB, f)
	conn := dialTest(t, addr)
	gotStatus, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{Zone: 7})
	if err != nil || f.statusOf.Load() != 7 {
		t.Fatalf("Status: %v, asked for zone %x, want 7", err, f.statusOf.Load())
	}
	if diff := cmp.Diff(st, wire.NodeStatusFromProto(gotStatus.GetStatus())); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	zones := pb.NewZonesClient(conn)
	got, err := zones.Checksum(t.Context(), &pb.ChecksumRequest{Zone: 1})
	if err != nil || got.GetHello().GetNodeId() != uint64(nodeB) {
		t.Fatalf("Checksum: got an answer of node %x and %v", got.GetHello().GetNodeId(), err)
	}
	if diff := cmp.Diff(sum, wire.ChecksumFromProto(got.GetChecksum())); diff != "" {
		t.Errorf("checksum (-want +got):\n%s", diff)
	}
	got, err = zones.Checksum(t.Context(), &pb.ChecksumRequest{Zone: 2})
	if err := errors.Join(err, wire.ErrorFromProto(got.GetError())); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("Checksum of zone 2: got %v, want ErrZoneNotFound", err)
	}
}

func TestHandlerErrorsHaveCodes(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{
		status: func(context.Context) (nexusraft.NodeStatus, error) {
			return nexusraft.NodeStatus{}, nexusraft.ErrClosed
		},
		vote: func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) {
			return nil, context.DeadlineExceeded
		},
	})
	conn := dialTest(t, addr)
	if _, err := pb.NewClusterClient(conn).Status(t.Context(),
		&pb.StatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("Status: got %v, want Unavailable", err)
	}
	client := pb.NewRaftTransportClient(conn)
	_, err := client.RequestVote(t.Context(), &pb.RequestVoteRequest{Hello: hello(identityA, nodeB)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("RequestVote: got %v, want DeadlineExceeded", err)
	}
	_, err = client.RequestVote(t.Context(), &pb.RequestVoteRequest{
		Hello: hello(identityA, nodeB),
		Votes: make([]*pb.Vote, MaxVotes+1),
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("RequestVote with too many: got %v, want InvalidArgument", err)
	}
}

func TestWitnessHoldsNoData(t *testing.T) {
	f := &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) {
		return nexusraft.NodeStatus{Witness: true}, nil
	}}
	addr, _ := serveAt(t, "127.0.0.1:0", NewServer(as(identityB), Handlers{Peer: f}))
	conn := dialTest(t, addr)
	if _, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Errorf("Status: %v", err)
	}
	_, err := pb.NewZonesClient(conn).Checksum(t.Context(), &pb.ChecksumRequest{Zone: 1})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Checksum: got %v, want Unimplemented", err)
	}
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
	p.SetAddress(nodeB, addr)
	if _, err := p.Propose(t.Context(), nodeB, Proposal{Zone: 1}); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("Propose: got %v, want ErrNotLeader", err)
	}
	if err := SendSnapshot(t.Context(), p, nodeB, pieces()); status.Code(errors.Unwrap(err)) != codes.Unimplemented {
		t.Errorf("SendSnapshot: got %v, want Unimplemented", err)
	}
}
