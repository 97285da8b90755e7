package kv

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A result is one outcome byte, then, for the two here, the response: marshalled, but that of a checkpoint. Nodes of
// different versions exchange results, so a number that was ever used keeps its meaning.
const (
	outcomeOK   byte = 0
	outcomeMore byte = 17 // of a revoke: the lease has keys left
)

type refusal struct {
	outcome byte
	err     error
}

// refusals are the other outcomes, by the error that each stands for.
var refusals = []refusal{
	{1, ErrBadCommand},
	{2, ErrEmptyKey},
	{3, ErrKeyNotFound},
	{4, ErrValueProvided},
	{5, ErrLeaseProvided},
	{6, ErrLeaseNotFound},
	{7, ErrRequestTooLarge},
	{8, ErrResponseTooLarge},
	{9, ErrCompacted},
	{10, ErrFutureRevision},
	{11, ErrTooManyOps},
	{12, ErrDuplicateKey},
	{13, ErrInvalidSort},
	{14, ErrLeaseExists},
	{15, ErrLeaseRenewed},
	{16, ErrLeaseTTLTooLarge},
	{18, ErrTooManyLeases},
}

// encodeResult returns the result of a command, of its response or refusal. Any other error, of the
// transaction or of a corrupt state, is returned as it is.
func encodeResult(resp any, err error) ([]byte, error) {
	if err == nil {
		return encodeResponse(resp)
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return []byte{r.outcome}, nil
		}
	}
	return nil, err
}

func encodeResponse(resp any) ([]byte, error) {
	outcome := []byte{outcomeOK}
	var m proto.Message
	switch resp := resp.(type) {
	case checkpointed:
		return resp.append(outcome), nil
	case revoking:
		outcome[0], m = outcomeMore, resp.resp
	case proto.Message:
		m = resp
	}
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(outcome, m)
	if err != nil {
		return nil, fmt.Errorf("kv: encode result: %w", err)
	}
	return b, nil
}

// DecodePutResult reads the result of a command that EncodePut made: the response, whose
// header has the revision only, or why the command was refused. It copies what it needs
// of b, and returns nexusraft.ErrCorrupt for bytes that are no such result.
func DecodePutResult(b []byte) (*etcdserverpb.PutResponse, error) {
	resp := new(etcdserverpb.PutResponse)
	if err := decodeResult(b, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// DecodeDeleteRangeResult is DecodePutResult for a command that EncodeDeleteRange made.
func DecodeDeleteRangeResult(b []byte) (*etcdserverpb.DeleteRangeResponse, error) {
	resp := new(etcdserverpb.DeleteRangeResponse)
	if err := decodeResult(b, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// DecodeTxnResult is DecodePutResult for a command that EncodeTxn made.
func DecodeTxnResult(b []byte) (*etcdserverpb.TxnResponse, error) {
	resp := new(etcdserverpb.TxnResponse)
	if err := decodeResult(b, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// DecodeCompactResult is DecodePutResult for a command that EncodeCompact or EncodeSweep made.
func DecodeCompactResult(b []byte) (*etcdserverpb.CompactionResponse, error) {
	resp := new(etcdserverpb.CompactionResponse)
	if err := decodeResult(b, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

func decodeResult(b []byte, into proto.Message) error {
	if len(b) > 0 && b[0] == outcomeOK {
		return unmarshalResult(b, into)
	}
	return decodeRefusal(b)
}

func unmarshalResult(b []byte, into proto.Message) error {
	if err := proto.Unmarshal(b[1:], into); err != nil {
		return fmt.Errorf("kv: decode result: %w: %w", nexusraft.ErrCorrupt, err)
	}
	return nil
}

// decodeRefusal returns why a command was refused, of a result that has no response.
func decodeRefusal(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("kv: decode result: it is empty: %w", nexusraft.ErrCorrupt)
	}
	for _, r := range refusals {
		if r.outcome == b[0] && len(b) == 1 {
			return r.err
		}
	}
	return fmt.Errorf("kv: decode result: unknown outcome %d of %d bytes: %w", b[0], len(b), nexusraft.ErrCorrupt)
}
