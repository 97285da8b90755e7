package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/feed"
)

// Watches is etcd's Watch service on the zones of one node: from the states of its own replicas, as far as those are.
type Watches struct {
	etcdserverpb.UnimplementedWatchServer

	keys    *KV
	feeds   *feed.Feeds
	streams *budget.Limit // of streams
	bytes   *budget.Limit // of their watches
}

// NewWatches returns the service beside the one of keys; feeds are of the same zones.
func NewWatches(keys *KV, feeds *feed.Feeds) *Watches {
	return &Watches{
		keys: keys, feeds: feeds,
		streams: budget.NewLimit(budget.WatchStreamsOfPrincipal, budget.MaxWatchStreams),
		bytes:   budget.NewLimit(budget.WatchBytesOfPrincipal, budget.WatchBytes),
	}
}

// Register adds the service to a gRPC server.
func (s *Watches) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&etcdserverpb.Watch_ServiceDesc, s)
}

// Watch implements etcdserverpb.WatchServer. The stream is about the zone that its metadata names, and goes on until
// its client or the zone ends, also after the client has closed its side.
func (s *Watches) Watch(
	stream grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse],
) error {
	ctx := stream.Context()
	principal := budget.PrincipalOf(ctx)
	if !s.streams.Enter(principal, 1) {
		return toStatus(fmt.Errorf("%w: %d streams of watches at a time, and %d of one caller: have many watches on a stream",
			nexusraft.ErrOverloaded, budget.MaxWatchStreams, budget.WatchStreamsOfPrincipal))
	}
	defer s.streams.Leave(principal, 1)
	id, err := zoneOf(ctx)
	if err != nil {
		return toStatus(err)
	}
	z, err := s.keys.zones.Zone(id)
	if err != nil {
		return toStatus(err)
	}
	changes, err := s.feeds.Open(id)
	if err != nil {
		return toStatus(err)
	}
	defer changes.Close()
	x := newWatchStream(s, stream, z, changes, principal)
	defer x.end()
	return x.run(s.requests(ctx, stream))
}

// maxWatchRequest is how large a request may be: while it waits it counts for nobody.
const maxWatchRequest = 16 << 10

// requests starts the goroutine that receives a stream's requests: one is in its hands at most. After the last one,
// because the client sends no more, nothing comes; an error comes once. One of over 16 KiB is an error.
func (s *Watches) requests(
	ctx context.Context, stream grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse],
) <-chan received {
	requests := make(chan received)
	go func() {
		for {
			req, err := stream.Recv()
			if err == nil && proto.Size(req) > maxWatchRequest {
				req, err = nil, rpctypes.ErrGRPCRequestTooLarge
			}
			select {
			case requests <- received{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return requests
}

// received is a request, or why there are no more.
type received struct {
	req *etcdserverpb.WatchRequest
	err error
}
