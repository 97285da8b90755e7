package lessor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// How much is under way at once, and for how long.
const (
	maxExpiries = 32  // zones
	maxExpiring = 256 // leases of one zone
	revokers    = 16  // commands of one zone

	confirmTime  = 2 * time.Second // of a leadership
	proposalTime = 5 * time.Second
	expiryPause  = 250 * time.Millisecond // after one that came to nothing
	leastRetry   = 50 * time.Millisecond
	mostRetry    = time.Second
)

// expire starts to revoke what has run out.
func (l *Lessor) expire(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.now()
	for _, x := range l.zones {
		if l.jobs >= maxExpiries {
			return // at the next tick, in another order
		}
		if x.expires || x.pauses > now {
			continue
		}
		doomed := x.leases.due(now, maxExpiring)
		if len(doomed) == 0 {
			continue
		}
		x.expires = true
		x.begun++
		l.jobs++
		l.running.Go(func() { l.revokeAll(ctx, x, doomed) })
	}
}

// revokeAll revokes leases of a zone that have run out.
func (l *Lessor) revokeAll(ctx context.Context, x *led, doomed []*lease) {
	found, err := l.readLed(ctx, x, idsOf(doomed))
	if err == nil {
		l.revokeFound(ctx, x, doomed, found)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs--
	x.expires = false
	switch {
	case err == nil || x.over:
	default:
		x.pauses = l.clock.now() + expiryPause
		for _, d := range doomed {
			l.settle(x, d, notRevoked)
		}
	}
}

func idsOf(all []*lease) []int64 {
	ids := make([]int64, len(all))
	for i, x := range all {
		ids[i] = x.id
	}
	return ids
}

// readLeases reads leases after the leadership was confirmed.
func readLeases(ctx context.Context, z zone, ids []int64) (found map[int64]kv.Lease, err error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	found = make(map[int64]kv.Lease, len(ids))
	err = z.Read(ctx, func(r nexusraft.Reader) error {
		for _, id := range ids {
			lease, ok, err := kv.LeaseOf(r, id)
			if err != nil {
				return err
			}
			if ok {
				found[id] = lease
			}
		}
		return nil
	})
	return found, err
}

// readLed is readLeases of a zone that this node leads, which it forgets if it leads it in the term no more.
func (l *Lessor) readLed(ctx context.Context, x *led, ids []int64) (map[int64]kv.Lease, error) {
	found, err := readLeases(ctx, x.zone, ids)
	if err != nil && isOver(err) {
		l.lost(x)
	}
	return found, err
}

// isLost reports whether this node leads a zone in its term no more, after a proposal came to nothing with err: a
// leader refuses proposals while it hands its leadership over, and if that fails, leads on in the term.
func (l *Lessor) isLost(ctx context.Context, x *led, err error) bool {
	if isOver(err) {
		_, _ = l.readLed(ctx, x, nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return x.over
}

// revokeFound revokes leases as they were found in the state, several at a time.
func (l *Lessor) revokeFound(ctx context.Context, x *led, doomed []*lease, found map[int64]kv.Lease) {
	var next atomic.Int64
	var revoking sync.WaitGroup
	for range min(revokers, len(doomed)) {
		revoking.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(doomed)); i = next.Add(1) - 1 {
				end := l.revokeOne(ctx, x, doomed[i], found)
				l.mu.Lock()
				l.settle(x, doomed[i], end)
				l.mu.Unlock()
			}
		})
	}
	revoking.Wait()
}

// ending is what has come of an expiry.
type ending int

const (
	revoked    ending = iota // the lease is gone
	renewed                  // the lease has another generation
	notRevoked               // nothing was done, and is to be tried again
	unknown                  // nobody knows, because the leadership has ended
)

// revokeOne revokes a lease, once it is known that it is still the one that has run out.
func (l *Lessor) revokeOne(ctx context.Context, x *led, d *lease, found map[int64]kv.Lease) ending {
	lease, ok := found[d.id]
	if !ok {
		return revoked
	}
	l.mu.Lock()
	known := d.generation
	l.mu.Unlock()
	if lease.Generation != known && !lease.Revoking {
		l.mu.Lock()
		x.leases.hear(lease, l.clock.now())
		l.mu.Unlock()
		return renewed
	}
	return l.revoke(ctx, x, lease)
}

// revoke proposes a revoke until it is known what has come of it. Once the outcome of one is unknown, it may still
// happen, and only a later one that has happened tells.
func (l *Lessor) revoke(ctx context.Context, x *led, lease kv.Lease) ending {
	command, pause, uncertain := kv.EncodeRevoke(lease.ID, lease.Generation), leastRetry, false
	for {
		err := proposeRevoke(ctx, x.zone, command)
		switch {
		case err == nil, errors.Is(err, kv.ErrLeaseNotFound):
			return revoked
		case errors.Is(err, kv.ErrLeaseRenewed):
			return renewed
		case errors.Is(err, kv.ErrLeaseRevoking):
			uncertain, pause = true, leastRetry // it has ended, and goes on to be removed
			continue
		case l.isLost(ctx, x, err):
			return unknown
		case !uncertain && isNotAppended(err):
			return notRevoked
		}
		uncertain = true
		select {
		case <-time.After(pause):
			pause = min(2*pause, mostRetry)
		case <-ctx.Done():
			return unknown
		}
	}
}

func proposeRevoke(ctx context.Context, z zone, command []byte) error {
	ctx, cancel := context.WithTimeout(ctx, proposalTime)
	defer cancel()
	result, err := z.Propose(ctx, command)
	if err == nil {
		_, err = kv.DecodeRevokeResult(result.Data)
	}
	return err
}

// isNotAppended reports whether a command was certainly not appended.
func isNotAppended(err error) bool {
	return !errors.Is(err, nexusraft.ErrUncertain) &&
		(errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrOverloaded) ||
			errors.Is(err, nexusraft.ErrDiskFull) || errors.Is(err, nexusraft.ErrTooLarge) ||
			errors.Is(err, nexusraft.ErrNoQuorum) || errors.Is(err, kv.ErrNoLeases))
}

// settle ends the expiry of a lease; mu is held.
func (l *Lessor) settle(x *led, d *lease, end ending) {
	d.busy--
	now := l.clock.now()
	switch {
	case end == revoked && !d.anew:
		x.leases.drop(d)
	case end == unknown: // so is the zone's leader
	case end == notRevoked:
		x.leases.back(d)
		x.pauses = max(x.pauses, now+expiryPause)
	default: // it is another lease, or a checkpoint has come between
		if d.deadline <= now {
			d.deadline = now + expiryPause // until it is heard of
		}
		x.leases.back(d)
	}
	x.wake()
}
