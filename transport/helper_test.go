package transport

import (
	"context"
	"errors"
	"flag"
	"iter"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests beside one another wait, mostly: for timeouts of peers, not for a processor.
	if p := flag.Lookup("test.parallel"); p.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := p.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

const (
	testCluster nexusraft.ClusterID = 0xc1
	nodeA       nexusraft.NodeID    = 0xa
	nodeB       nexusraft.NodeID    = 0xb
)

var (
	identityA = Identity{
		Cluster: testCluster, Node: nodeA, Incarnation: 5, Boot: 1, Address: "a:1", Name: "a", Minor: MinorVersion,
	}
	identityB = Identity{
		Cluster: testCluster, Node: nodeB, Incarnation: 7, Boot: 1, Address: "b:1", Name: "b", Minor: MinorVersion,
	}
)

// fakeNode is both handlers; a test replaces the functions it cares for.
type fakeNode struct {
	hello    func(Identity) error
	receive  func(nexusraft.NodeID, []Message)
	leaving  func(nexusraft.NodeID)
	vote     func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error)
	status   func(context.Context) (nexusraft.NodeStatus, error)
	statusOf atomic.Uint64 // the zone that the last status was asked for
	install  func(context.Context, nexusraft.NodeID, SnapshotHeader, iter.Seq2[[]byte, error]) error
	propose  func(context.Context, Proposal) (nexusraft.Result, error)
	join     func(context.Context, JoinRequest) (JoinResult, error)
	checksum func(context.Context, nexusraft.ZoneID) (nexusraft.Checksum, error)
	change   func(context.Context, nexusraft.ZoneID, nexusraft.MembershipChange) (nexusraft.Membership, error)
	transfer func(context.Context, nexusraft.ZoneID, nexusraft.NodeID) (nexusraft.NodeID, error)
}

// handlers are those of a full node.
func (f *fakeNode) handlers() Handlers {
	return Handlers{Peer: f, Member: f, Operators: rpc.NewZones(f, nil)}
}

var errNotFaked = errors.New("the test does not expect this call")

func (f *fakeNode) Hello(peer Identity) error {
	if f.hello == nil {
		return nil
	}
	return f.hello(peer)
}

func (f *fakeNode) Receive(from nexusraft.NodeID, msgs []Message) {
	if f.receive != nil {
		f.receive(from, msgs)
	}
}

func (f *fakeNode) Leaving(from nexusraft.NodeID) {
	if f.leaving != nil {
		f.leaving(from)
	}
}

func (f *fakeNode) RequestVote(ctx context.Context, from nexusraft.NodeID, votes []Vote) ([]VoteResult, error) {
	if f.vote == nil {
		return nil, errNotFaked
	}
	return f.vote(ctx, from, votes)
}

func (f *fakeNode) Status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	f.statusOf.Store(uint64(only))
	if f.status == nil {
		return nexusraft.NodeStatus{}, errNotFaked
	}
	return f.status(ctx)
}

func (f *fakeNode) InstallSnapshot(
	ctx context.Context, from nexusraft.NodeID, h SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	if f.install == nil {
		return errNotFaked
	}
	return f.install(ctx, from, h, chunks)
}

func (f *fakeNode) Propose(ctx context.Context, p Proposal) (nexusraft.Result, error) {
	if f.propose == nil {
		return nexusraft.Result{}, errNotFaked
	}
	return f.propose(ctx, p)
}

func (f *fakeNode) Join(ctx context.Context, r JoinRequest) (JoinResult, error) {
	if f.join == nil {
		return JoinResult{}, errNotFaked
	}
	return f.join(ctx, r)
}

func (f *fakeNode) RegisterSession(context.Context, nexusraft.ZoneID) (uint64, error) {
	return 0, nexusraft.ErrClosed
}

func (f *fakeNode) Checksum(ctx context.Context, zone nexusraft.ZoneID) (nexusraft.Checksum, error) {
	if f.checksum == nil {
		return nexusraft.Checksum{}, errNotFaked
	}
	return f.checksum(ctx, zone)
}

func (f *fakeNode) ChangeMembership(
	ctx context.Context, zone nexusraft.ZoneID, c nexusraft.MembershipChange,
) (nexusraft.Membership, error) {
	if f.change == nil {
		return nexusraft.Membership{}, errNotFaked
	}
	return f.change(ctx, zone, c)
}

func (f *fakeNode) TransferLeader(
	ctx context.Context, zone nexusraft.ZoneID, to nexusraft.NodeID,
) (nexusraft.NodeID, error) {
	if f.transfer == nil {
		return 0, errNotFaked
	}
	return f.transfer(ctx, zone, to)
}

// as returns the id function of a node that never changes.
func as(id Identity) func() Identity { return func() Identity { return id } }

// serve runs a full node's server on a free loopback port.
func serve(t *testing.T, id Identity, f *fakeNode) (addr string, stop func()) {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", NewServer(as(id), f.handlers()))
}

// serveAt runs s at addr until stop or the test's end.
func serveAt(t *testing.T, addr string, s *Server) (at string, stop func()) {
	t.Helper()
	return serveServices(t, addr, s, s.Register)
}

// serveServices runs s, which register adds with others.
func serveServices(
	t *testing.T, addr string, s *Server, register func(grpc.ServiceRegistrar),
) (at string, stop func()) {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	srv := grpc.NewServer(ServerOptions()...)
	register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	stop = sync.OnceFunc(func() {
		srv.Stop()
		<-served
		s.Close()
	})
	t.Cleanup(stop)
	return lis.Addr().String(), stop
}

// peersOf returns Peers of a node, closed at the test's end.
func peersOf(t *testing.T, id Identity, o PeersOptions) *Peers {
	t.Helper()
	p := NewPeers(as(id), o)
	t.Cleanup(p.Close)
	return p
}

// connect adds B at addr and waits until it is connected.
func connect(t *testing.T, p *Peers, addr string) {
	t.Helper()
	p.SetAddress(nodeB, addr)
	eventually(t, "B is connected", func() bool { return statsOfB(t, p).Connected })
}

func statsOfB(t *testing.T, p *Peers) PeerStats {
	t.Helper()
	rows := p.Stats()
	if len(rows) != 1 || rows[0].Peer != nodeB {
		t.Fatalf("Stats: got %+v, want one row, of node B", rows)
	}
	return rows[0]
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// await receives from c, or fails.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

// dialTest opens a plain connection, for requests that Peers would never send.
func dialTest(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, DialOptions()...)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
