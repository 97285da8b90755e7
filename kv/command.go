package kv

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Limits of a request, in bytes.
const (
	MaxKeyBytes     = 4 << 10    // of a key that is put; a key has at least one byte
	MaxRequestBytes = 1536 << 10 // of a marshalled request
	MaxRangeBytes   = 1 << 30    // of a Range's answer, without its header
	PageBytes       = 1 << 20    // of a Page's answer, without its header, if it has more than one pair
	MaxPrevKVBytes  = 1664 << 10 // of the previous pairs in a DeleteRange's answer; any single pair fits
	MaxTxnBytes     = 4 << 20    // of the answer of a Txn that writes
)

// Limits of what applying one command costs, in keys, while all zones of all members wait (invariant I15): see
// CheckDeleteCost and CheckTxnCost. Changing them, or one of those of requests but MaxRangeBytes and PageBytes, changes
// history.
const (
	MaxDeleteKeys = 250_000   // that one command deletes
	MaxTxnKeys    = 1_000_000 // that the compares, ranges and deletes of a Txn look at; 256 bytes of values count as one
)

// The first byte of a command: its kind. Commands are in logs, so a number that was ever
// used keeps its meaning.
const (
	kindPut         byte = 1
	kindDeleteRange byte = 2
	kindTxn         byte = 3
	kindCompact     byte = 4
	kindSweep       byte = 5
	kindGrant       byte = 6
	kindRevoke      byte = 7
	kindCheckpoint  byte = 8
)

// sweepRequest is how many changes a Sweep looks at.
type sweepRequest int

// EncodePut returns the command that runs req, or the refusal that can be told without
// looking at the state; Apply refuses the same. It keeps nothing of req.
func EncodePut(req *etcdserverpb.PutRequest) ([]byte, error) {
	if err := checkPut(req); err != nil {
		return nil, err
	}
	return encodeCommand(kindPut, req)
}

// EncodeDeleteRange returns the command that runs req, or the refusal that can be told
// without looking at the state; Apply refuses the same. It keeps nothing of req.
func EncodeDeleteRange(req *etcdserverpb.DeleteRangeRequest) ([]byte, error) {
	if err := checkDeleteRange(req); err != nil {
		return nil, err
	}
	return encodeCommand(kindDeleteRange, req)
}

// EncodeTxn returns the command that runs req, or the refusal of CheckTxn; Apply refuses the same, but for the number
// of operations. It keeps nothing of req. A transaction that ReadsOnly needs no command.
func EncodeTxn(req *etcdserverpb.TxnRequest, maxOps int) ([]byte, error) {
	if err := CheckTxn(req, maxOps); err != nil {
		return nil, err
	}
	return encodeCommand(kindTxn, req)
}

// EncodeCompact returns the command that runs req. Its field physical is the caller's business: StandingOf tells
// whether what was compacted is gone.
func EncodeCompact(req *etcdserverpb.CompactionRequest) ([]byte, error) {
	return encodeCommand(kindCompact, req)
}

// EncodeSweep returns the command that removes what n compacted changes stand for, from 1 up to MaxSweep, and, in a
// zone that has kept the newest pairs only, makes the layout of n pairs the one with versions.
func EncodeSweep(n int) []byte {
	return binary.AppendUvarint([]byte{kindSweep}, uint64(min(max(n, 1), MaxSweep)))
}

func encodeCommand(kind byte, req proto.Message) ([]byte, error) {
	b := make([]byte, 1, 1+proto.Size(req))
	b[0] = kind
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, req)
	if err != nil {
		return nil, fmt.Errorf("kv: encode command: %w", err)
	}
	return b, nil
}

// decodeCommand returns the request of a command, or ErrBadCommand, which those of leases are in a zone whose version
// does not know them.
func decodeCommand(b []byte, version uint32) (any, error) {
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrBadCommand)
	case version >= VersionLeases && b[0] >= kindGrant && b[0] <= kindCheckpoint:
		return decodeLeaseCommand(b)
	}
	var req proto.Message
	switch b[0] {
	case kindPut:
		req = new(etcdserverpb.PutRequest)
	case kindDeleteRange:
		req = new(etcdserverpb.DeleteRangeRequest)
	case kindTxn:
		req = new(etcdserverpb.TxnRequest)
	case kindCompact:
		req = new(etcdserverpb.CompactionRequest)
	case kindSweep:
		n, rest, ok := uvarint(b[1:])
		if !ok || len(rest) > 0 || n < 1 || n > MaxSweep {
			return nil, fmt.Errorf("%w: kind %d does not decode", ErrBadCommand, b[0])
		}
		return sweepRequest(n), nil
	default:
		return nil, fmt.Errorf("%w: unknown kind %d", ErrBadCommand, b[0])
	}
	if err := proto.Unmarshal(b[1:], req); err != nil {
		return nil, fmt.Errorf("%w: kind %d does not decode", ErrBadCommand, b[0])
	}
	return req, nil
}

func decodeLeaseCommand(b []byte) (req any, err error) {
	var ok bool
	switch b[0] {
	case kindGrant:
		req, ok = decodeGrant(b[1:])
	case kindRevoke:
		req, ok = decodeRevoke(b[1:])
	case kindCheckpoint:
		req, ok = decodeCheckpoint(b[1:])
	}
	if !ok {
		return nil, fmt.Errorf("%w: kind %d does not decode", ErrBadCommand, b[0])
	}
	return req, nil
}

func checkPut(req *etcdserverpb.PutRequest) error {
	switch {
	case len(req.Key) == 0:
		return ErrEmptyKey
	case req.IgnoreValue && len(req.Value) != 0:
		return ErrValueProvided
	case req.IgnoreLease && req.Lease != 0:
		return ErrLeaseProvided
	case len(req.Key) > MaxKeyBytes || proto.Size(req) > MaxRequestBytes:
		return ErrRequestTooLarge
	}
	return nil
}

func checkDeleteRange(req *etcdserverpb.DeleteRangeRequest) error {
	switch {
	case len(req.Key) == 0:
		return ErrEmptyKey
	case proto.Size(req) > MaxRequestBytes:
		return ErrRequestTooLarge
	}
	return nil
}
