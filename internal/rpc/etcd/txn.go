package etcd

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Txn implements etcdserverpb.KVServer. One that has nothing but ranges is a read, and is answered as a Range is.
func (s *KV) Txn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := s.checkSize(req); err != nil {
		return nil, toStatus(err)
	}
	if kv.ReadsOnly(req) {
		ctx, cancel := rpc.Bounded(ctx)
		defer cancel()
		resp, err := s.readTxn(ctx, req)
		if err != nil {
			return nil, toStatus(err)
		}
		return resp, nil
	}
	return s.writeTxn(ctx, req)
}

// writeTxn has the transaction applied without the values that it can read afterwards, and reads those.
func (s *KV) writeTxn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	applied := withoutValues(ctx, req)
	resp, index, err := s.applyTxn(ctx, applied)
	if err != nil || !readsAfter(applied, req, resp) {
		return resp, err
	}
	switch err := s.fillValues(ctx, req, resp, index); {
	case errors.Is(err, kv.ErrCompacted): // since then; nothing was written, so it is run anew, as a whole
		resp, _, err := s.applyTxn(ctx, req)
		return resp, err
	case err != nil:
		return nil, toStatus(err)
	}
	return resp, nil
}

// applyTxn proposes a transaction, once there is room for what it takes. Its errors are statuses.
func (s *KV) applyTxn(
	ctx context.Context, req *etcdserverpb.TxnRequest,
) (*etcdserverpb.TxnResponse, nexusraft.Index, error) {
	command, err := kv.EncodeTxn(req, s.config.MaxTxnOps)
	if err != nil {
		return nil, 0, toStatus(err)
	}
	if err := s.checkCost(ctx, func(r nexusraft.Reader) error { return kv.CheckTxnCost(r, req) }); err != nil {
		return nil, 0, toStatus(err)
	}
	held, done, err := takesOf(req).reservation().take(ctx)
	if err != nil {
		return nil, 0, toStatus(err)
	}
	defer done()
	return writeAt(held, s, command, withHistory(kv.DecodeTxnResult))
}

func (s *KV) readTxn(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := kv.CheckTxn(req, s.config.MaxTxnOps); err != nil {
		return nil, err
	}
	z, err := s.zone(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := answer(ctx, s, z, readOf(z, kv.Serializable(req)), question[*etcdserverpb.TxnResponse]{
		past:   slices.ContainsFunc(slices.Concat(req.Success, req.Failure), ofThePast),
		within: func(r nexusraft.Reader, bytes int) (*etcdserverpb.TxnResponse, error) { return kv.Txn(r, req, bytes) },
		measure: func(r nexusraft.Reader) (int, error) {
			success, err := measureRanges(r, req.Success)
			if err != nil {
				return 0, err
			}
			failure, err := measureRanges(r, req.Failure)
			return max(success, failure), err
		},
	})
	if err != nil {
		return nil, err
	}
	s.complete(resp.Header, z)
	return resp, nil
}

// ofThePast reports whether an operation reads a range at a revision.
func ofThePast(op *etcdserverpb.RequestOp) bool { return isPast(op.GetRequestRange()) }

// measureRanges returns how many bytes the answers of a branch have.
func measureRanges(r nexusraft.Reader, ops []*etcdserverpb.RequestOp) (bytes int, err error) {
	const overhead = 64 // of an answer without pairs
	for _, op := range ops {
		n, err := kv.Measure(r, op.GetRequestRange())
		if err != nil && !errors.Is(err, kv.ErrCompacted) && !errors.Is(err, kv.ErrFutureRevision) {
			return 0, err // those two only if the branch is taken
		}
		bytes += n + overhead
	}
	return bytes, nil
}

// withHistory is a decoder of the result of a command that zones know which keep old revisions. The others call it
// no command.
func withHistory[R any](decode func([]byte) (R, error)) func([]byte) (R, error) {
	return func(b []byte) (R, error) {
		resp, err := decode(b)
		if errors.Is(err, kv.ErrBadCommand) {
			err = kv.ErrNoHistory
		}
		return resp, err
	}
}

// takes is what a transaction makes of what is there, in the branch that makes most: see reservation.
type takes struct {
	ranges          bool // it looks at ranges, in any branch
	answer, effects int64
}

func takesOf(req *etcdserverpb.TxnRequest) takes {
	var t takes
	for _, c := range req.GetCompare() {
		t.ranges = t.ranges || len(c.GetRangeEnd()) > 0
	}
	success, failure := takesOfBranch(req.GetSuccess()), takesOfBranch(req.GetFailure())
	t.ranges = t.ranges || success.ranges || failure.ranges
	t.answer, t.effects = max(success.answer, failure.answer), max(success.effects, failure.effects)
	return t
}

func takesOfBranch(ops []*etcdserverpb.RequestOp) (sum takes) {
	for _, op := range ops {
		t := takesOfOp(op)
		sum.ranges = sum.ranges || t.ranges
		sum.answer += t.answer
		sum.effects += t.effects
	}
	return sum
}

func takesOfOp(op *etcdserverpb.RequestOp) (t takes) {
	switch op := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		t.ranges = len(op.RequestRange.GetRangeEnd()) > 0
		switch {
		case op.RequestRange.GetCountOnly():
		case t.ranges:
			t.answer = kv.MaxTxnBytes
		case op.RequestRange.GetKeysOnly(): // the key is in the request
		default:
			t.answer = kv.MaxRequestBytes
		}
		t.effects = t.answer
	case *etcdserverpb.RequestOp_RequestPut:
		r := reservationOfPut(op.RequestPut)
		t.answer, t.effects = r.answer, r.effects
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		t.ranges = len(op.RequestDeleteRange.GetRangeEnd()) > 0
		r := reservationOfDelete(op.RequestDeleteRange)
		t.answer, t.effects = r.answer, r.effects
	case *etcdserverpb.RequestOp_RequestTxn:
		t = takesOf(op.RequestTxn)
	}
	return t
}

// reservation is what the transaction takes. What it answers has a bound; what it does besides is at most a
// principal's share, which it then has for itself.
func (t takes) reservation() reservation {
	r := reservation{answer: min(t.answer, kv.MaxTxnBytes), effects: min(t.effects, budget.EffectBytesShare)}
	if t.ranges { // looking is work, too, and so has a bound for all together
		r.effects = max(r.effects, budget.EffectBytesShare/12)
	}
	return r
}
