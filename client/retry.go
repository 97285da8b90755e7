package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// The wait after every endpoint has failed once, and after an overloaded one: doubled each
// time, and jittered so that many clients do not come back in step.
const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 500 * time.Millisecond

	maxRetryAfter = 10 * time.Second // what a server may ask for
)

// A class of errors says what to do next after a failed attempt.
type class int

const (
	final   class = iota // return the error
	again                // nothing happened: try until the context ends
	another              // nothing happened, and this endpoint can't serve it: final once all have said so
)

// callFunc makes one call; its error is gRPC's.
type callFunc func(context.Context, *grpc.ClientConn) error

// An effect is what a call may do, which says what to do when its outcome is unknown.
type effect int

const (
	reads      effect = iota // nothing: call again
	writes                   // something, each time: return nexusraft.ErrUncertain
	writesOnce               // something, and again nothing, as it has a number: call again
	waits                    // as writes, and only the call's context bounds the wait for the answer
	streams                  // nothing: call again; the call bounds its waits itself
)

func (e effect) writes() bool { return e != reads && e != streams }

func (c *Client) read(ctx context.Context, call callFunc) error  { return c.try(ctx, reads, call) }
func (c *Client) write(ctx context.Context, call callFunc) error { return c.try(ctx, writes, call) }

// try makes attempts until one succeeds, one fails for good, or ctx ends.
func (c *Client) try(ctx context.Context, does effect, call callFunc) error {
	ctx = metadata.AppendToOutgoingContext(ctx, wire.ZoneHeader, c.opts.Zone.String())
	endpoints := c.opts.Endpoints
	next, delay := c.firstIndex(), minBackoff
	so := attempts{does: does, last: make([]error, len(endpoints)), unfit: make([]bool, len(endpoints))}
	for failures := 1; ; failures++ {
		if ctx.Err() != nil {
			return so.gaveUp(ctx)
		}
		e, err := c.node(endpoints[next])
		if err != nil {
			return so.ended(err)
		}
		v, after, err := c.attempt(ctx, e, does, call)
		if err == nil {
			c.prefer(e.address)
			return nil
		}
		if errors.Is(err, nexusraft.ErrUncertain) { // it may hang: the next call begins elsewhere
			c.prefer(endpoints[c.nextIndex(next, err)])
		}
		if so.failed(next, v, err) {
			return so.ended(err)
		}
		next = c.nextIndex(next, err)
		if failures%len(endpoints) == 0 || errors.Is(err, nexusraft.ErrOverloaded) {
			pause(ctx, max(delay, 2*after)) // half of it at least
			delay = min(2*delay, maxBackoff)
		}
	}
}

// attempts are those of one call so far.
type attempts struct {
	does    effect
	unknown bool    // whether one of them, which has a number, may have happened
	last    []error // the last error of each endpoint
	unfit   []bool  // and whether it will not do
}

// failed notes that the attempt at endpoint i came to err, of class v, and reports whether it was the last one.
func (a *attempts) failed(i int, v class, err error) bool {
	if a.does == writesOnce {
		v = a.numbered(v, err)
	}
	a.last[i], a.unfit[i] = err, v == another
	return v == final || !slices.Contains(a.unfit, false)
}

// numbered returns the class of an error for a call that has a number.
func (a *attempts) numbered(v class, err error) class {
	unknown := errors.Is(err, nexusraft.ErrUncertain)
	a.unknown = a.unknown || unknown
	switch {
	case unknown && errors.Is(err, nexusraft.ErrCorrupt):
		return another
	case unknown:
		return again
	case a.unknown && errors.Is(err, nexusraft.ErrUnknownSession): // a leader that is none any more may say so
		return another
	}
	return v
}

// ended returns the call's error, where err is that of its last attempt: if an earlier one may have happened it
// does not say that nothing was written.
func (a *attempts) ended(err error) error {
	if a.unknown && !errors.Is(err, nexusraft.ErrUncertain) {
		return fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
	}
	return err
}

// gaveUp returns the call's error where its context has ended.
func (a *attempts) gaveUp(ctx context.Context) error {
	return a.ended(gaveUp(ctx, a.does.writes() && !a.unknown, a.last))
}

// attempt makes one attempt on one endpoint. Another one makes sense after a while.
func (c *Client) attempt(
	ctx context.Context, e *endpoint, does effect, call callFunc,
) (v class, after time.Duration, err error) {
	if err := e.ready(ctx, c.opts.DialTimeout); err != nil {
		_, dates := errors.AsType[*pki.DatesError](err)
		if !dates && errors.Is(err, nexusraft.ErrRefused) { // by this side: it does not believe the node's certificate
			return another, 0, err
		}
		return again, 0, err
	}
	if does != waits && does != streams {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.AttemptTimeout)
		defer cancel()
	}
	ctx, sent := trackSent(ctx)
	err = call(ctx, e.conn)
	if err == nil {
		return final, 0, nil
	}
	after = retryAfter(err)
	v, err = classify(err, does.writes(), sent())
	return v, after, fmt.Errorf("client: %s: %w", e.address, err)
}

// retryAfter returns how long the server asks to wait, within reason; 0 if it does not say.
func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return min(max(info.GetRetryDelay().AsDuration(), 0), maxRetryAfter)
		}
	}
	return 0
}

// classify returns the class of a call's error, and the error for the caller. Sent says whether
// anything of the call was handed to a connection.
//
// For a write, every error that is not known to mean "nothing was written" becomes
// nexusraft.ErrUncertain.
func classify(err error, write, sent bool) (class, error) {
	st := status.Convert(err)
	if refused := knownRefusal(st); refused != nil {
		return final, refused
	}
	if answer := nodeError(st); answer != nil {
		return classifyAnswer(answer, write, st.Code())
	}
	err = plain(err)
	broken := st.Code() == codes.Unavailable || st.Code() == codes.DeadlineExceeded || st.Code() == codes.Canceled
	switch {
	case st.Code() == codes.Unimplemented:
		return another, fmt.Errorf("it does not serve this, as a witness or an earlier release does not: name a member, or "+
			"update it: %w", err)
	case slices.Contains(refusals, st.Code()):
		return final, err
	case write && sent:
		return final, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
	case broken:
		return again, err
	case !write && st.Code() == codes.ResourceExhausted: // the answer is over a message limit of gRPC's, at either end
		return final, fmt.Errorf("%w: %w", nexusraft.ErrTooLarge, err)
	}
	return final, err
}

// plainError is gRPC's error with a text for people.
type plainError struct{ grpc error }

// plain leaves the code out of the text, except where the message alone says too little.
func plain(err error) error { return &plainError{err} }

func (e *plainError) Error() string {
	st := status.Convert(e.grpc)
	switch st.Code() {
	case codes.DeadlineExceeded:
		return "no answer in time"
	case codes.Canceled:
		return "the call was cancelled"
	}
	return st.Message()
}

// Unwrap returns gRPC's error, whose status status.FromError finds.
func (e *plainError) Unwrap() error { return e.grpc }

// refusals are the codes with which a server says that it did not do what it was asked.
var refusals = []codes.Code{
	codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
	codes.FailedPrecondition, codes.OutOfRange, codes.Unauthenticated,
}

// classifyAnswer is classify for an error that a node has answered, with a code.
func classifyAnswer(err error, write bool, code codes.Code) (class, error) {
	row, known := wire.Find(err)
	retry := row.Read
	if write {
		retry = row.Write
	}
	switch {
	case !known && code == codes.Unavailable: // the state machine's own: it does not have this yet
		return again, err
	case !known: // the state machine's own
		return final, err
	case retry == wire.Unknown:
		return final, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
	case retry == wire.Elsewhere:
		return another, err
	case retry == wire.Again:
		return again, err
	}
	return final, err
}

// nodeError returns the error that a node put into its answer, nil if it put none.
func nodeError(st *status.Status) error {
	for _, d := range st.Details() {
		if m, ok := d.(*pb.Error); ok {
			return wire.ErrorFromProto(m)
		}
	}
	return nil
}

// nextIndex returns the endpoint to try after the one at i failed with err: the leader
// that err names, if it is among them, otherwise the next in turn.
func (c *Client) nextIndex(i int, err error) int {
	if nl, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok {
		if leader := slices.Index(c.opts.Endpoints, nl.Address); leader >= 0 && leader != i {
			return leader
		}
	}
	return (i + 1) % len(c.opts.Endpoints)
}

// gaveUpError says why a call was not tried again, with the error of the last attempt at each
// endpoint.
type gaveUpError struct {
	nothing bool  // it would have written, and has not
	cause   error // the context's
	last    []error
}

// gaveUp returns the error of a call whose context has ended; nothing says that it would have written, and has not.
func gaveUp(ctx context.Context, nothing bool, last []error) error {
	last = slices.DeleteFunc(slices.Clone(last), func(err error) bool { return err == nil })
	return &gaveUpError{nothing, ctx.Err(), last}
}

func (e *gaveUpError) Error() string {
	text := "client: gave up, out of time"
	if errors.Is(e.cause, context.Canceled) {
		text = "client: cancelled"
	}
	if e.nothing {
		text += ", nothing was written"
	}
	for _, err := range e.last {
		text += "; " + strings.TrimPrefix(err.Error(), "client: ")
	}
	return text
}

// Unwrap makes the context's error and those of the attempts known to errors.Is.
func (e *gaveUpError) Unwrap() []error { return append([]error{e.cause}, e.last...) }

// pause waits between half of d and d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
