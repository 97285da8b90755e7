package concurrency

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3electionpb"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Campaign implements v3electionpb.ElectionServer: Lock, with a value.
func (s *Concurrency) Campaign(
	ctx context.Context, req *v3electionpb.CampaignRequest,
) (*v3electionpb.CampaignResponse, error) {
	ctx, zone, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	p, err := s.acquire(ctx, zone, req.GetName(), req.GetValue(), req.GetLease())
	if err != nil {
		return nil, err
	}
	leader := &v3electionpb.LeaderKey{Name: req.GetName(), Key: p.key, Rev: p.created, Lease: p.lease}
	return &v3electionpb.CampaignResponse{Header: p.header, Leader: leader}, nil
}

// Proclaim implements v3electionpb.ElectionServer. The key keeps its lease.
func (s *Concurrency) Proclaim(
	ctx context.Context, req *v3electionpb.ProclaimRequest,
) (*v3electionpb.ProclaimResponse, error) {
	leader := req.GetLeader()
	if leader == nil {
		return nil, errNoKey
	}
	if leader.GetRev() <= 0 { // an absent key was created at 0
		return nil, errNotLeader
	}
	ctx, _, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.o.Keys.Txn(ctx, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{createdAt(leader.GetKey(), leader.GetRev())},
		Success: []*etcdserverpb.RequestOp{
			opPut(&etcdserverpb.PutRequest{Key: leader.GetKey(), Value: req.GetValue(), IgnoreLease: true}),
		},
	})
	switch {
	case err != nil:
		return nil, err
	case !resp.Succeeded:
		return nil, errNotLeader
	}
	return &v3electionpb.ProclaimResponse{Header: resp.Header}, nil
}

// Resign implements v3electionpb.ElectionServer. Of who does not lead any more it is no error.
func (s *Concurrency) Resign(
	ctx context.Context, req *v3electionpb.ResignRequest,
) (*v3electionpb.ResignResponse, error) {
	leader := req.GetLeader()
	if leader == nil {
		return nil, errNoKey
	}
	ctx, _, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.o.Keys.Txn(ctx, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{createdAt(leader.GetKey(), leader.GetRev())},
		Success: []*etcdserverpb.RequestOp{opDelete(leader.GetKey())},
	})
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: resp.Header}, nil
}

// Leader implements v3electionpb.ElectionServer.
func (s *Concurrency) Leader(
	ctx context.Context, req *v3electionpb.LeaderRequest,
) (*v3electionpb.LeaderResponse, error) {
	if err := s.checkName(req.GetName()); err != nil {
		return nil, err
	}
	ctx, _, err := s.inside(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.leader(ctx, req.GetName())
	switch {
	case err != nil:
		return nil, err
	case len(resp.Kvs) == 0:
		return nil, errNoLeader
	}
	return &v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
}

// leader reads the oldest key of a name, if there is one. First without a value, since a range by age reads those of
// all candidates; while the key that was found is there it stays the oldest.
func (s *Concurrency) leader(ctx context.Context, name []byte) (*etcdserverpb.RangeResponse, error) {
	first := oldest(name)
	for {
		found, err := s.o.Keys.Range(ctx, first)
		if err != nil || len(found.Kvs) == 0 {
			return found, err
		}
		key, created := found.Kvs[0].Key, found.Kvs[0].CreateRevision
		resp, err := s.o.Keys.Range(ctx, &etcdserverpb.RangeRequest{Key: key})
		if err != nil || len(resp.Kvs) > 0 && resp.Kvs[0].CreateRevision == created {
			return resp, err
		}
	}
}

// Observe implements v3electionpb.ElectionServer. Each value of a leader is sent, unless it was compacted before it
// could be; of leaders who have followed each other meanwhile, the newest one's.
func (s *Concurrency) Observe(
	req *v3electionpb.LeaderRequest, stream grpc.ServerStreamingServer[v3electionpb.LeaderResponse],
) error {
	if err := s.checkName(req.GetName()); err != nil {
		return err
	}
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	ctx, zone, err := s.inside(stream.Context())
	if err != nil {
		return err
	}
	o := observer{s: s, ctx: ctx, zone: zone, name: req.GetName(), send: stream.Send}
	for {
		if err := o.reign(); err != nil {
			return err
		}
	}
}

// observer is one Observe.
type observer struct {
	s    *Concurrency
	ctx  context.Context
	zone nexusraft.ZoneID
	name []byte
	send func(*v3electionpb.LeaderResponse) error
	sent int64 // the revision of the value that was sent last
}

// reign sends the values of one leader until that leads no more, or waits for one, and returns nil then.
func (o *observer) reign() error {
	resp, err := o.s.leader(o.ctx, o.name)
	if err != nil {
		return err
	}
	if len(resp.Kvs) == 0 {
		start, end := under(o.name)
		return o.each(resp.Header.Revision, feed.Want{Key: start, RangeEnd: end, NoDelete: true},
			func(*mvccpb.Event) (bool, error) { return true, nil })
	}
	leader := resp.Kvs[0]
	if leader.ModRevision != o.sent {
		if err := o.tell(resp.Header, leader); err != nil {
			return err
		}
	}
	return o.each(resp.Header.Revision, feed.Want{Key: leader.Key}, func(e *mvccpb.Event) (bool, error) {
		if e.Type == mvccpb.DELETE {
			return true, nil
		}
		return false, o.tell(o.s.o.Header(o.zone, e.Kv.ModRevision), e.Kv)
	})
}

func (o *observer) tell(h *etcdserverpb.ResponseHeader, pair *mvccpb.KeyValue) error {
	o.sent = pair.ModRevision
	return o.send(&v3electionpb.LeaderResponse{Header: h, Kv: pair})
}

// each calls fn for each change after a revision until it is done. If what it is to be called for was compacted it
// returns nil, too: then the leader is to be read again.
func (o *observer) each(after int64, w feed.Want, fn func(*mvccpb.Event) (done bool, err error)) error {
	for {
		batch, err := o.s.o.Changes.Next(o.ctx, o.zone, after, w)
		switch {
		case errors.Is(err, kv.ErrCompacted):
			return nil
		case err != nil:
			return o.s.o.Status(err)
		}
		after = batch.Through
		for _, e := range batch.Events {
			if done, err := fn(e); done || err != nil {
				return err
			}
		}
	}
}
