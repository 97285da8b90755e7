package etcd

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// A transaction in one of whose branches single keys are read and nothing else is done, as in "if the key has not
// changed put it, else get it", is applied without the values that this branch reads. If that branch is taken nothing
// was written, and what it has read is what there was at the revision of the answer: the values are read there, as a
// Range reads them. So applying it makes little, whatever the keys become until then, and it reserves nothing (I15).

// withoutValues returns the transaction as it is to be applied: req, or a copy whose branches of single keys are
// asked for the keys alone. One that a session has numbered stays as it is: it is answered again with what was its
// answer then, which may be compacted.
func withoutValues(ctx context.Context, req *etcdserverpb.TxnRequest) *etcdserverpb.TxnRequest {
	if id, err := wire.RequestOf(ctx); err != nil || !id.IsZero() {
		return req
	}
	success, failure := readsSingleKeys(req.GetSuccess()), readsSingleKeys(req.GetFailure())
	if !success && !failure {
		return req
	}
	keys := &etcdserverpb.TxnRequest{Compare: req.Compare, Success: req.Success, Failure: req.Failure}
	if success {
		keys.Success = changed(req.Success, func(r *etcdserverpb.RangeRequest) { r.KeysOnly = true })
	}
	if failure {
		keys.Failure = changed(req.Failure, func(r *etcdserverpb.RangeRequest) { r.KeysOnly = true })
	}
	if proto.Size(keys) > kv.MaxRequestBytes { // by the bytes that ask for keys only
		return req
	}
	return keys
}

// readsSingleKeys reports whether a branch gets the newest pairs of keys, one by one, and does nothing else.
func readsSingleKeys(ops []*etcdserverpb.RequestOp) bool {
	return len(ops) > 0 && !slices.ContainsFunc(ops, func(op *etcdserverpb.RequestOp) bool {
		r := op.GetRequestRange()
		return r == nil || len(r.RangeEnd) > 0 || r.Revision != 0
	})
}

// changed returns copies of ranges with a change.
func changed(ops []*etcdserverpb.RequestOp, change func(*etcdserverpb.RangeRequest)) []*etcdserverpb.RequestOp {
	copies := make([]*etcdserverpb.RequestOp, len(ops))
	for i, op := range ops {
		r := proto.CloneOf(op.GetRequestRange())
		change(r)
		copies[i] = &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
	}
	return copies
}

// branchOf returns the branch that an answer is of.
func branchOf(req *etcdserverpb.TxnRequest, resp *etcdserverpb.TxnResponse) []*etcdserverpb.RequestOp {
	if resp.GetSucceeded() {
		return req.GetSuccess()
	}
	return req.GetFailure()
}

// readsAfter reports whether values are missing in the answer to a transaction that was applied in place of req.
func readsAfter(applied, req *etcdserverpb.TxnRequest, resp *etcdserverpb.TxnResponse) bool {
	return applied != req && readsSingleKeys(branchOf(req, resp))
}

// fillValues completes the answer to a transaction that was applied without values, at an index. It returns
// kv.ErrCompacted if its revision is not kept any more.
func (s *KV) fillValues(
	ctx context.Context, req *etcdserverpb.TxnRequest, resp *etcdserverpb.TxnResponse, index nexusraft.Index,
) error {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	z, err := s.zone(ctx)
	if err != nil {
		return err
	}
	at := resp.GetHeader().GetRevision()
	gets := changed(branchOf(req, resp), func(r *etcdserverpb.RangeRequest) { r.Revision = at })
	if len(gets) != len(resp.GetResponses()) {
		return nexusraft.ErrCorrupt
	}
	read := func(ctx context.Context, fn func(nexusraft.Reader) error) error { return z.ReadAt(ctx, index, fn) }
	txn := &etcdserverpb.TxnRequest{Success: gets}
	values, err := answer(ctx, s, z, read, question[*etcdserverpb.TxnResponse]{
		within:  func(r nexusraft.Reader, bytes int) (*etcdserverpb.TxnResponse, error) { return kv.Txn(r, txn, bytes) },
		measure: func(r nexusraft.Reader) (int, error) { return measureRanges(r, gets) },
	})
	if err != nil {
		return err
	}
	for i, op := range values.GetResponses() {
		r := resp.Responses[i].GetResponseRange()
		if r == nil {
			return nexusraft.ErrCorrupt
		}
		r.Kvs = op.GetResponseRange().GetKvs()
	}
	return nil
}
