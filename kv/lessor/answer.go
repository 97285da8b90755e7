package lessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Answer is for node.Config.Answer: it answers the lessors of this node and of others about the leases of a zone that
// this node leads.
func (l *Lessor) Answer(ctx context.Context, id nexusraft.ZoneID, question []byte) ([]byte, error) {
	what, ids, err := decodeQuestion(question)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	arrived := l.clock.now()
	l.mu.Unlock()
	answer, err := l.answer(ctx, id, what, ids, arrived)
	if errors.Is(err, nexusraft.ErrNotLeader) { // if it leads again, in a new term, the lessor hears of that in a moment
		answer, err = l.answer(ctx, id, what, ids, arrived)
	}
	return appendNumbers(nil, answer), err
}

func (l *Lessor) answer(
	ctx context.Context, id nexusraft.ZoneID, what byte, ids []int64, arrived time.Duration,
) ([]int64, error) {
	x, err := l.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if what == askLeft {
		return l.leftOf(ctx, x, ids)
	}
	ttls := make(map[int64]int64, len(ids))
	if err := l.renewAll(ctx, x, ids, arrived, ttls); err != nil {
		return nil, err
	}
	all := make([]int64, len(ids))
	for i, id := range ids {
		all[i] = ttls[id]
	}
	return all, nil
}

// renewAll renews leases from when it was asked to: it sets their deadlines, and what each is granted for in ttls.
// Those that are gone have nothing there.
func (l *Lessor) renewAll(
	ctx context.Context, x *led, ids []int64, arrived time.Duration, ttls map[int64]int64,
) error {
	for len(ids) > 0 {
		begun, err := l.awaitSettled(ctx, x, ids)
		if err != nil {
			return err
		}
		found, err := l.readLed(ctx, x, ids)
		if err != nil {
			return err
		}
		again, noted, err := l.extend(x, ids, found, renewal{arrived, begun}, ttls)
		if err != nil {
			return err
		}
		if len(noted) > 0 {
			if err := l.checkpoint(ctx, x, noted); err != nil {
				return err
			}
		}
		ids = again
	}
	return nil
}

// awaitSettled returns once no command about the leases is under way, and how many expiries had begun by then.
func (l *Lessor) awaitSettled(ctx context.Context, x *led, ids []int64) (begun int64, err error) {
	for {
		l.mu.Lock()
		settled := x.unsettled(ids)
		begun, over := x.begun, x.over
		l.mu.Unlock()
		switch {
		case over:
			return 0, errNotLed(x.zone.ID())
		case settled == nil:
			return begun, nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: wait for the end of a lease: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
		}
	}
}

// unsettled returns what is closed when a command about one of the leases ends; nil if there is none. mu is held.
func (x *led) unsettled(ids []int64) <-chan struct{} {
	for _, id := range ids {
		if lease := x.leases.byID[id]; lease != nil && lease.busy > 0 {
			return x.wait()
		}
	}
	return nil
}

// renewal is when one was asked for, and how many expiries had begun before its leases were read.
type renewal struct {
	arrived time.Duration
	begun   int64
}

// extend sets the deadlines of leases that were found in the state. It returns those that are to be read again,
// because something has happened since, and the checkpoint of those whose state has less than all of their time.
func (l *Lessor) extend(
	x *led, ids []int64, found map[int64]kv.Lease, r renewal, ttls map[int64]int64,
) (again []int64, noted []kv.Remaining, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.over {
		return nil, nil, errNotLed(x.zone.ID())
	}
	now := l.clock.now()
	for _, id := range ids {
		state, ok := found[id]
		known := x.leases.byID[id]
		switch {
		case !ok || state.Revoking:
		case known == nil && x.begun != r.begun: // it may have been one of those
			again = append(again, id)
		case known != nil && (known.busy > 0 || known.generation > state.Generation):
			again = append(again, id)
		case state.Remaining > 0:
			again = append(again, id)
			noted = append(noted, kv.Remaining{ID: id, Generation: state.Generation})
		default:
			x.leases.renew(state, r.arrived, now)
			ttls[id] = state.TTL
		}
	}
	return again, noted, nil
}

// leftOf returns what leases are granted for, and what is left of that, one after the other.
func (l *Lessor) leftOf(ctx context.Context, x *led, ids []int64) ([]int64, error) {
	found, err := l.readLed(ctx, x, ids)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.now()
	all := make([]int64, 0, 2*len(ids))
	for _, id := range ids {
		state, ok := found[id]
		seconds := left(state)
		if known := x.leases.byID[id]; known != nil && known.generation >= state.Generation {
			// Rounded down, and less than what was granted from the first moment on, which the clock may not show yet.
			seconds = int64(max(0, known.deadline-now-1) / time.Second)
		}
		if !ok {
			seconds = 0
		}
		all = append(all, state.TTL, min(seconds, state.TTL))
	}
	return all, nil
}
