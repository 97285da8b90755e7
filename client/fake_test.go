package client

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// fakeNode is a node on a loopback socket. What it does with a request is up to the test;
// without a function it says yes.
type fakeNode struct {
	etcdserverpb.UnimplementedKVServer
	pb.UnimplementedClusterServer
	pb.UnimplementedZonesServer
	pb.UnimplementedKeysServer

	address  string
	server   *grpc.Server
	arrivals atomic.Int64 // of KV requests, changes, transfers, creations and deletions

	put      func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error)
	del      func(context.Context, *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error)
	rangeOf  func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error)
	txn      func(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error)
	compact  func(context.Context, *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error)
	history  func(*pb.HistoryRequest, grpc.ServerStreamingServer[pb.HistoryResponse]) error
	status   *pb.StatusResponse
	statusOf atomic.Uint64 // the zone that the last status was asked for
	checksum *pb.ChecksumResponse
	change   func(context.Context, *pb.ChangeMembershipRequest) (*pb.ChangeMembershipResponse, error)
	transfer func(context.Context, *pb.TransferLeaderRequest) (*pb.TransferLeaderResponse, error)
	create   func(context.Context, *pb.CreateZoneRequest) (*pb.CreateZoneResponse, error)
	remove   func(context.Context, *pb.DeleteZoneRequest) (*pb.DeleteZoneResponse, error)
	zones    func(context.Context, *pb.ListZonesRequest) (*pb.ListZonesResponse, error)
	register func(context.Context, *pb.RegisterSessionRequest) (*pb.RegisterSessionResponse, error)
}

// RegisterSession is not served by a node without a function for it, as it is not by one of an earlier release.
func (n *fakeNode) RegisterSession(
	ctx context.Context, req *pb.RegisterSessionRequest,
) (*pb.RegisterSessionResponse, error) {
	if n.register == nil {
		return n.UnimplementedZonesServer.RegisterSession(ctx, req)
	}
	return n.register(ctx, req)
}

func (n *fakeNode) CreateZone(ctx context.Context, req *pb.CreateZoneRequest) (*pb.CreateZoneResponse, error) {
	n.arrivals.Add(1)
	return n.create(ctx, req)
}

func (n *fakeNode) DeleteZone(ctx context.Context, req *pb.DeleteZoneRequest) (*pb.DeleteZoneResponse, error) {
	n.arrivals.Add(1)
	return n.remove(ctx, req)
}

func (n *fakeNode) ListZones(ctx context.Context, req *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
	return n.zones(ctx, req)
}

func (n *fakeNode) ChangeMembership(
	ctx context.Context, req *pb.ChangeMembershipRequest,
) (*pb.ChangeMembershipResponse, error) {
	n.arrivals.Add(1)
	return n.change(ctx, req)
}

func (n *fakeNode) TransferLeader(
	ctx context.Context, req *pb.TransferLeaderRequest,
) (*pb.TransferLeaderResponse, error) {
	n.arrivals.Add(1)
	return n.transfer(ctx, req)
}

func (n *fakeNode) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	n.arrivals.Add(1)
	if n.put != nil {
		return n.put(ctx, req)
	}
	err := grpc.SetHeader(ctx, metadata.Pairs("nexus-copies", "2"))
	return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 5}}, err
}

func (n *fakeNode) DeleteRange(
	ctx context.Context, req *etcdserverpb.DeleteRangeRequest,
) (*etcdserverpb.DeleteRangeResponse, error) {
	n.arrivals.Add(1)
	if n.del != nil {
		return n.del(ctx, req)
	}
	err := grpc.SetHeader(ctx, metadata.Pairs("nexus-copies", "1"))
	return &etcdserverpb.DeleteRangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 6}, Deleted: 1}, err
}

func (n *fakeNode) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	n.arrivals.Add(1)
	if n.rangeOf != nil {
		return n.rangeOf(ctx, req)
	}
	kv := &mvccpb.KeyValue{Key: req.Key, Value: []byte("value"), CreateRevision: 2, ModRevision: 4, Version: 3}
	return &etcdserverpb.RangeResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: 5}, Kvs: []*mvccpb.KeyValue{kv},
		Count: 1,
	}, nil
}

func (n *fakeNode) Txn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	n.arrivals.Add(1)
	return n.txn(ctx, req)
}

func (n *fakeNode) Compact(
	ctx context.Context, req *etcdserverpb.CompactionRequest,
) (*etcdserverpb.CompactionResponse, error) {
	n.arrivals.Add(1)
	return n.compact(ctx, req)
}

func (n *fakeNode) History(req *pb.HistoryRequest, stream grpc.ServerStreamingServer[pb.HistoryResponse]) error {
	n.arrivals.Add(1)
	return n.history(req, stream)
}

func (n *fakeNode) Status(_ context.Context, req *pb.StatusRequest) (*pb.StatusResponse, error) {
	n.statusOf.Store(req.GetZone())
	return n.status, nil
}

func (n *fakeNode) Checksum(context.Context, *pb.ChecksumRequest) (*pb.ChecksumResponse, error) {
	return n.checksum, nil
}

// start runs the node; setup is called before anything can arrive.
func start(t *testing.T, setup func(*fakeNode)) *fakeNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{address: l.Addr().String(), server: grpc.NewServer()}
	if setup != nil {
		setup(n)
	}
	etcdserverpb.RegisterKVServer(n.server, n)
	pb.RegisterClusterServer(n.server, n)
	pb.RegisterZonesServer(n.server, n)
	pb.RegisterKeysServer(n.server, n)
	serve(t, n.server, l)
	return n
}

func serve(t *testing.T, s *grpc.Server, l net.Listener) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// deadAddress returns an address where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silentAddress returns an address that takes connections and never says a word, as a
// stopped process does.
func silentAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// answer is how a node answers err, with the code and text given.
func answer(err error, code codes.Code, text string) error {
	st, detailErr := status.New(code, text).WithDetails(wire.ErrorToProto(err))
	if detailErr != nil {
		panic(detailErr)
	}
	return st.Err()
}

func connect(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// within bounds a test generously; nothing is meant to take that long.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
