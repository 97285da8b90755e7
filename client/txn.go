package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Txn is a transaction: if all compares of If hold, or there are none, it runs the operations of Then, otherwise those
// of Else, in order and as one revision. Nobody sees a part of it.
//
// All compares, also those of transactions inside, look at the state before anything is written; a Get sees
// the writes before it. No key may be put twice in one branch, or put and deleted; the same holds for a
// branch and the transactions inside it. A node takes 128 compares, and 128 operations in a branch, if it is not
// configured otherwise; those of a transaction inside count with those around it.
type Txn struct {
	If         []Compare
	Then, Else []Operation
}

// An Operation is one of a transaction's: Put, Get, Delete, or a Txn inside. It borrows its slices until the call
// returns.
type Operation interface {
	request() *etcdserverpb.RequestOp
	result(*etcdserverpb.ResponseOp) (OperationResult, error)
}

// Put stores Value at Key.
type Put struct {
	Key, Value []byte
	KeepValue  bool    // write the value that is there anew, and refuse the transaction if there is none; Value is empty
	Lease      LeaseID // the key is deleted when this lease ends; 0: it hangs on none
	KeepLease  bool    // it hangs on what it does already; the transaction is refused if it is not there; Lease is 0
	Previous   bool    // return the pair that was there
}

// Get reads pairs, in ascending order of their keys.
type Get struct {
	Keys      KeySet
	Revision  nexusraft.Revision // as of then; 0: as they are when it is its turn
	Limit     int64              // at most so many pairs; 0: all
	KeysOnly  bool               // without values
	CountOnly bool               // without pairs
}

// Delete removes pairs; that there are none is no error.
type Delete struct {
	Keys     KeySet
	Previous bool // return the pairs that were there
}

// TxnResult is the outcome of a transaction. Its slices belong to the caller.
type TxnResult struct {
	Succeeded bool               // the compares held, and Then has run, otherwise Else
	Revision  nexusraft.Revision // the zone's afterwards: the one that it made, if it has changed anything
	Copies    int                // as in PutResult; 0 if it could only read, and for a transaction inside
	Results   []OperationResult  // of the branch that has run, in the order of its operations
}

// OperationResult is what one operation has come to.
type OperationResult struct {
	Pairs []KeyValue // what a Get has found, or what was there before a Put or Delete with Previous
	Count int64      // the keys that a Get would have found without a limit, or that a Delete has removed
	More  bool       // a Get has left some out, because of its limit
	Txn   *TxnResult // of a transaction inside; nil for all others
}

// Txn runs a transaction. One without a Put or Delete is a read, which is linearizable and retried as Get is.
//
// Errors are as those of Put; with Options.ExactlyOnce a transaction that may write happens once, however often it
// is sent. A refused transaction has written nothing. The refusals that can be told apart are nexusraft.ErrTooLarge,
// of a Get at a revision ErrCompacted and ErrFutureRevision, and of a Put with a lease ErrLeaseNotFound.
func (c *Client) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	if n := proto.Size(t.proto()); n > maxPutBytes {
		return TxnResult{}, fmt.Errorf("txn: client: %w: it has %d bytes, and no node takes over %d",
			nexusraft.ErrTooLarge, n, maxPutBytes)
	}
	do := c.read
	if t.writes() {
		do = c.writeKeys
	}
	return c.txn(ctx, t, do)
}

// txn runs a transaction by do.
func (c *Client) txn(
	ctx context.Context, t Txn, do func(context.Context, callFunc) error,
) (TxnResult, error) {
	req := t.proto()
	var result TxnResult
	var malformed error
	err := do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		var header metadata.MD
		resp, err := etcdserverpb.NewKVClient(conn).Txn(ctx, req, grpc.Header(&header))
		if err != nil {
			return err
		}
		if result, malformed = t.outcome(resp); malformed == nil {
			result.Copies = copies(header)
		}
		return nil
	})
	if err == nil && malformed != nil {
		result, err = TxnResult{}, fmt.Errorf("client: %w", malformed)
		if t.writes() {
			err = fmt.Errorf("%w: committed, but the answer can't be read: %w", nexusraft.ErrUncertain, malformed)
		}
	}
	if err != nil {
		return TxnResult{}, fmt.Errorf("txn: %w", err)
	}
	return result, nil
}

// writes reports whether the transaction may write.
func (t Txn) writes() bool {
	return slices.ContainsFunc(slices.Concat(t.Then, t.Else), func(o Operation) bool {
		if inside, ok := o.(Txn); ok {
			return inside.writes()
		}
		_, reads := o.(Get)
		return !reads
	})
}

func (t Txn) proto() *etcdserverpb.TxnRequest {
	req := &etcdserverpb.TxnRequest{}
	for _, c := range t.If {
		req.Compare = append(req.Compare, c.proto())
	}
	for _, o := range t.Then {
		req.Success = append(req.Success, o.request())
	}
	for _, o := range t.Else {
		req.Failure = append(req.Failure, o.request())
	}
	return req
}

// outcome is the transaction's, as an answer tells it. It copies nothing, and answers have their own slices.
func (t Txn) outcome(resp *etcdserverpb.TxnResponse) (TxnResult, error) {
	ran := t.Else
	if resp.GetSucceeded() {
		ran = t.Then
	}
	answers := resp.GetResponses()
	if len(answers) != len(ran) {
		return TxnResult{}, fmt.Errorf("%w: a transaction of %d operations has %d answers", nexusraft.ErrCorrupt, len(ran),
			len(answers))
	}
	result := TxnResult{
		Succeeded: resp.GetSucceeded(), Revision: nexusraft.Revision(resp.GetHeader().GetRevision()),
	}
	for i, o := range ran {
		r, err := o.result(answers[i])
		if err != nil {
			return TxnResult{}, fmt.Errorf("%w: operation %d of a transaction: %w", nexusraft.ErrCorrupt, i+1, err)
		}
		result.Results = append(result.Results, r)
	}
	return result, nil
}

// errOtherAnswer: the answer to an operation is that of another kind of operation.
var errOtherAnswer = errors.New("the answer is of another kind")

func (p Put) request() *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
		Key: p.Key, Value: p.Value, IgnoreValue: p.KeepValue, PrevKv: p.Previous,
		Lease: int64(p.Lease), IgnoreLease: p.KeepLease,
	}}}
}

func (p Put) result(answer *etcdserverpb.ResponseOp) (OperationResult, error) {
	resp := answer.GetResponsePut()
	if resp == nil {
		return OperationResult{}, errOtherAnswer
	}
	if resp.PrevKv == nil {
		return OperationResult{}, nil
	}
	return OperationResult{Pairs: []KeyValue{keyValue(resp.PrevKv)}}, nil
}

func (g Get) request() *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{
		Key: g.Keys.key, RangeEnd: g.Keys.end, Revision: wireRevision(g.Revision), Limit: g.Limit,
		KeysOnly: g.KeysOnly, CountOnly: g.CountOnly,
	}}}
}

func (g Get) result(answer *etcdserverpb.ResponseOp) (OperationResult, error) {
	resp := answer.GetResponseRange()
	if resp == nil {
		return OperationResult{}, errOtherAnswer
	}
	return OperationResult{Pairs: keyValues(resp.Kvs), Count: resp.Count, More: resp.More}, nil
}

func (d Delete) request() *etcdserverpb.RequestOp {
	req := &etcdserverpb.DeleteRangeRequest{Key: d.Keys.key, RangeEnd: d.Keys.end, PrevKv: d.Previous}
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}
}

func (d Delete) result(answer *etcdserverpb.ResponseOp) (OperationResult, error) {
	resp := answer.GetResponseDeleteRange()
	if resp == nil {
		return OperationResult{}, errOtherAnswer
	}
	return OperationResult{Pairs: keyValues(resp.PrevKvs), Count: resp.Deleted}, nil
}

func (t Txn) request() *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: t.proto()}}
}

func (t Txn) result(answer *etcdserverpb.ResponseOp) (OperationResult, error) {
	resp := answer.GetResponseTxn()
	if resp == nil {
		return OperationResult{}, errOtherAnswer
	}
	inside, err := t.outcome(resp)
	return OperationResult{Txn: &inside}, err
}
