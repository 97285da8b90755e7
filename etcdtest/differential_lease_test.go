package etcdtest

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// leaseIDs are few, and never 0: what a server picks then is no outcome.
var leaseIDs = []int64{1, 7, 8, math.MaxInt64}

// shortTTL is one that a server may raise, each to a minimum of its own; longTTL lasts for a sequence.
const (
	shortTTL = 10
	longTTL  = 100
)

func (g *generator) leaseID() int64 {
	if g.in(20) {
		return pick(g, []int64{12345, -1, math.MinInt64})
	}
	return pick(g, leaseIDs)
}

// leaseStep returns a request about leases. None expires within a sequence.
func (g *generator) leaseStep() (method string, req proto.Message) {
	switch n := g.IntN(20); {
	case n < 8:
		ttl := pick(g, []int64{longTTL, longTTL, longTTL, 1000, 9_000_000_000, 9_000_000_001, math.MaxInt64})
		return "LeaseGrant", &etcdserverpb.LeaseGrantRequest{ID: pick(g, leaseIDs), TTL: ttl}
	case n < 12:
		g.newest++
		return "LeaseRevoke", &etcdserverpb.LeaseRevokeRequest{ID: g.leaseID()}
	case n < 15:
		return "LeaseKeepAlive", &etcdserverpb.LeaseKeepAliveRequest{ID: g.leaseID()}
	case n < 19:
		return "LeaseTimeToLive", &etcdserverpb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: !g.in(3)}
	}
	return "LeaseLeases", &etcdserverpb.LeaseLeasesRequest{}
}

// callLease sends one request about leases.
func callLease(
	ctx context.Context, conn *grpc.ClientConn, req proto.Message,
) (answer proto.Message, known bool, err error) {
	lease := etcdserverpb.NewLeaseClient(conn)
	switch r := req.(type) {
	case *etcdserverpb.LeaseGrantRequest:
		answer, err = orNil(lease.LeaseGrant(ctx, r))
	case *etcdserverpb.LeaseRevokeRequest:
		answer, err = orNil(lease.LeaseRevoke(ctx, r))
	case *etcdserverpb.LeaseTimeToLiveRequest:
		answer, err = orNil(lease.LeaseTimeToLive(ctx, r))
	case *etcdserverpb.LeaseLeasesRequest:
		answer, err = orNil(lease.LeaseLeases(ctx, r))
	case *etcdserverpb.LeaseKeepAliveRequest:
		answer, err = keepAlive(ctx, lease, r)
	default:
		return nil, false, nil
	}
	return answer, true, err
}

// keepAlive sends one renewal on a stream of its own.
func keepAlive(
	ctx context.Context, lease etcdserverpb.LeaseClient, req *etcdserverpb.LeaseKeepAliveRequest,
) (proto.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := lease.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req); err != nil {
		return nil, err
	}
	return orNil(stream.Recv())
}

// normalLease takes out of an answer what time decides, and orders that are unspecified.
func normalLease(req, answer proto.Message) {
	switch r := answer.(type) {
	case *etcdserverpb.LeaseGrantResponse:
		if asked := req.(*etcdserverpb.LeaseGrantRequest); asked.ID == 0 {
			r.ID = 0
		} else if asked.TTL < shortTTL {
			r.TTL = 0
		}
	case *etcdserverpb.LeaseTimeToLiveResponse:
		if r.TTL > 0 && r.TTL <= r.GrantedTTL {
			r.TTL = r.GrantedTTL
		}
		slices.SortFunc(r.Keys, bytes.Compare)
	case *etcdserverpb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *etcdserverpb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	}
}

// revokeAll ends all leases that a sequence has left.
func revokeAll(ctx context.Context, conn *grpc.ClientConn) error {
	lease := etcdserverpb.NewLeaseClient(conn)
	all, err := lease.LeaseLeases(ctx, &etcdserverpb.LeaseLeasesRequest{})
	if err != nil {
		return err
	}
	for _, l := range all.Leases {
		if _, err := lease.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: l.ID}); err != nil {
			return err
		}
	}
	return nil
}
