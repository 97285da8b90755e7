package wire

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Status returns the gRPC status that answers a call with err: the code of its row, its own text,
// and its details. A context's error leaves open what became of the call, and is Unknown; an error
// that matches no sentinel is Internal.
func Status(err error) error {
	code := codes.Internal
	if row, ok := Find(err); ok {
		code = row.Code
	} else if isContext(err) {
		code = codes.Unknown
	}
	return WithDetails(status.New(code, err.Error()), err)
}

// isContext reports whether an error is one with which a context ends.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// WithDetails returns a gRPC status as an error that carries err as a nexusraft.v1.Error, and where
// waiting helps a google.rpc.RetryInfo.
func WithDetails(st *status.Status, err error) error {
	details := []protoadapt.MessageV1{ErrorToProto(err)}
	if after := RetryAfter(err); after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	detailed, failed := st.WithDetails(details...)
	if failed != nil {
		return st.Err()
	}
	return detailed.Err()
}
