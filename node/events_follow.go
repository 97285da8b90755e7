package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Bounds of what a subscription takes at once. It reads from a snapshot of the store, which
// lives as long as one read takes.
const (
	batchEvents    = 256
	batchBytes     = 64 << 10
	batchScanned   = 4096    // events looked at, wanted or not
	maxSubscribers = 1 << 10 // at a time; more get ErrOverloaded
)

// An idle subscription sees to it that its replica is still in touch with its zone: in each
// idleTimeouts election timeouts a quorum confirms it, within confirmTimeouts of them.
const (
	idleTimeouts    = 4
	confirmTimeouts = 8
)

var _ transport.EventHandler = (*Node)(nil)

// Subscribe yields events in order, without end, from a sequence on: a zone's, or, with zone
// 0, the node's own. The first batch comes at once, and tells where it begins; it is empty, unless
// a gap is to be told. An error comes once and last. A batch belongs to the caller, who may take any time over it: nothing piles up, and nobody waits
// for it. It may be called from many goroutines.
//
// A zone's events have one sequence, the same through every member: go on at EventBatch.Next, also
// through another one. A node's own are numbered anew in each incarnation; an event of type "gap"
// stands for those that are no longer there.
//
// Errors: GoneError for a zone's event that is no longer kept, with the oldest one that is;
// ErrRefused for one that was not published yet, and where the zone's events are turned off;
// ErrNoQuorum if the replica gets out of touch with its zone, so that another member may
// know more; ErrZoneNotFound, ErrClosed, ErrTooLarge, ErrOverloaded, the context's own.
func (n *Node) Subscribe(ctx context.Context, s transport.Subscription) iter.Seq2[transport.EventBatch, error] {
	return func(yield func(transport.EventBatch, error) bool) {
		if err := n.subscribe(ctx, s, yield); err != nil {
			yield(transport.EventBatch{}, fmt.Errorf("subscribe to events: %w", err))
		}
	}
}

func (n *Node) subscribe(ctx context.Context, s transport.Subscription, yield func(transport.EventBatch, error) bool) error {
	if err := s.Validate(); err != nil {
		return err
	}
	defer n.subscribers.Add(-1)
	if n.subscribers.Add(1) > maxSubscribers {
		return fmt.Errorf("%w: %d subscriptions", nexusraft.ErrOverloaded, maxSubscribers)
	}
	if s.Zone == 0 {
		return followLocal(ctx, n.events, s, yield)
	}
	f := &follower{node: n, want: s}
	return f.follow(ctx, yield)
}

func followLocal(ctx context.Context, l *localEvents, s transport.Subscription, yield func(transport.EventBatch, error) bool) error {
	first := l.begin(s)
	if !yield(first, nil) {
		return nil
	}
	next := first.Next
	for {
		rung := l.bell.wait() // before it is read, so that nothing falls in between
		b, more, err := l.read(s, next)
		if err != nil {
			return err
		}
		next = b.Next
		if len(b.Events) > 0 && !yield(b, nil) {
			return nil
		}
		if more {
			continue
		}
		select {
		case <-rung:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follower is one subscription to a zone's events. All it holds is where it is.
type follower struct {
	node *Node
	want transport.Subscription
	next uint64 // to be read
	told uint64 // as the subscriber knows it
}

func (f *follower) follow(ctx context.Context, yield func(transport.EventBatch, error) bool) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	f.told = f.next
	if !yield(transport.EventBatch{Next: f.next}, nil) {
		return nil
	}
	for {
		p, err := f.node.view(f.want.Zone)
		if err != nil {
			return err
		}
		rung := p.events.wait() // before anything is looked at, so that nothing falls in between
		if f.node.worker.inbox.isClosed() {
			return nexusraft.ErrClosed
		}
		events, more, err := f.read()
		if err != nil {
			return err
		}
		idle := false
		if len(events) == 0 && !more {
			if idle, err = f.wait(ctx, rung); err != nil {
				return err
			}
		}
		if len(events) > 0 || f.next-f.told >= batchScanned || idle && f.next != f.told {
			f.told = f.next
			if !yield(transport.EventBatch{Events: events, Next: f.next}, nil) {
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
}

// wait returns when there may be something new, or after a while in which there was nothing,
// and a quorum has confirmed that.
func (f *follower) wait(ctx context.Context, rung <-chan struct{}) (idle bool, err error) {
	timer := time.NewTimer(idleTimeouts * f.node.config.electionTimeout())
	defer timer.Stop()
	select {
	case <-rung:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-timer.C:
		return true, f.confirm(ctx)
	}
}

// confirm returns once this replica has all that was committed before.
func (f *follower) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeouts*f.node.config.electionTimeout())
	defer cancel()
	return f.node.confirm(ctx, f.want.Zone)
}

// begin settles where to begin. A subscriber that comes from another member may be ahead of
// this one, which first has to catch up.
func (f *follower) begin(ctx context.Context) error {
	l, err := f.log()
	if err == nil && f.want.From > l.next {
		if err = f.confirm(ctx); err == nil {
			l, err = f.log()
		}
	}
	if err != nil {
		return err
	}
	if f.next = f.want.From; f.next == 0 {
		f.next = l.next
	}
	return l.check(f.next)
}

func (f *follower) log() (l eventLog, err error) {
	err = f.node.readOwnLocal(f.want.Zone, func(r nexusraft.Reader) error {
		l, err = loadEventLog(r)
		return err
	})
	return l, err
}

// check returns why events from next on can't be sent.
func (l eventLog) check(next uint64) error {
	switch {
	case l.keep.Count == 0:
		return errEventsOff
	case next < l.oldest:
		return &nexusraft.GoneError{Asked: next, Oldest: l.oldest}
	case next > l.next:
		return notYetPublished(next, l.next-1)
	}
	return nil
}

func notYetPublished(next, newest uint64) error {
	return fmt.Errorf("%w: event %d is not there yet, the newest is %d", nexusraft.ErrRefused, next, newest)
}

// read returns the events that are wanted from f.next on, as many as a batch takes, and
// moves f.next beyond them. More is whether there are others to look at.
func (f *follower) read() (events []transport.Event, more bool, err error) {
	err = f.node.readOwnLocal(f.want.Zone, func(r nexusraft.Reader) error {
		l, err := loadEventLog(r)
		if err == nil {
			err = l.check(f.next)
		}
		if err != nil || f.next == l.next {
			return err
		}
		events, err = f.scan(r, l.next)
		more = f.next < l.next
		return err
	})
	return events, more, err
}

func (f *follower) scan(r nexusraft.Reader, end uint64) (events []transport.Event, err error) {
	size, first := 0, f.next
	for p, err := range r.Scan(eventKey(f.next), eventKey(end)) {
		if err != nil {
			return nil, fmt.Errorf("read event %d: %w", f.next, err)
		}
		e, err := decodeEvent(p.Value)
		if err != nil || string(p.Key) != string(eventKey(f.next)) {
			return nil, fmt.Errorf("read event %d of zone %v: %w", f.next, f.want.Zone, errors.Join(nexusraft.ErrCorrupt, err))
		}
		if e.topic == topicGap || f.want.Wants(e.topic, e.kind) {
			events = append(events, e.sent(f.want.Zone, f.next))
			size += len(p.Value)
		}
		f.next++
		if len(events) >= batchEvents || size >= batchBytes || f.next-first >= batchScanned {
			return events, nil
		}
	}
	if f.next < end {
		return nil, fmt.Errorf("%w: event %d of zone %v is missing", nexusraft.ErrCorrupt, f.next, f.want.Zone)
	}
	return events, nil
}

// sent is the event as subscribers get it; it shares nothing with what was read.
func (e storedEvent) sent(zone nexusraft.ZoneID, sequence uint64) transport.Event {
	return transport.Event{
		Sequence: sequence, Topic: e.topic, Type: e.kind, Payload: append([]byte(nil), e.payload...),
		Time: time.Unix(0, e.time).UTC(), Zone: zone,
	}
}

// Publish implements transport.EventHandler; see Zone.Publish.
func (n *Node) Publish(ctx context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte) (uint64, error) {
	z, err := n.Zone(zone)
	if err != nil {
		return 0, err
	}
	return z.Publish(ctx, topic, kind, payload)
}

// Retain implements transport.EventHandler; see Zone.SetEventRetention.
func (n *Node) Retain(ctx context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error {
	z, err := n.Zone(zone)
	if err != nil {
		return err
	}
	return z.SetEventRetention(ctx, Retention{Count: count, Age: age})
}
