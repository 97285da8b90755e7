package concurrency

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3lockpb"
)

// Lock implements v3lockpb.LockServer. It waits as long as its context. If it fails the caller has no key, unless
// that could not be deleted, or the code is Unknown; then it goes with its lease. A call with the lease of one that has
// the lock has it at once; of those that wait with one lease, the newest ends the others' wait if it gives up. The name
// of another lock may begin with this one and a slash: then this one waits for the other's keys, too, as in etcd.
func (s *Concurrency) Lock(ctx context.Context, req *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	ctx, zone, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.acquire(ctx, zone, req.GetName(), nil, req.GetLease())
	if err != nil {
		return nil, err
	}
	return &v3lockpb.LockResponse{Header: p.header, Key: p.key}, nil
}

// Unlock implements v3lockpb.LockServer.
func (s *Concurrency) Unlock(ctx context.Context, req *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	ctx, _, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.o.Keys.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: req.GetKey()})
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: resp.Header}, nil
}
