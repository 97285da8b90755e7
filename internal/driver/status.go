package driver

import (
	"context"
	"errors"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const (
	// StatusTimeout is how long a node's status waits for its worker at a time.
	StatusTimeout = time.Second

	// statusZones is of how many zones a worker says the status at a time: with thousands of them, what waits
	// for it does not wait for all.
	statusZones = 256
)

// ErrNoAnswer is what a node's status says after StatusTimeout.
var ErrNoAnswer = errors.New("the worker has not answered for 1s: the disk may be stalled")

// Statuses returns the status of a worker's zones, by ID; of zone only and the root zone alone, unless only
// is 0. The worker runs all and status; a zone of which status says that it is not there any more is left
// out. Thousands of zones are not all seen at the same moment.
//
// The error is ErrNoAnswer, the context's cause, or Inbox.Call's.
func Statuses(
	ctx context.Context, b *Inbox, only nexusraft.ZoneID, all func() []nexusraft.ZoneID,
	status func(nexusraft.ZoneID) (nexusraft.ZoneStatus, bool),
) (out []nexusraft.ZoneStatus, err error) {
	ids := []nexusraft.ZoneID{nexusraft.RootZone, only}
	if only == 0 {
		if ids, err = AskSoon(ctx, b, all); err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	for some := range slices.Chunk(slices.Compact(ids), statusZones) {
		got, err := AskSoon(ctx, b, func() (got []nexusraft.ZoneStatus) {
			for _, id := range some {
				if s, ok := status(id); ok {
					got = append(got, s)
				}
			}
			return got
		})
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	return out, nil
}

// AskSoon is Ask for at most StatusTimeout; then the error is ErrNoAnswer.
func AskSoon[T any](ctx context.Context, b *Inbox, f func() T) (value T, err error) {
	type reply struct {
		value T
		err   error
	}
	asking, cancel := context.WithTimeout(ctx, StatusTimeout)
	defer cancel()
	r, err := Ask(asking, b, func(err error) reply {
		if err != nil {
			return reply{err: err}
		}
		return reply{value: f()}
	})
	switch {
	case err == nil:
		return r.value, r.err
	case ctx.Err() == nil && asking.Err() != nil:
		return value, ErrNoAnswer
	}
	return value, err
}
