package concurrency

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const (
	leaseSeconds = 60               // of a lease that is made for a caller without one
	stepTime     = 10 * time.Second // for what goes on if the caller gives up: its key, put or deleted

	retryAfter = 100 * time.Millisecond // a command that was not run, or nobody knows
)

// place is a caller's in the queue for a name: a key under the name, with the caller's lease. Callers with the same
// lease share the key. Each of them writes it as it comes, and who gives up deletes it only if nobody has written it
// since: the next call of one client, at another member perhaps, keeps its place. Who finds the key there, and first,
// has what it wants: an earlier call may have returned with it, and it is not deleted.
type place struct {
	s     *Concurrency
	zone  nexusraft.ZoneID
	name  []byte
	key   []byte
	lease int64
	made  bool // the lease, for this call

	created, written int64                        // revisions of the key, as of our last write; 0: not known
	joined           bool                         // the key was there before our last write
	header           *etcdserverpb.ResponseHeader // of a state in which the place was the first
}

// acquire returns once the caller's place is the first one. If it fails the place is given up.
func (s *Concurrency) acquire(
	ctx context.Context, zone nexusraft.ZoneID, name, value []byte, lease int64,
) (*place, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	p := &place{s: s, zone: zone, name: name, lease: lease}
	err = p.join(ctx, value)
	if err == nil && p.header == nil {
		err = p.await(ctx)
	}
	if err != nil {
		p.leave(ctx)
		return nil, err
	}
	return p, nil
}

// join puts the key. It goes on if the caller gives up, so that the key is known and can be deleted.
func (p *place) join(ctx context.Context, value []byte) error {
	if err := context.Cause(ctx); err != nil {
		return p.s.o.Status(fmt.Errorf("%w: nothing was written: %w", nexusraft.ErrOverloaded, err))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
	defer cancel()
	if p.lease == 0 {
		granted, err := p.s.o.Leases.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: leaseSeconds})
		if err != nil {
			return err
		}
		p.lease, p.made = granted.ID, true
	}
	p.key, _ = under(p.name)
	p.key = strconv.AppendInt(p.key, p.lease, 16)
	resp, err := p.put(ctx, value)
	if err != nil {
		return err
	}
	own := resp.GetResponses()[1].GetResponseRange().GetKvs()[0]
	p.created, p.written, p.joined = own.CreateRevision, own.ModRevision, !resp.GetSucceeded()
	if p.joined && resp.GetResponses()[2].GetResponseRange().GetKvs()[0].CreateRevision == p.created {
		p.header = resp.GetHeader()
	}
	return nil
}

// put writes the key, reads its revisions, and, if the key was there before, the oldest one of the name.
func (p *place) put(ctx context.Context, value []byte) (resp *etcdserverpb.TxnResponse, err error) {
	write := []*etcdserverpb.RequestOp{
		opPut(&etcdserverpb.PutRequest{Key: p.key, Value: value, Lease: p.lease}),
		opRange(&etcdserverpb.RangeRequest{Key: p.key, KeysOnly: true}),
	}
	req := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{createdAt(p.key, 0)},
		Success: write,
		Failure: append(slices.Clone(write), opRange(oldest(p.name))),
	}
	var unknown error // of an earlier attempt: the key may be there, and a later one's error does not say so
	err = repeat(ctx, func(c codes.Code) bool { return c == codes.Unknown || unknown != nil && passes(c) }, func() error {
		resp, err = p.s.o.Keys.Txn(ctx, req)
		if status.Code(err) == codes.Unknown {
			unknown = err
		}
		return err
	})
	if err != nil && unknown != nil && status.Code(err) != codes.NotFound { // without its lease the key has gone
		err = unknown
	}
	return resp, err
}

// ahead is what one state says of a place.
type ahead struct {
	header  *etcdserverpb.ResponseHeader
	before  []byte // the key that is just before it; nil: it is the first
	written int64  // when its key was last written
}

// look reads how the place stands. It is linearizable.
func (p *place) look(ctx context.Context) (ahead, error) {
	start, end := under(p.name)
	resp, err := p.s.o.Keys.Txn(ctx, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{
		opRange(&etcdserverpb.RangeRequest{Key: p.key, KeysOnly: true}),
		opRange(&etcdserverpb.RangeRequest{
			Key: start, RangeEnd: end, Limit: 1, KeysOnly: true, MaxCreateRevision: p.created - 1,
			SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_DESCEND,
		}),
	}})
	if err != nil {
		return ahead{}, err
	}
	own := resp.GetResponses()[0].GetResponseRange().GetKvs()
	if len(own) == 0 || own[0].CreateRevision != p.created {
		return ahead{}, errExpired
	}
	a := ahead{header: resp.GetHeader(), written: own[0].ModRevision}
	if before := resp.GetResponses()[1].GetResponseRange().GetKvs(); len(before) > 0 {
		a.before = before[0].Key
	}
	return a, nil
}

// await returns once the place is the first.
func (p *place) await(ctx context.Context) error {
	a, err := p.look(ctx)
	for err == nil && a.before != nil {
		a, err = p.awaitChange(ctx, a)
	}
	if err != nil {
		return err
	}
	if a.written != p.written { // another call shares the key, and may delete it when it gives up
		return p.touch(ctx)
	}
	p.header = a.header
	return nil
}

// awaitChange waits until the key before the place has gone, or its own, and looks again.
func (p *place) awaitChange(ctx context.Context, seen ahead) (ahead, error) {
	w := p.s.bells.listen(p.zone, seen.header.Revision, p.key, seen.before)
	defer w.close()
	again, err := p.look(ctx) // what has changed before we listened is not told
	if err != nil || string(again.before) != string(seen.before) {
		return again, err
	}
	select {
	case err := <-w.rung:
		if err != nil {
			return ahead{}, p.s.o.Status(err)
		}
	case <-ctx.Done():
		return ahead{}, p.s.o.Status(context.Cause(ctx))
	}
	return p.look(ctx)
}

// touch writes the key once more, so that nobody deletes it who has shared it while it waited.
func (p *place) touch(ctx context.Context) error {
	resp, err := p.s.o.Keys.Txn(ctx, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{createdAt(p.key, p.created)},
		Success: []*etcdserverpb.RequestOp{
			opPut(&etcdserverpb.PutRequest{Key: p.key, IgnoreValue: true, IgnoreLease: true}),
		},
	})
	switch {
	case err != nil:
		return err
	case !resp.Succeeded:
		return errExpired
	}
	p.header = resp.Header
	return nil
}

// leave gives the place up, also for a caller that has gone, and while a leader is missing. What still fails ends with
// the lease, as does a key of which nobody knows whether it was written.
func (p *place) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
	defer cancel()
	_ = repeat(ctx, passes, func() (err error) {
		switch {
		case p.made:
			_, err = p.s.o.Leases.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: p.lease})
		case p.written != 0:
			_, err = p.s.o.Keys.Txn(ctx, p.deletion())
		}
		return err
	})
}

// deletion deletes the key unless somebody else has written it since. One that was there before our call is an
// earlier call's, too, which may hold the lock by now: it is deleted only while another one is before it.
func (p *place) deletion() *etcdserverpb.TxnRequest {
	unwritten := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{writtenAt(p.key, p.written)},
		Success: []*etcdserverpb.RequestOp{opDelete(p.key)},
	}
	if !p.joined {
		return unwritten
	}
	return &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{noneBefore(p.name, p.created)},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: unwritten}}},
	}
}

// passes reports whether a command that failed so may not fail a little later.
func passes(c codes.Code) bool {
	return c == codes.Unknown || c == codes.Unavailable || c == codes.ResourceExhausted
}

// repeat calls f, which may run twice, until it returns an error that is not to be tried again, or none, or ctx ends,
// or the node is closed.
func repeat(ctx context.Context, again func(codes.Code) bool, f func() error) error {
	for {
		err := f()
		if !again(status.Code(err)) || rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCStopped) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryAfter):
		}
	}
}
