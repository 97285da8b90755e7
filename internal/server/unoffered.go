package server

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nexi-lab/nexus-raft/kv"
)

// headerBytes is more than the header of a Range's answer takes.
const headerBytes = 1 << 10

// Options returns what a grpc.Server needs that this package's services are on. They go
// last, after the options of other services: they allow the largest answer of a Range, and
// answer what is registered nowhere, the rest of etcd's API for example.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxSendMsgSize(kv.MaxRangeBytes + headerBytes),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			return notOffered(method)
		}),
	}
}

// Txn implements etcdserverpb.KVServer.
func (s *KV) Txn(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	return nil, notOffered(etcdserverpb.KV_Txn_FullMethodName)
}

// Compact implements etcdserverpb.KVServer.
func (s *KV) Compact(context.Context, *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	return nil, notOffered(etcdserverpb.KV_Compact_FullMethodName)
}

// RangeStream implements etcdserverpb.KVServer.
func (s *KV) RangeStream(*etcdserverpb.RangeRequest, grpc.ServerStreamingServer[etcdserverpb.RangeStreamResponse]) error {
	return notOffered(etcdserverpb.KV_RangeStream_FullMethodName)
}

// notOffered answers a method that this version does not have.
func notOffered(method string) error {
	return status.Errorf(codes.Unimplemented, "nexusraft: %s is not offered yet; of etcd's API, Range, Put and DeleteRange are", method)
}
