package etcd

import (
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// errBadMetadata: the request's metadata names no zone that could exist.
var errBadMetadata = errors.New("nexusraft: bad metadata")

// errBadSession: the request's metadata have no session and number where they should.
var errBadSession = errors.New("nexusraft: bad metadata of a session")

// ownErrors are the errors of a request for keys besides the sentinels of the root package, whose
// codes and texts package wire has. The first one that matches counts. Where etcd has an error of
// the same meaning, its code and text are used.
var ownErrors = []struct {
	err    error
	answer error // a gRPC status
}{
	{kv.ErrResponseTooLarge, status.Error(codes.InvalidArgument, kv.ErrResponseTooLarge.Error())},
	{kv.ErrTooManyKeys, status.Error(codes.InvalidArgument, kv.ErrTooManyKeys.Error())},
	{kv.ErrEmptyKey, rpctypes.ErrGRPCEmptyKey},                 // InvalidArgument
	{kv.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},           // InvalidArgument
	{kv.ErrValueProvided, rpctypes.ErrGRPCValueProvided},       // InvalidArgument
	{kv.ErrLeaseProvided, rpctypes.ErrGRPCLeaseProvided},       // InvalidArgument
	{kv.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},       // NotFound
	{kv.ErrLeaseExists, rpctypes.ErrGRPCLeaseExist},            // FailedPrecondition
	{kv.ErrLeaseTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge}, // OutOfRange
	{kv.ErrTooManyLeases, status.Error(codes.ResourceExhausted, kv.ErrTooManyLeases.Error())},
	{kv.ErrInvalidSort, rpctypes.ErrGRPCInvalidSortOption}, // InvalidArgument
	{kv.ErrCompacted, rpctypes.ErrGRPCCompacted},           // OutOfRange
	{kv.ErrFutureRevision, rpctypes.ErrGRPCFutureRev},      // OutOfRange
	{kv.ErrTxnTooWide, status.Error(codes.InvalidArgument, kv.ErrTxnTooWide.Error())},
	{kv.ErrTooManyOps, rpctypes.ErrGRPCTooManyOps},                // InvalidArgument
	{kv.ErrDuplicateKey, rpctypes.ErrGRPCDuplicateKey},            // InvalidArgument
	{errUnswept, status.Error(codes.Unknown, errUnswept.Error())}, // nothing that a client repeats by itself
	{kv.ErrNoHistory, status.Error(codes.Unavailable, kv.ErrNoHistory.Error())},
	{kv.ErrLeaseRevoking, status.Error(codes.Unavailable, kv.ErrLeaseRevoking.Error())},
	{kv.ErrNoLeases, status.Error(codes.Unavailable, kv.ErrNoLeases.Error())},
	{kv.ErrBadCommand, status.Error(codes.Internal, kv.ErrBadCommand.Error())},
	{errBadMetadata, status.Error(codes.InvalidArgument,
		"nexusraft: the metadata "+wire.ZoneHeader+" is not one hexadecimal zone ID")},
	{errBadSession, status.Error(codes.InvalidArgument,
		"nexusraft: the metadata "+wire.SessionHeader+" is not one session and number, as in 71/3")},
}

// toStatus returns the gRPC status that err is answered with.
func toStatus(err error) error {
	if answer, ok := ownStatus(err); ok {
		return wire.WithDetails(answer, err)
	}
	return rpc.Status(err)
}

// ownStatus returns the status of one of ownErrors. Some of them are ErrTooLarge and say more; every
// other sentinel promises less, and counts before them.
func ownStatus(err error) (*status.Status, bool) {
	if row, known := wire.Find(err); known && row.Sentinel != nexusraft.ErrTooLarge {
		return nil, false
	}
	for _, own := range ownErrors {
		if errors.Is(err, own.err) {
			return status.Convert(own.answer), true
		}
	}
	return nil, false
}

// proposeError returns what an error of Propose means.
func proposeError(err error) error {
	if _, ok := ownStatus(err); ok {
		return err
	}
	return rpc.ProposeError(err)
}
