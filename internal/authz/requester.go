package authz

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// requesterKey is the key of a func() *nexusraft.Requester in a context.
type requesterKey struct{}

// WithRequester makes ctx that of a client's call; f is asked each time, from many goroutines.
func WithRequester(ctx context.Context, f func() *nexusraft.Requester) context.Context {
	return context.WithValue(ctx, requesterKey{}, f)
}

// RequesterOf returns the client for which a context was made; nil if no client has asked, or what
// clients may do is not checked.
func RequesterOf(ctx context.Context) *nexusraft.Requester {
	if f, ok := ctx.Value(requesterKey{}).(func() *nexusraft.Requester); ok {
		return f()
	}
	return nil
}

// RequesterName returns the name of RequesterOf, "" if there is none: for the log.
func RequesterName(ctx context.Context) string {
	if q := RequesterOf(ctx); q != nil {
		return q.Name
	}
	return ""
}
