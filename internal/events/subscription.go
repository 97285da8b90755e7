package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// Bounds of what a subscription takes at once. It reads from a snapshot of the store, which
// lives as long as one read takes.
const (
	batchEvents  = 256
	batchBytes   = budget.AnswerBytesFree // of a batch, or it is one event, for which memory is reserved
	batchScanned = 4096                   // events looked at, wanted or not
)

// An idle subscription sees to it that its replica is still in touch with its zone: in each
// idleTimeouts election timeouts, at least every Options.Idle, a quorum confirms it, within
// confirmTimeouts of them. Then an empty batch says so.
const (
	idleTimeouts    = 4
	confirmTimeouts = 8
)

// Source is what serving a zone's events needs of the node that has the zone.
type Source interface {
	// Changed returns a channel that is closed when there may be new events in a zone, when the zone
	// stops on this node, and when the node does. The error is ErrZoneNotFound, or ErrClosed once the
	// zone or the node has stopped.
	Changed(z nexusraft.ZoneID) (<-chan struct{}, error)

	// Confirm returns once this replica has all that was committed in the zone before; ErrNoQuorum if
	// the context ends first.
	Confirm(ctx context.Context, z nexusraft.ZoneID) error

	// ReadSystemLocal runs fn over all that the zone keeps, as this replica has it. The Reader is void
	// when fn returns.
	ReadSystemLocal(z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error

	// Expand returns an event of the zone as subscribers get it, from what ReadSystemLocal gives; see
	// nexusraft.EventExpander.
	Expand(z nexusraft.ZoneID, r nexusraft.Reader, e system.Event) (system.Event, error)

	// CountOpening makes sure that the node's incarnation is counted, before its own events bear it.
	CountOpening() error
}

// Options say what is served. All of them are required.
type Options struct {
	Local           *Local // the node's own events
	Source          Source
	Idle            time.Duration // how often a subscriber gets a batch, at least, while nothing happens
	ElectionTimeout time.Duration // of the zones
	Counters        *budget.Counters
}

// Subscriptions serves events to subscribers, so many at a time. Its methods may be called from many
// goroutines.
type Subscriptions struct {
	Options

	ofCaller, all *budget.Limit
}

// New returns Subscriptions without any subscriber.
func New(o Options) *Subscriptions {
	return &Subscriptions{
		Options:  o,
		ofCaller: budget.NewLimit(budget.SubscriptionsOfPrincipal, budget.MaxSubscriptions),
		all:      budget.NewLimit(budget.MaxSubscriptions, budget.MaxSubscriptions),
	}
}

// Subscribe is Node.Subscribe of package node. caller is the principal that the subscription counts
// for; "" is a caller in this process.
func (s *Subscriptions) Subscribe(
	ctx context.Context, caller string, want nexusraft.Subscription,
) iter.Seq2[nexusraft.EventBatch, error] {
	return func(yield func(nexusraft.EventBatch, error) bool) {
		if err := s.serve(ctx, caller, want, yield); err != nil {
			yield(nexusraft.EventBatch{}, fmt.Errorf("subscribe to events: %w", err))
		}
	}
}

func (s *Subscriptions) serve(
	ctx context.Context, caller string, want nexusraft.Subscription, yield func(nexusraft.EventBatch, error) bool,
) error {
	if err := want.Validate(); err != nil {
		return err
	}
	if !s.enter(caller) {
		s.Counters.Refused(budget.SubscriptionsRefused)
		return fmt.Errorf("%w: %d subscriptions at a time, and %d of one caller: end some, or ask another member",
			nexusraft.ErrOverloaded, budget.MaxSubscriptions, budget.SubscriptionsOfPrincipal)
	}
	defer s.leave(caller)
	if want.Zone == 0 {
		if err := s.Source.CountOpening(); err != nil {
			return err
		}
		return s.serveLocal(ctx, want, yield)
	}
	x := &subscription{Options: s.Options, want: want}
	return x.serve(ctx, yield)
}

// enter takes a place; "" is a caller in this process, which may have all. If it was taken, leave
// must follow.
func (s *Subscriptions) enter(caller string) bool {
	if !s.all.Enter("", 1) {
		return false
	}
	if caller != "" && !s.ofCaller.Enter(caller, 1) {
		s.all.Leave("", 1)
		return false
	}
	return true
}

func (s *Subscriptions) leave(caller string) {
	s.all.Leave("", 1)
	if caller != "" {
		s.ofCaller.Leave(caller, 1)
	}
}

// serveLocal yields a node's own events.
func (s *Subscriptions) serveLocal(
	ctx context.Context, want nexusraft.Subscription, yield func(nexusraft.EventBatch, error) bool,
) error {
	first := s.Local.begin(want)
	if !yield(first, nil) {
		return nil
	}
	next, toldAt := first.Next, time.Now()
	for {
		changed := s.Local.Changed() // before it is read, so that nothing falls in between
		b, more, err := s.Local.read(want, next)
		if err != nil {
			return err
		}
		next = b.Next
		if len(b.Events) > 0 || time.Since(toldAt) >= s.Idle {
			if !yield(b, nil) {
				return nil
			}
			toldAt = time.Now()
		}
		if more {
			continue
		}
		if _, err := awaitNews(ctx, changed, s.Idle); err != nil {
			return err
		}
	}
}

// subscription is one subscription to a zone's events. All it holds is where it is.
type subscription struct {
	Options

	want nexusraft.Subscription

	next   uint64    // to be read
	told   uint64    // next, as the subscriber knows it
	toldAt time.Time // when it was told
}

func (x *subscription) serve(ctx context.Context, yield func(nexusraft.EventBatch, error) bool) error {
	if err := x.begin(ctx); err != nil {
		return err
	}
	x.told, x.toldAt = x.next, time.Now()
	if !yield(nexusraft.EventBatch{Next: x.next}, nil) {
		return nil
	}
	for {
		changed, err := x.Source.Changed(x.want.Zone) // before anything is looked at, so that nothing falls in between
		if err != nil {
			return err
		}
		events, more, err := x.read(ctx)
		if err != nil {
			return err
		}
		idle := false
		if len(events) == 0 && !more {
			if idle, err = x.wait(ctx, changed); err != nil {
				return err
			}
		}
		if len(events) > 0 || x.next-x.told >= batchScanned || idle || time.Since(x.toldAt) >= x.Idle {
			x.told, x.toldAt = x.next, time.Now()
			if !yield(nexusraft.EventBatch{Events: events, Next: x.next}, nil) {
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
func (x *subscription) wait(ctx context.Context, changed <-chan struct{}) (idle bool, err error) {
	idle, err = awaitNews(ctx, changed, min(x.Idle, idleTimeouts*x.ElectionTimeout))
	if idle {
		err = x.confirm(ctx)
	}
	return idle, err
}

// awaitNews waits until changed is closed. It returns true if that does not happen for d, and an
// error if ctx ends.
func awaitNews(ctx context.Context, changed <-chan struct{}, d time.Duration) (idle bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-timer.C:
		return true, nil
	}
}

// confirm returns once this replica has all that was committed before.
func (x *subscription) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeouts*x.ElectionTimeout)
	defer cancel()
	return x.Source.Confirm(ctx, x.want.Zone)
}

// begin settles where to begin. A subscriber that comes from another member may be ahead of
// this one, which first has to catch up.
func (x *subscription) begin(ctx context.Context) error {
	l, err := x.log()
	if err == nil && x.want.From > l.Next {
		if err = x.confirm(ctx); err == nil {
			l, err = x.log()
		}
	}
	if err != nil {
		return err
	}
	if x.next = x.want.From; x.next == 0 {
		x.next = l.Next
	}
	return l.Check(x.next)
}

func (x *subscription) log() (l system.EventLog, err error) {
	err = x.Source.ReadSystemLocal(x.want.Zone, func(r nexusraft.Reader) error {
		l, err = system.LoadEventLog(r)
		return err
	})
	return l, err
}

// read returns the events that are wanted from x.next on, as many as a batch takes, and
// moves x.next beyond them. More is whether there are others to look at.
func (x *subscription) read(ctx context.Context) (events []nexusraft.Event, more bool, err error) {
	events, more, err = x.readWithin(batchBytes)
	large, ok := errors.AsType[*largeEvent](err)
	if !ok {
		return events, more, err
	}
	if err := budget.Reserve(ctx, 2*int64(large.bytes)); err != nil { // as it is, and encoded
		return nil, false, fmt.Errorf("%w: %w", nexusraft.ErrOverloaded, err)
	}
	return x.readWithin(large.bytes)
}

// largeEvent is why a batch can't be read: the first event is larger than that.
type largeEvent struct{ bytes int }

// Error implements error.
func (e *largeEvent) Error() string { return fmt.Sprintf("an event of %d bytes", e.bytes) }

func (x *subscription) readWithin(bytes int) (events []nexusraft.Event, more bool, err error) {
	err = x.Source.ReadSystemLocal(x.want.Zone, func(r nexusraft.Reader) error {
		l, err := system.LoadEventLog(r)
		if err == nil {
			err = l.Check(x.next)
		}
		if err != nil || x.next == l.Next {
			return err
		}
		events, err = x.scan(r, l.Next, bytes)
		more = x.next < l.Next
		return err
	})
	return events, more, err
}

// scan reads events up to end that have so many bytes at most. It returns a largeEvent if the first
// one has more.
func (x *subscription) scan(r nexusraft.Reader, end uint64, bytes int) (events []nexusraft.Event, err error) {
	size, first := 0, x.next
	for p, err := range r.Scan(system.EventKey(x.next), system.EventKey(end)) {
		if err != nil {
			return nil, fmt.Errorf("read event %d: %w", x.next, err)
		}
		e, err := system.DecodeEvent(p.Value)
		if err != nil || string(p.Key) != string(system.EventKey(x.next)) {
			return nil, fmt.Errorf("read event %d of zone %v: %w", x.next, x.want.Zone, errors.Join(nexusraft.ErrCorrupt, err))
		}
		if x.want.WantsTopic(e.Topic) {
			if e, err = x.Source.Expand(x.want.Zone, r, e); err != nil {
				return nil, fmt.Errorf("expand event %d of zone %v: %w", x.next, x.want.Zone, err)
			}
		}
		if e.Topic == system.TopicGap || x.want.Wants(e.Topic, e.Type) {
			switch size += max(len(p.Value), len(e.Topic)+len(e.Type)+len(e.Payload)); {
			case size > bytes && len(events) == 0:
				return nil, &largeEvent{size}
			case size > bytes:
				return events, nil
			}
			events = append(events, sent(e, x.want.Zone, x.next))
		}
		x.next++
		if len(events) >= batchEvents || x.next-first >= batchScanned {
			return events, nil
		}
	}
	if x.next < end {
		return nil, fmt.Errorf("%w: event %d of zone %v is missing", nexusraft.ErrCorrupt, x.next, x.want.Zone)
	}
	return events, nil
}

// sent is an event as subscribers get it; it shares nothing with what was read.
func sent(e system.Event, zone nexusraft.ZoneID, sequence uint64) nexusraft.Event {
	return nexusraft.Event{
		Sequence: sequence, Topic: e.Topic, Type: e.Type, Payload: append([]byte(nil), e.Payload...),
		Time: time.Unix(0, e.Time).UTC(), Zone: zone,
	}
}
