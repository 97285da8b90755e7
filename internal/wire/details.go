package wire

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// waits says how soon it makes sense to ask again, at the earliest. Where a leader is known there is nothing to wait for.
var waits = []struct {
	err   error
	after time.Duration
}{
	{nexusraft.ErrUncertain, 0},
	{nexusraft.ErrDiskFull, 5 * time.Second},
	{nexusraft.ErrNoQuorum, 300 * time.Millisecond},
	{nexusraft.ErrNotLeader, 100 * time.Millisecond},
	{nexusraft.ErrOverloaded, 50 * time.Millisecond},
}

// retryAfter returns how soon it makes sense to ask again after err; 0 if that is not said.
func retryAfter(err error) time.Duration {
	if nl, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok && nl.Leader != 0 {
		return 0
	}
	for _, w := range waits {
		if errors.Is(err, w.err) {
			return w.after
		}
	}
	return 0
}

// WithDetails returns a gRPC status as an error that carries err as a nexusraft.v1.Error, and where waiting helps a
// google.rpc.RetryInfo.
func WithDetails(st *status.Status, err error) error {
	details := []protoadapt.MessageV1{ErrorToProto(err)}
	if after := retryAfter(err); after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	detailed, failed := st.WithDetails(details...)
	if failed != nil {
		return st.Err()
	}
	return detailed.Err()
}
