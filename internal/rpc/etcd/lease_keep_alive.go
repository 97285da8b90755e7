package etcd

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// maxKeepAlives is how many requests of one stream may wait for their answers; no more is read then.
const maxKeepAlives = 1024

// keepAlive is a request that has begun.
type keepAlive struct {
	resp    *etcdserverpb.LeaseKeepAliveResponse // but for the TTL
	renewal renewal
	end     error // instead: no request follows; io.EOF if the client has ended its side
}

// LeaseKeepAlive implements etcdserverpb.LeaseServer: many leases on one stream, answered in the order of the
// requests. It reads on while earlier requests wait, so that those that come together are renewed together. A lease
// that is gone is answered with a TTL of 0, and the stream goes on; any failure ends it.
func (s *Leases) LeaseKeepAlive(stream etcdserverpb.Lease_LeaseKeepAliveServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	waiting := make(chan keepAlive, maxKeepAlives)
	go s.readKeepAlives(ctx, stream, waiting)
	for k := range waiting {
		if errors.Is(k.end, io.EOF) {
			return nil
		}
		if k.end != nil {
			return k.end
		}
		ttl, err := k.renewal.Wait(ctx)
		if err != nil {
			return toStatus(err)
		}
		k.resp.TTL = ttl
		if err := stream.Send(k.resp); err != nil {
			return err
		}
	}
	return toStatus(context.Cause(ctx))
}

// readKeepAlives begins what is asked for until the stream ends.
func (s *Leases) readKeepAlives(
	ctx context.Context, stream etcdserverpb.Lease_LeaseKeepAliveServer, waiting chan<- keepAlive,
) {
	defer close(waiting)
	for {
		k := s.readKeepAlive(ctx, stream)
		select {
		case waiting <- k:
		case <-ctx.Done():
			return
		}
		if k.end != nil {
			return
		}
	}
}

// readKeepAlive begins the next request. The first one is received before anything is looked up, since that is where
// the caller's right in the zone is checked.
func (s *Leases) readKeepAlive(ctx context.Context, stream etcdserverpb.Lease_LeaseKeepAliveServer) keepAlive {
	req, err := stream.Recv()
	if err != nil {
		return keepAlive{end: err}
	}
	k, err := s.beginKeepAlive(ctx, req.ID)
	if err != nil {
		return keepAlive{end: toStatus(err)}
	}
	return k
}

func (s *Leases) beginKeepAlive(ctx context.Context, lease int64) (keepAlive, error) {
	if s.lessor == nil {
		return keepAlive{}, errNoLessor
	}
	id, err := zoneOf(ctx)
	if err != nil {
		return keepAlive{}, err
	}
	z, err := s.kv.zones.Zone(id)
	if err != nil {
		return keepAlive{}, err
	}
	resp := &etcdserverpb.LeaseKeepAliveResponse{ID: lease}
	err = z.ReadLocal(ctx, func(r nexusraft.Reader) (err error) { // before the renewal
		resp.Header, err = headerOf(r)
		return err
	})
	if err != nil {
		return keepAlive{}, err
	}
	s.kv.complete(resp.Header, z)
	return keepAlive{resp, s.lessor.Begin(id, lease), nil}, nil
}
