package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
)

// LeaseKeeper measures the time of leases: lessor.Lessor. Its methods may be called from many goroutines.
type LeaseKeeper interface {
	// EncodeGrant is lessor.Lessor.EncodeGrant.
	EncodeGrant(id, ttl int64) ([]byte, error)

	// Begin is lessor.Lessor.Begin.
	Begin(zone nexusraft.ZoneID, id int64) renewal

	// TimeToLive is lessor.Lessor.TimeToLive.
	TimeToLive(ctx context.Context, zone nexusraft.ZoneID, id int64) (lessor.Left, error)
}

// renewal is lessor.RenewCall.
type renewal interface {
	Wait(ctx context.Context) (ttl int64, err error)
}

// nodesLessor is a node's.
type nodesLessor struct{ *lessor.Lessor }

// Begin implements LeaseKeeper.
func (l nodesLessor) Begin(zone nexusraft.ZoneID, id int64) renewal { return l.Lessor.Begin(zone, id) }

// Leases is etcd's Lease service on the zones of one node.
type Leases struct {
	etcdserverpb.UnimplementedLeaseServer

	kv     *KV
	lessor LeaseKeeper // nil: the program runs none, and nothing but Leases is served
}

// NewLeases returns the service on the zones of a KV.
func NewLeases(keys *KV, l LeaseKeeper) *Leases { return &Leases{kv: keys, lessor: l} }

// Register adds the service to a gRPC server.
func (s *Leases) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&etcdserverpb.Lease_ServiceDesc, s)
}

// errNoLessor: the program that embeds the node measures no leases.
var errNoLessor = fmt.Errorf("%w: this node's program runs no lessor, which leases need", nexusraft.ErrRefused)

// LeaseGrant implements etcdserverpb.LeaseServer. The TTL may be raised, which the answer tells.
func (s *Leases) LeaseGrant(
	ctx context.Context, req *etcdserverpb.LeaseGrantRequest,
) (*etcdserverpb.LeaseGrantResponse, error) {
	if s.lessor == nil {
		return nil, toStatus(errNoLessor)
	}
	command, err := s.lessor.EncodeGrant(req.ID, req.TTL)
	if err != nil {
		return nil, toStatus(err)
	}
	return write(ctx, s.kv, command, kv.DecodeGrantResult)
}

// LeaseRevoke implements etcdserverpb.LeaseServer. A lease with very many keys takes several commands, and is of no use
// from the first one on.
func (s *Leases) LeaseRevoke(
	ctx context.Context, req *etcdserverpb.LeaseRevokeRequest,
) (resp *etcdserverpb.LeaseRevokeResponse, err error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	ctx, done, err := s.reservationOfRevoke(ctx, req.ID).take(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	for more := true; more; {
		before := resp
		resp, err = write(ctx, s.kv, kv.EncodeRevoke(req.ID, 0), func(b []byte) (*etcdserverpb.LeaseRevokeResponse, error) {
			r, err := kv.DecodeRevokeResult(b)
			if before != nil && errors.Is(err, kv.ErrLeaseNotFound) { // the lessor of the zone's leader was faster
				r, err = before, nil
			}
			if more = errors.Is(err, kv.ErrLeaseRevoking); more {
				err = nil
			}
			return r, err
		})
		if err != nil {
			return nil, err
		}
		ctx = withoutRequest(ctx)
	}
	return resp, nil
}

// reservationOfRevoke is that of a range, unless the lease has one key at most as far as this replica knows.
func (s *Leases) reservationOfRevoke(ctx context.Context, id int64) (r reservation) {
	keys := 2
	if z, err := s.kv.zone(ctx); err == nil {
		err = z.ReadLocal(ctx, func(r nexusraft.Reader) (err error) {
			keys, err = fewKeys(r, id)
			return err
		})
		if err != nil {
			keys = 2 // for all that is known
		}
	}
	if keys > 1 {
		r.effects = budget.DeleteRangeBytes
	}
	return r
}

var errEnough = errors.New("enough")

// fewKeys returns how many keys a lease has, or 2 for more.
func fewKeys(r nexusraft.Reader, id int64) (keys int, err error) {
	err = kv.LeaseKeys(r, id, func([]byte) error {
		if keys++; keys > 1 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return keys, err
}

// withoutRequest returns a context for a further command of a call: the number of a session names the first one.
func withoutRequest(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Delete(wire.SessionHeader)
	return metadata.NewIncomingContext(ctx, md)
}

// LeaseTimeToLive implements etcdserverpb.LeaseServer: the zone's leader says what is left, and this replica, once it
// is as new, which keys there are.
func (s *Leases) LeaseTimeToLive(
	ctx context.Context, req *etcdserverpb.LeaseTimeToLiveRequest,
) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	resp, err := s.timeToLive(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

func (s *Leases) timeToLive(
	ctx context.Context, req *etcdserverpb.LeaseTimeToLiveRequest,
) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	if s.lessor == nil {
		return nil, errNoLessor
	}
	id, err := zoneOf(ctx)
	if err != nil {
		return nil, err
	}
	z, err := s.kv.zones.Zone(id)
	if err != nil {
		return nil, err
	}
	left, err := s.lessor.TimeToLive(ctx, id, req.ID)
	if err != nil {
		return nil, err
	}
	resp, err := answer(ctx, s.kv, z, readOf(z, !req.Keys), question[*etcdserverpb.LeaseTimeToLiveResponse]{
		within: func(r nexusraft.Reader, bytes int) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
			return timeToLiveOf(r, req, left, bytes)
		},
		measure: func(r nexusraft.Reader) (bytes int, err error) {
			return bytes, kv.LeaseKeys(r, req.ID, func(key []byte) error {
				bytes += len(key) + keyBytes
				return nil
			})
		},
	})
	if err != nil {
		return nil, err
	}
	s.kv.complete(resp.Header, z)
	return resp, nil
}

// keyBytes is more than a key takes in an answer besides its own bytes, or an ID as a whole.
const keyBytes = 16

// timeToLiveOf makes the answer from what is left and the state, or returns kv.ErrResponseTooLarge over so many bytes.
func timeToLiveOf(
	r nexusraft.Reader, req *etcdserverpb.LeaseTimeToLiveRequest, left lessor.Left, bytes int,
) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	h, err := headerOf(r)
	if err != nil {
		return nil, err
	}
	resp := &etcdserverpb.LeaseTimeToLiveResponse{Header: h, ID: req.ID, TTL: left.Seconds, GrantedTTL: left.TTL}
	if req.Keys && left.TTL > 0 {
		_, ok, err := kv.LeaseOf(r, req.ID)
		if err != nil {
			return nil, err
		}
		if !ok { // it has ended since
			left.TTL = 0
		}
	}
	if left.TTL == 0 {
		resp.TTL, resp.GrantedTTL = -1, 0
		return resp, nil
	}
	if !req.Keys {
		return resp, nil
	}
	return resp, kv.LeaseKeys(r, req.ID, func(key []byte) error {
		if bytes -= len(key) + keyBytes; bytes < 0 {
			return kv.ErrResponseTooLarge
		}
		resp.Keys = append(resp.Keys, append([]byte(nil), key...))
		return nil
	})
}

// headerOf returns a header with the newest revision.
func headerOf(r nexusraft.Reader) (*etcdserverpb.ResponseHeader, error) {
	now, err := kv.StandingOf(r)
	return &etcdserverpb.ResponseHeader{Revision: now.Newest}, err
}

// LeaseLeases implements etcdserverpb.LeaseServer.
func (s *Leases) LeaseLeases(
	ctx context.Context, _ *etcdserverpb.LeaseLeasesRequest,
) (*etcdserverpb.LeaseLeasesResponse, error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	z, err := s.kv.zone(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp, err := answer(ctx, s.kv, z, z.Read, question[*etcdserverpb.LeaseLeasesResponse]{
		within: leasesOf,
		measure: func(r nexusraft.Reader) (int, error) {
			counts, err := kv.LeaseStanding(r)
			return int(min(counts.Count, kv.MaxRangeBytes)) * keyBytes, err
		},
	})
	if err != nil {
		return nil, toStatus(err)
	}
	s.kv.complete(resp.Header, z)
	return resp, nil
}

// leasesOf returns the leases in the order in which they were granted or their remaining time was noted, which
// is about that of expiry, as etcd has it.
func leasesOf(r nexusraft.Reader, bytes int) (*etcdserverpb.LeaseLeasesResponse, error) {
	h, err := headerOf(r)
	if err != nil {
		return nil, err
	}
	resp := &etcdserverpb.LeaseLeasesResponse{Header: h}
	return resp, kv.LeasesSince(r, 0, func(l kv.Lease) error {
		if bytes -= keyBytes; bytes < 0 {
			return kv.ErrResponseTooLarge
		}
		resp.Leases = append(resp.Leases, &etcdserverpb.LeaseStatus{ID: l.ID})
		return nil
	})
}
