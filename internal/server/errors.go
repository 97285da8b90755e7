package server

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// errBadMetadata: the request's metadata names no zone that could exist.
var errBadMetadata = errors.New("nexusraft: bad metadata")

// table says which code and text each error becomes. An error may match several rows; the
// first counts, and the rows that promise least come first.
//
// Where etcd has an error of the same meaning its code and text are used, by which its
// clients recognise it. What they do by themselves decides the rest: etcd's Go client
//
//   - repeats a Range answered by Unavailable, which is safe;
//   - repeats a Put or DeleteRange answered by DeadlineExceeded or Canceled for as long as
//     its own context lives, so no write is ever answered by those;
//   - repeats no write answered by Unknown. That is why an unknown outcome has that code;
//   - repeats no write answered by Unavailable, except with two texts that only its own
//     balancer makes; but other clients do, so Unavailable always means "not written".
//
// Each answer also carries a nexusraft.v1.Error as a detail, which keeps the error's own
// text and its kind, and where waiting helps a google.rpc.RetryInfo. Clients that know them need no texts.
var table = []struct {
	err    error
	answer error // a gRPC status
}{
	{nexusraft.ErrUncertain, status.Error(codes.Unknown, "nexusraft: outcome unknown, the write may have happened or may still happen")},
	{nexusraft.ErrCorrupt, rpctypes.ErrGRPCCorrupt},                   // DataLoss
	{nexusraft.ErrClosed, rpctypes.ErrGRPCStopped},                    // Unavailable
	{nexusraft.ErrDiskFull, rpctypes.ErrGRPCNoSpace},                  // ResourceExhausted
	{nexusraft.ErrNoQuorum, rpctypes.ErrGRPCTimeout},                  // Unavailable; reads only
	{nexusraft.ErrNotLeader, rpctypes.ErrGRPCNoLeader},                // Unavailable
	{nexusraft.ErrOverloaded, rpctypes.ErrGRPCRequestTooManyRequests}, // ResourceExhausted
	{nexusraft.ErrZoneNotFound, status.Error(codes.NotFound, nexusraft.ErrZoneNotFound.Error())},
	{kv.ErrResponseTooLarge, status.Error(codes.InvalidArgument, kv.ErrResponseTooLarge.Error())},
	{nexusraft.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge}, // InvalidArgument
	{nexusraft.ErrRefused, status.Error(codes.FailedPrecondition, nexusraft.ErrRefused.Error())},
	{nexusraft.ErrUnknownSession, status.Error(codes.FailedPrecondition, nexusraft.ErrUnknownSession.Error())},
	{nexusraft.ErrNotFounded, status.Error(codes.Unavailable, nexusraft.ErrNotFounded.Error())},
	{nexusraft.ErrDenied, status.Error(codes.PermissionDenied, nexusraft.ErrDenied.Error())},
	{nexusraft.ErrGone, status.Error(codes.OutOfRange, nexusraft.ErrGone.Error())},
	{kv.ErrEmptyKey, rpctypes.ErrGRPCEmptyKey},             // InvalidArgument
	{kv.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},       // InvalidArgument
	{kv.ErrValueProvided, rpctypes.ErrGRPCValueProvided},   // InvalidArgument
	{kv.ErrLeaseProvided, rpctypes.ErrGRPCLeaseProvided},   // InvalidArgument
	{kv.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound},   // NotFound
	{kv.ErrInvalidSort, rpctypes.ErrGRPCInvalidSortOption}, // InvalidArgument
	{kv.ErrCompacted, rpctypes.ErrGRPCCompacted},           // OutOfRange
	{kv.ErrFutureRevision, rpctypes.ErrGRPCFutureRev},      // OutOfRange
	{kv.ErrBadCommand, status.Error(codes.Internal, kv.ErrBadCommand.Error())},
	{errBadMetadata, status.Error(codes.InvalidArgument, "nexusraft: the metadata "+wire.ZoneHeader+" is not one hexadecimal zone ID")},
}

// contextTable is for reads that ended because their context did; nothing was changed.
// These carry no detail: it would call the outcome unknown.
var contextTable = []struct{ err, answer error }{
	{context.Canceled, rpctypes.ErrGRPCCanceled},                 // Canceled
	{context.DeadlineExceeded, rpctypes.ErrGRPCDeadlineExceeded}, // DeadlineExceeded
}

// toStatus returns the gRPC status that err is answered with. One that no row knows
// becomes Internal, with its text.
func toStatus(err error) error {
	for _, row := range table {
		if errors.Is(err, row.err) {
			return wire.WithDetails(status.Convert(row.answer), err)
		}
	}
	for _, row := range contextTable {
		if errors.Is(err, row.err) {
			return row.answer
		}
	}
	return wire.WithDetails(status.New(codes.Internal, err.Error()), err)
}

// proposeError returns what an error of Propose means: one that matches no sentinel, a
// context's for example, leaves open whether the command runs.
func proposeError(err error) error {
	for _, row := range table {
		if errors.Is(err, row.err) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
}
