package etcd

import (
	"context"
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency"
	"github.com/nexi-lab/nexus-raft/kv"
)

// newConcurrency returns Lock and Election over the keys of a node.
func newConcurrency(keys *KV, changes concurrency.ChangeReader) *concurrency.Concurrency {
	return concurrency.New(concurrency.Options{
		Keys: keys, Leases: leasesOfLocks{keys}, Changes: changes,
		Status: func(err error) error { return toStatus(rpc.OverBudget(err)) },
		Header: func(id nexusraft.ZoneID, revision int64) *etcdserverpb.ResponseHeader {
			h := keys.bareHeader()
			h.Revision = revision
			if z, err := keys.zones.Zone(id); err == nil {
				h.RaftTerm = uint64(z.Term())
			}
			return h
		},
	})
}

// leasesOfLocks makes leases that nobody renews, for callers of Lock and Campaign without one.
type leasesOfLocks struct{ keys *KV }

func (l leasesOfLocks) LeaseGrant(
	ctx context.Context, req *etcdserverpb.LeaseGrantRequest,
) (*etcdserverpb.LeaseGrantResponse, error) {
	command, err := kv.EncodeGrant(1+rand.Int64N(1<<62), req.TTL)
	if err != nil {
		return nil, toStatus(err)
	}
	return write(ctx, l.keys, command, kv.DecodeGrantResult)
}

func (l leasesOfLocks) LeaseRevoke(
	ctx context.Context, req *etcdserverpb.LeaseRevokeRequest,
) (*etcdserverpb.LeaseRevokeResponse, error) {
	return write(ctx, l.keys, kv.EncodeRevoke(req.ID, 0), kv.DecodeRevokeResult)
}
