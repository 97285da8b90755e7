package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// contextErrors are for reads that ended because their context did; nothing was changed.
// These carry no detail: it would call the outcome unknown.
var contextErrors = []struct{ err, answer error }{
	{context.Canceled, rpctypes.ErrGRPCCanceled},                 // Canceled
	{context.DeadlineExceeded, rpctypes.ErrGRPCDeadlineExceeded}, // DeadlineExceeded
}

// Status returns the gRPC status that err is answered with, with the texts that etcd's clients
// compare: its own text travels in the detail alone. An error that matches no sentinel becomes
// Internal, with its text.
func Status(err error) error {
	if row, ok := wire.Find(err); ok {
		return wire.WithDetails(status.New(row.Code, row.EtcdText()), err)
	}
	for _, row := range contextErrors {
		if errors.Is(err, row.err) {
			return row.answer
		}
	}
	return wire.WithDetails(status.New(codes.Internal, err.Error()), err)
}

// ProposeError returns what an error of a command means: one that matches no sentinel, a
// context's for example, leaves open whether the command runs.
func ProposeError(err error) error {
	if _, ok := wire.Find(err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
}

// OverBudget makes a refused reservation the error that callers know.
func OverBudget(err error) error {
	if _, ok := errors.AsType[*budget.Exceeded](err); ok {
		return fmt.Errorf("%w: %w", nexusraft.ErrOverloaded, err)
	}
	return err
}

// reserveList reserves for a list, which made gives back but for what the list has.
func reserveList(ctx context.Context) (made func(proto.Message), err error) {
	if err := budget.Reserve(ctx, budget.ListBytes); err != nil {
		return nil, OverBudget(err)
	}
	return func(m proto.Message) { budget.ShrinkAnswer(ctx, 2*int64(proto.Size(m))) }, nil
}

// defaultTimeout bounds a request that comes without a deadline.
const defaultTimeout = 10 * time.Second

// Bounded returns ctx with a deadline if it has none.
func Bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// BeforeDeadline returns a context that ends shortly before ctx does by its deadline, so that the caller can be told
// what has come of its call.
func BeforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, budget.AnswerDeadlineMargin)))
}
