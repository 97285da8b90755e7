package lessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// How often what is left of leases is noted in the state, and of how many in one command.
const (
	noteEvery   = time.Minute
	notedAtOnce = 1000
)

// note starts to note what is left of the leases that were not renewed for a while.
func (l *Lessor) note(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.now()
	for _, x := range l.zones {
		if x.notes || now-x.noted < noteEvery {
			continue
		}
		x.noted = now
		leases, all := x.leases.unrenewed(now, noteEvery)
		if len(all) == 0 {
			continue
		}
		x.notes = true
		l.running.Go(func() { l.noteAll(ctx, x, leases, all) })
	}
}

// noteAll notes what is left of leases of a zone, in commands one after the other. The leases are not renewed before
// it is known what has come of that: the state would have less of them than was answered.
func (l *Lessor) noteAll(ctx context.Context, x *led, leases []*lease, all []kv.Remaining) {
	var err error
	for first := 0; first < len(all); first += notedAtOnce {
		end := min(first+notedAtOnce, len(all))
		if err == nil {
			err = l.checkpoint(ctx, x, all[first:end])
		}
		l.noteEnds(x, leases[first:end])
	}
	if err != nil && ctx.Err() == nil && !isOver(err) {
		l.logger.Warn("what is left of leases not noted yet, it is tried again", "zone", x.zone.ID(), "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x.notes = false
}

func (l *Lessor) noteEnds(x *led, some []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lease := range some {
		lease.busy--
	}
	x.wake()
}

// checkpoint proposes a checkpoint until it is known what has come of it: an earlier attempt whose outcome is unknown
// does nothing after a later one. If the leadership has ended it returns that.
func (l *Lessor) checkpoint(ctx context.Context, x *led, some []kv.Remaining) error {
	command, pause, uncertain := kv.EncodeCheckpoint(some), leastRetry, false
	for {
		changed, err := proposeCheckpoint(ctx, x.zone, command)
		switch {
		case err == nil:
			l.heard(x, changed)
			return nil
		case l.isLost(ctx, x, err):
			return errNotLed(x.zone.ID())
		case !uncertain && isNotAppended(err):
			return err
		}
		uncertain = true
		select {
		case <-time.After(pause):
			pause = min(2*pause, mostRetry)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// heard notes what a checkpoint has changed.
func (l *Lessor) heard(x *led, changed []kv.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.now()
	for _, lease := range changed {
		x.leases.hear(lease, now)
	}
}

func proposeCheckpoint(ctx context.Context, z zone, command []byte) ([]kv.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, proposalTime)
	defer cancel()
	result, err := z.Propose(ctx, command)
	if err != nil {
		return nil, err
	}
	return kv.DecodeCheckpointResult(result.Data)
}
