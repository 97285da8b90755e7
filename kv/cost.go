package kv

import (
	"errors"
	"iter"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// CheckDeleteCost returns ErrTooManyKeys if req would remove more than MaxDeleteKeys keys of the
// state that r reads, or an error of r. Ask it before the command is proposed (invariant I15); Apply refuses
// the same where old revisions are kept, but has done the work by then.
func CheckDeleteCost(r nexusraft.Reader, req *etcdserverpb.DeleteRangeRequest) error {
	if len(req.RangeEnd) == 0 {
		return nil
	}
	m, err := loadMeta(r)
	if err != nil {
		return err
	}
	if m.revision-firstRevision <= MaxDeleteKeys || m.layout == layoutVersions && !m.moving && m.keys <= MaxDeleteKeys {
		return nil // there are no more
	}
	count := 0
	return view{r, m.revision, m.revision}.scan(req.Key, req.RangeEnd, false, func([]byte, record) error {
		if count++; count > MaxDeleteKeys {
			return ErrTooManyKeys
		}
		return nil
	})
}

// CheckTxnCost returns ErrTxnTooWide if the compares, ranges and deletes of req, in all branches, would look at more
// than MaxTxnKeys keys and versions of the state that r reads, or an error of r. CheckTxn is to be asked before. Ask
// it before the command is proposed (invariant I15).
//
// Apply doesn't ask: a command that is in a log gets through.
func CheckTxnCost(r nexusraft.Reader, req *etcdserverpb.TxnRequest) error {
	left := MaxTxnKeys
	m, err := loadMeta(r)
	if err != nil {
		return err
	}
	return metered{r, &left}.txn(m, req)
}

// metered is a Reader whose scans end with ErrTxnTooWide when they have yielded so much.
type metered struct {
	nexusraft.Reader

	left *int
}

// Scan implements nexusraft.Reader.
func (r metered) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.meter(r.Reader.Scan(start, end))
}

// ScanReverse implements nexusraft.Reader.
func (r metered) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.meter(r.Reader.ScanReverse(start, end))
}

func (r metered) meter(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range pairs {
			if *r.left--; err == nil && *r.left < 0 {
				p, err = nexusraft.Pair{}, ErrTxnTooWide
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func (r metered) txn(m meta, req *etcdserverpb.TxnRequest) error {
	for _, c := range req.GetCompare() {
		if err := r.walk(m, c.Key, c.RangeEnd, 0); err != nil {
			return err
		}
	}
	for _, branch := range [...][]*etcdserverpb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range branch {
			if err := r.op(m, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r metered) op(m meta, op *etcdserverpb.RequestOp) error {
	switch op := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		return r.walk(m, op.RequestRange.Key, op.RequestRange.RangeEnd, op.RequestRange.Revision)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		return r.walk(m, op.RequestDeleteRange.Key, op.RequestDeleteRange.RangeEnd, 0)
	case *etcdserverpb.RequestOp_RequestTxn:
		return r.txn(m, op.RequestTxn)
	}
	return nil
}

func (r metered) walk(m meta, key, end []byte, rev int64) error {
	if len(end) == 0 {
		return nil
	}
	v, err := m.view(r, m.revision, rev)
	if errors.Is(err, ErrCompacted) || errors.Is(err, ErrFutureRevision) {
		return nil // refused if it is reached, before it costs anything
	}
	if err != nil {
		return err
	}
	return v.scan(key, end, false, func([]byte, record) error { return nil })
}
