package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// keysServer serves the key-value store without a cluster.
type keysServer struct {
	etcdserverpb.UnimplementedKVServer
	pb.UnimplementedKeysServer
	address string

	mu   sync.Mutex // guards what follows
	zone *machinetest.Replicas
}

func serveKeys(t *testing.T) *keysServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &keysServer{address: l.Addr().String(), zone: machinetest.New(t, kv.StateMachine{})}
	s.zone.SetVersion(kv.VersionHistory)
	server := grpc.NewServer()
	etcdserverpb.RegisterKVServer(server, s)
	pb.RegisterKeysServer(server, s)
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

// answered is how a member answers an error.
func answered(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kv.ErrCompacted):
		return rpctypes.ErrGRPCCompacted
	case errors.Is(err, kv.ErrFutureRevision):
		return rpctypes.ErrGRPCFutureRev
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// apply runs a command, and says that it is on two data copies.
func apply[R any](
	ctx context.Context, s *keysServer, command []byte, refused error, decode func([]byte) (R, error),
) (none R, err error) {
	if refused != nil {
		return none, answered(refused)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	result, err := s.zone.Apply(nexusraft.Command{Data: command})
	if err != nil {
		return none, answered(err)
	}
	resp, err := decode(result)
	if err != nil {
		return none, answered(err)
	}
	return resp, grpc.SetHeader(ctx, metadata.Pairs("nexus-copies", "2"))
}

func (s *keysServer) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	command, err := kv.EncodePut(req)
	return apply(ctx, s, command, err, kv.DecodePutResult)
}

func (s *keysServer) DeleteRange(
	ctx context.Context, req *etcdserverpb.DeleteRangeRequest,
) (*etcdserverpb.DeleteRangeResponse, error) {
	command, err := kv.EncodeDeleteRange(req)
	return apply(ctx, s, command, err, kv.DecodeDeleteRangeResult)
}

func (s *keysServer) Txn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	command, err := kv.EncodeTxn(req, kv.MaxTxnOps)
	return apply(ctx, s, command, err, kv.DecodeTxnResult)
}

func (s *keysServer) Compact(
	ctx context.Context, req *etcdserverpb.CompactionRequest,
) (*etcdserverpb.CompactionResponse, error) {
	command, err := kv.EncodeCompact(req)
	return apply(ctx, s, command, err, kv.DecodeCompactResult)
}

func (s *keysServer) Range(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp, err := kv.Range(s.zone.Reader(), req)
	return resp, answered(err)
}

func (s *keysServer) History(req *pb.HistoryRequest, stream grpc.ServerStreamingServer[pb.HistoryResponse]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := kv.StandingOf(s.zone.Reader())
	if err != nil {
		return answered(err)
	}
	resp := &pb.HistoryResponse{Revision: now.Newest, Compacted: now.Compacted}
	err = kv.History(s.zone.Reader(), req.Key, 0, func(v kv.Version) error {
		resp.Versions = append(resp.Versions, &pb.KeyVersion{
			Revision: v.Revision, CreateRevision: v.Create, Version: v.Version, Bytes: uint64(v.Bytes),
		})
		return nil
	})
	if err != nil {
		return answered(err)
	}
	return stream.Send(resp)
}
