package kv

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A result is one outcome byte, then, for outcomeOK, the marshalled response. Nodes of
// different versions exchange results, so a number that was ever used keeps its meaning.
const outcomeOK byte = 0

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
}

// encodeResult returns the result of a command, of its response or refusal. Any other error, of the
// transaction or of a corrupt state, is returned as it is.
func encodeResult(resp proto.Message, err error) ([]byte, error) {
	if err == nil {
		b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{outcomeOK}, resp)
		if err != nil {
			return nil, fmt.Errorf("kv: encode result: %w", err)
		}
		return b, nil
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return []byte{r.outcome}, nil
		}
	}
	return nil, err
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
	if len(b) == 0 {
		return fmt.Errorf("kv: decode result: it is empty: %w", nexusraft.ErrCorrupt)
	}
	if b[0] == outcomeOK {
		if err := proto.Unmarshal(b[1:], into); err != nil {
			return fmt.Errorf("kv: decode result: %w: %w", nexusraft.ErrCorrupt, err)
		}
		return nil
	}
	for _, r := range refusals {
		if r.outcome == b[0] && len(b) == 1 {
			return r.err
		}
	}
	return fmt.Errorf("kv: decode result: unknown outcome %d of %d bytes: %w", b[0], len(b), nexusraft.ErrCorrupt)
}
