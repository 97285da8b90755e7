package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// follower keeps one stream open, through one endpoint after the other.
type follower struct {
	client    *Client
	endpoints []string
	moved     bool // the stream has brought something since the last failure
}

// follow calls stream, which follows one stream to one endpoint to its end, until it returns no error, or one
// that trying again does not mend, or ctx ends.
func (f *follower) follow(ctx context.Context, stream func(address string) (class, time.Duration, error)) error {
	next, failures, delay := 0, 0, minBackoff
	if len(f.endpoints) > 1 {
		next = f.client.firstIndex()
	}
	last := make([]error, len(f.endpoints)) // the last error of each endpoint
	unfit := make([]bool, len(f.endpoints)) // and whether it does not serve this
	for {
		if ctx.Err() != nil {
			return gaveUp(ctx, false, last)
		}
		v, after, err := stream(f.endpoints[next])
		if err == nil {
			return nil
		}
		if f.moved {
			f.moved, failures, delay = false, 0, minBackoff
			clear(last)
			clear(unfit)
		}
		failures++
		unfit[next] = v == another
		if v == final || !slices.Contains(unfit, false) {
			return err
		}
		last[next] = err
		next = (next + 1) % len(f.endpoints)
		if failures%len(f.endpoints) == 0 {
			f.wait(ctx, err, max(delay, 2*after)) // half of it at least
			delay = min(2*delay, maxBackoff)
		}
	}
}

// wait says why and waits for d, or until ctx ends.
func (f *follower) wait(ctx context.Context, reason error, d time.Duration) {
	if ctx.Err() == nil && f.client.opts.OnWait != nil {
		f.client.opts.OnWait(reason)
	}
	pause(ctx, d)
}

// broken returns the error of a stream, where a node's end of it before it has answered is one, too.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unavailable, "the node has ended the stream")
	}
	return err
}

// errSilent cancels a stream whose first response does not come, or whose node is silent for
// longer than it promises.
var errSilent = errors.New("no answer in time")

// classifyStream is classify for the end of a stream of what. Opened says whether it had begun: what
// breaks in its middle is tried again, whatever the code.
func classifyStream(err error, opened bool, what string) (class, error) {
	err = broken(err)
	code := status.Code(err)
	if code == codes.Unimplemented {
		return another, fmt.Errorf("it serves no %s, as a witness does: name a member: %w", what, plain(err))
	}
	v, err := classify(err, false, true)
	if opened && (code == codes.Internal || code == codes.Unknown) && !errors.Is(err, nexusraft.ErrCorrupt) {
		v = again
	}
	return v, err
}
