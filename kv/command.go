package kv

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Limits of a request, in bytes.
const (
	MaxKeyBytes     = 4 << 10    // of a key that is put; a key has at least one byte
	MaxRequestBytes = 1536 << 10 // of a marshalled request
	MaxRangeBytes   = 32 << 20   // of a Range's answer, without its header
	PageBytes       = 1 << 20    // of a Page's answer, without its header, if it has more than one pair
	MaxPrevKVBytes  = 1664 << 10 // of the previous pairs in a DeleteRange's answer; any single pair fits
)

// MaxDeleteKeys is up to how many keys a DeleteRange may remove: applying it counts them, a
// million in about a quarter of a second, and all zones of all members wait meanwhile.
const MaxDeleteKeys = 10_000_000

// The first byte of a command: its kind. Commands are in logs, so a number that was ever
// used keeps its meaning.
const (
	kindPut         byte = 1
	kindDeleteRange byte = 2
)

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

// CheckDeleteSize returns ErrTooManyKeys if req would remove more than MaxDeleteKeys keys of the
// state that r reads, or an error of r. Ask it before the command is proposed (invariant I15).
//
// Apply doesn't ask: a command that is in a log gets through, with one answer from replicas of
// all releases.
func CheckDeleteSize(r nexusraft.Reader, req *etcdserverpb.DeleteRangeRequest) error {
	if len(req.RangeEnd) == 0 {
		return nil
	}
	from, to := bounds(req.Key, req.RangeEnd)
	if bytes.Compare(from, to) >= 0 {
		return nil
	}
	if rev, err := revision(r); err != nil || rev-firstRevision <= MaxDeleteKeys {
		return err // each key has taken a revision at least: there are no more
	}
	count := 0
	for _, err := range r.Scan(from, to) {
		if err != nil {
			return err
		}
		if count++; count > MaxDeleteKeys {
			return ErrTooManyKeys
		}
	}
	return nil
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

// decodeCommand returns a *PutRequest or *DeleteRangeRequest, or ErrBadCommand.
func decodeCommand(b []byte) (proto.Message, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrBadCommand)
	}
	var req proto.Message
	switch b[0] {
	case kindPut:
		req = new(etcdserverpb.PutRequest)
	case kindDeleteRange:
		req = new(etcdserverpb.DeleteRangeRequest)
	default:
		return nil, fmt.Errorf("%w: unknown kind %d", ErrBadCommand, b[0])
	}
	if err := proto.Unmarshal(b[1:], req); err != nil {
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
	case req.Lease != 0:
		return ErrLeaseNotFound
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
