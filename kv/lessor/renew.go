package lessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How renewals are gathered, and asked for.
const (
	gatherTime = 5 * time.Millisecond
	renewTime  = 4 * time.Second // of a batch, whatever its callers wait
	maxWaiting = 1 << 16         // renewals of all zones
	maxBatches = 4               // of a zone that are under way
)

// RenewCall is a renewal that was asked for. Its methods may be called from many goroutines.
type RenewCall struct {
	done chan struct{} // closed when ttl and err are set
	ttl  int64
	err  error
}

// Wait returns how many seconds the lease is good for, as it was granted; 0: it is gone. See Lessor.Renew.
func (r *RenewCall) Wait(ctx context.Context) (ttl int64, err error) {
	select {
	case <-r.done:
		return r.ttl, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// gathering is the renewals of a zone at this node.
type gathering struct {
	next  *batch // that renewals still join; nil: there is none
	sends int    // batches that are under way
}

// batch is renewals that are asked for together.
type batch struct {
	ids     []int64
	waiting map[int64]*RenewCall
	due     bool // it has gathered long enough
}

// Renew renews a lease of a zone, from this member or any other one, and returns what RenewCall.Wait does. The lease
// has all of its time again, from no earlier than the call on.
//
// Renewals of 5 ms go to the leader together, which answers after it has confirmed its leadership; if none is known
// or reached, the lessor tries for 4 s. Errors: ErrNotLeader, ErrNoQuorum and ErrOverloaded if nobody has answered, or
// too many are waiting, those of node.Node.AskLeader, or the context's. Whether the lease was renewed is not known
// then, and it may be asked again.
func (l *Lessor) Renew(ctx context.Context, zone nexusraft.ZoneID, id int64) (ttl int64, err error) {
	return l.Begin(zone, id).Wait(ctx)
}

// Begin is Renew without waiting. The renewal goes on whether anybody waits or not; it ends in 5 s.
func (l *Lessor) Begin(zone nexusraft.ZoneID, id int64) *RenewCall {
	if id <= 0 { // no lease has it
		return ended(nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return ended(errEnded())
	case l.host == nil:
		return ended(fmt.Errorf("%w: the lessor does not run yet", nexusraft.ErrOverloaded))
	}
	g := l.gather[zone]
	if g == nil {
		g = &gathering{}
		l.gather[zone] = g
	}
	if g.next != nil && g.next.waiting[id] != nil {
		return g.next.waiting[id]
	}
	if l.waiting >= maxWaiting || g.next != nil && len(g.next.ids) >= maxAsked {
		return ended(fmt.Errorf("%w: %d renewals of leases are waiting", nexusraft.ErrOverloaded, l.waiting))
	}
	return l.join(zone, g, id)
}

// ended returns a renewal that has ended, with a TTL of 0 or with an error.
func ended(err error) *RenewCall {
	done := make(chan struct{})
	close(done)
	return &RenewCall{done: done, err: err}
}

// join adds a renewal to the zone's next batch; mu is held.
func (l *Lessor) join(zone nexusraft.ZoneID, g *gathering, id int64) *RenewCall {
	if g.next == nil {
		b := &batch{waiting: make(map[int64]*RenewCall)}
		g.next = b
		time.AfterFunc(gatherTime, func() { l.gathered(zone, b) })
	}
	r := &RenewCall{done: make(chan struct{})}
	g.next.ids = append(g.next.ids, id)
	g.next.waiting[id] = r
	l.waiting++
	if len(g.next.ids) == maxAsked {
		g.next.due = true
		l.send(zone, g)
	}
	return r
}

// gathered says that a batch has gathered for long enough.
func (l *Lessor) gathered(zone nexusraft.ZoneID, b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.gather[zone]; g != nil && g.next == b {
		b.due = true
		l.send(zone, g)
	}
}

// send sends the zone's next batch, if it is time and not too many are under way; mu is held.
func (l *Lessor) send(zone nexusraft.ZoneID, g *gathering) {
	b := g.next
	if l.ended || b == nil || !b.due || g.sends >= maxBatches {
		return
	}
	g.next = nil
	g.sends++
	l.running.Go(func() { l.renew(zone, g, b) })
}

// renew asks for the renewals of a batch, and tells those that wait.
func (l *Lessor) renew(zone nexusraft.ZoneID, g *gathering, b *batch) {
	ctx, cancel := context.WithTimeout(l.ctx, renewTime)
	defer cancel()
	ttls, err := l.ask(ctx, zone, askRenew, b.ids, len(b.ids))
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range b.ids {
		if err == nil {
			b.waiting[id].ttl = ttls[i]
		}
	}
	l.endBatch(b, err)
	g.sends--
	l.send(zone, g)
	if g.next == nil && g.sends == 0 {
		delete(l.gather, zone)
	}
}

// endBatch tells those that wait for a batch; mu is held.
func (l *Lessor) endBatch(b *batch, err error) {
	for _, r := range b.waiting {
		r.err = err
		close(r.done)
	}
	l.waiting -= len(b.ids)
}

// endRenewals ends the renewals that wait to be asked for.
func (l *Lessor) endRenewals() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.gather {
		if g.next != nil {
			l.endBatch(g.next, errEnded())
			g.next = nil
		}
	}
}

// ask asks the zone's leader about leases, until it answers or ctx ends.
func (l *Lessor) ask(
	ctx context.Context, zone nexusraft.ZoneID, what byte, ids []int64, numbers int,
) ([]int64, error) {
	question, pause := encodeQuestion(what, ids), leastRetry
	for {
		answer, err := l.host.AskLeader(ctx, zone, question)
		if err == nil {
			return decodeAnswer(answer, numbers)
		}
		passes := errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrOverloaded) ||
			errors.Is(err, nexusraft.ErrNoQuorum)
		if !passes {
			return nil, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, mostRetry/2)
		case <-ctx.Done():
			return nil, err
		}
	}
}
