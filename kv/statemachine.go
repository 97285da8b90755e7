package kv

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// VersionHistory is the zone's version of this state machine from which on old revisions are kept, and Txn and Compact
// are known. Before, a zone keeps the newest pair of each key only, as releases before this one do.
const VersionHistory = 1

// StateMachine applies the commands of this package. It has no state of its own: one
// value serves any number of zones at once.
type StateMachine struct{}

var (
	_ nexusraft.Versioned     = StateMachine{}
	_ nexusraft.EventExpander = StateMachine{}
)

// Version implements nexusraft.Versioned.
func (StateMachine) Version() uint32 { return VersionLeases }

// Apply runs one command. A refused command is a result, see DecodePutResult, and changes
// nothing. The errors are those of tx, nexusraft.ErrTooLarge for what has turned out to be too much for one
// command while it ran, and nexusraft.ErrCorrupt, with the key, for stored bytes that do not decode.
func (StateMachine) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	req, err := decodeCommand(cmd.Data, cmd.Version)
	if err != nil {
		return encodeResult(nil, err)
	}
	m, err := loadMeta(tx)
	if err != nil {
		return nil, err
	}
	if m.layout == layoutNewest && cmd.Version < VersionHistory {
		return encodeResult(applyNewest(tx, m, req))
	}
	if m.layout == layoutNewest {
		m = m.versioned()
	}
	w := &writer{tx: tx, meta: m, leases: cmd.Version >= VersionLeases}
	resp, err := w.apply(req)
	if err != nil && w.written > 0 {
		return nil, err // only an error drops what is written already
	}
	if err != nil {
		return encodeResult(nil, err)
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	return encodeResult(resp, nil)
}

// versioned returns the meta of a key space that goes over to layoutVersions. What it has was not counted, and has
// no history.
func (m meta) versioned() meta {
	m.layout, m.moving = layoutVersions, m.revision > firstRevision
	m.swept = position{m.compacted + 1, 0}
	return m
}

// applyNewest runs one command in a key space that keeps the newest pairs only.
func applyNewest(tx nexusraft.Tx, m meta, req any) (proto.Message, error) {
	switch req := req.(type) {
	case *etcdserverpb.PutRequest:
		return putNewest(tx, m, req)
	case *etcdserverpb.DeleteRangeRequest:
		return deleteRangeNewest(tx, m, req)
	}
	return nil, ErrBadCommand
}

func (w *writer) apply(req any) (any, error) {
	switch req := req.(type) {
	case *etcdserverpb.PutRequest:
		if err := checkPut(req); err != nil {
			return nil, err
		}
		if err := w.checkPutState(w.tx, req); err != nil {
			return nil, err
		}
		return w.put(req)
	case *etcdserverpb.DeleteRangeRequest:
		if err := checkDeleteRange(req); err != nil {
			return nil, err
		}
		return w.deleteRange(req, MaxPrevKVBytes)
	case *etcdserverpb.TxnRequest:
		if err := CheckTxn(req, MaxTxnTotalOps); err != nil { // lower limits are settings of a node
			return nil, err
		}
		return w.txn(req)
	case *etcdserverpb.CompactionRequest:
		return w.compact(req)
	case sweepRequest:
		return w.sweepOnly(int(req))
	case grantRequest:
		return w.grant(req)
	case revokeRequest:
		return w.revoke(req)
	case checkpointRequest:
		return w.checkpoint(req)
	}
	return nil, fmt.Errorf("kv: apply: no way to run a %T", req)
}

// txn runs a transaction that writes, within a budget of what it looks at.
func (w *writer) txn(req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	tx, left := w.tx, MaxTxnKeys
	w.tx, w.left = meteredTx{tx, &left}, &left
	defer func() { w.tx = tx }() // what is swept for it is not its own
	t := transaction{r: w.tx, meta: w.meta, w: w, left: MaxTxnBytes}
	return t.run(req)
}
