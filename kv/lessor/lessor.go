package lessor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Options of a Lessor. The zero value is the documented default.
type Options struct {
	Logger *slog.Logger // discards by default
}

// Lessor is one node's. Its methods may be called from many goroutines.
type Lessor struct {
	logger *slog.Logger

	mu      sync.Mutex      // guards what follows
	host    host            // nil before Run
	ctx     context.Context // of Run, for what others start
	ended   bool            // Run has returned, or is about to
	clock   clock
	zones   map[nexusraft.ZoneID]*led
	again   map[nexusraft.ZoneID]zone // to be looked at again, because that has failed
	loaded  chan struct{}             // closed when a zone was loaded
	jobs    int                       // expiries of zones that are under way
	gather  map[nexusraft.ZoneID]*gathering
	waiting int // renewals that wait to be asked for, or for their answer

	running sync.WaitGroup // what has been started
}

// host is the node that a lessor is of.
type host interface {
	// ElectionTimeout is node.Node.ElectionTimeout.
	ElectionTimeout() time.Duration

	// AskLeader is node.Node.AskLeader.
	AskLeader(ctx context.Context, zone nexusraft.ZoneID, question []byte) (answer []byte, err error)

	// AwaitWorkers is node.Node.AwaitWorkers.
	AwaitWorkers(ctx context.Context) error

	// ProposeAt is node.Zone.ProposeOnce.
	ProposeAt(ctx context.Context, zone nexusraft.ZoneID, command []byte) (nexusraft.Result, error)
}

// zone is a zone in a term in which this node leads it: node.LedZone.
type zone interface {
	ID() nexusraft.ZoneID
	Term() nexusraft.Term

	// Read runs fn over a state that has all that was acknowledged, after a quorum has confirmed that this node leads in
	// the term; or nexusraft.ErrNotLeader.
	Read(ctx context.Context, fn func(nexusraft.Reader) error) error

	// ReadLocal runs fn over the state as this node has it.
	ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error

	// Propose runs a command in the term or, with nexusraft.ErrNotLeader, not at all.
	Propose(ctx context.Context, command []byte) (nexusraft.Result, error)
}

// led is a zone that this node leads in a term, or has led. What is not fixed is guarded by Lessor.mu.
type led struct {
	zone    zone
	leases  deadlines
	over    bool          // it is forgotten, and another one may have its place
	begun   int64         // expiries so far
	expires bool          // one is under way
	pauses  time.Duration // no expiry before
	notes   bool          // a checkpoint is under way
	noted   time.Duration // when the last one began
	settled chan struct{} // closed when a command about a lease has ended, or the zone is over; nil: nobody waits
}

// New returns a lessor, whose Answer goes to node.Config.Answer; Run follows.
func New(o Options) *Lessor {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	return &Lessor{
		logger: o.Logger,
		clock:  clock{elapsed: func() time.Duration { return time.Since(began) }},
		zones:  make(map[nexusraft.ZoneID]*led),
		again:  make(map[nexusraft.ZoneID]zone),
		loaded: make(chan struct{}),
		gather: make(map[nexusraft.ZoneID]*gathering),
	}
}

// mostTick is the longest time between two ticks, in which leases that have run out are looked for.
const mostTick = 250 * time.Millisecond

// tickOf is the time between two ticks.
func tickOf(election time.Duration) time.Duration { return min(election/2, mostTick) }

// run goes on until ctx ends or changed is closed, which brings zones that this node leads and that have applied
// something.
func (l *Lessor) run(ctx context.Context, h host, changed <-chan []zone) {
	ctx, cancel := context.WithCancel(ctx)
	tick := l.begin(ctx, h)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	defer l.end(cancel)
	for {
		select {
		case zones, ok := <-changed:
			if !ok {
				return
			}
			for _, z := range zones {
				l.look(ctx, z)
			}
		case <-ticker.C:
			l.tick(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (l *Lessor) begin(ctx context.Context, h host) (tick time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tick = tickOf(h.ElectionTimeout())
	l.host, l.ctx = h, ctx
	l.clock.most, l.clock.step = h.ElectionTimeout(), tick
	l.clock.last = l.clock.elapsed()
	return tick
}

// end forgets all zones, and waits for what was started.
func (l *Lessor) end(cancel context.CancelFunc) {
	cancel()
	l.mu.Lock()
	l.ended = true
	for _, x := range l.zones {
		l.forget(x)
	}
	l.mu.Unlock()
	l.endRenewals()
	l.running.Wait()
}

// tick is one turn of the loop: it goes on while the node's workers do.
func (l *Lessor) tick(ctx context.Context) {
	if l.any() {
		if err := l.host.AwaitWorkers(ctx); err != nil {
			return // overloaded, or the end: this tick does not count
		}
	}
	l.mu.Lock()
	again := l.again
	l.again = make(map[nexusraft.ZoneID]zone)
	l.clock.tick()
	l.mu.Unlock()
	for _, z := range again {
		l.look(ctx, z)
	}
	l.expire(ctx)
	l.note(ctx)
}

// any reports whether any lease is known.
func (l *Lessor) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.zones {
		if len(x.leases.byID) > 0 {
			return true
		}
	}
	return false
}

// look reads what is new in a zone that this node leads, all of it in a new term.
func (l *Lessor) look(ctx context.Context, z zone) {
	l.mu.Lock()
	x := l.zones[z.ID()]
	delete(l.again, z.ID())
	l.mu.Unlock()
	if x != nil && x.zone.Term() > z.Term() {
		return // of before
	}
	var err error
	if x == nil || x.zone.Term() != z.Term() {
		err = l.lead(ctx, z)
	} else {
		err = l.follow(ctx, x)
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case isOver(err):
		l.lost(x)
	default:
		l.logger.Warn("leases not read yet, it is tried again", "zone", z.ID(), "err", err)
		l.mu.Lock()
		l.again[z.ID()] = z
		l.mu.Unlock()
	}
}

// lead begins a new leadership: it reads all leases.
func (l *Lessor) lead(ctx context.Context, z zone) error {
	x := &led{zone: z, leases: newDeadlines()}
	var all []kv.Lease
	err := z.ReadLocal(ctx, func(r nexusraft.Reader) error {
		counts, err := kv.LeaseStanding(r)
		if err != nil {
			return err
		}
		x.leases.generation = counts.Generation
		return kv.Leases(r, func(l kv.Lease) error {
			all = append(all, l)
			return nil
		})
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.now()
	for _, lease := range all {
		x.leases.load(lease, now, l.clock.most)
	}
	x.leases.spread()
	x.noted = now
	if old := l.zones[z.ID()]; old != nil {
		l.forget(old)
	}
	l.zones[z.ID()] = x
	close(l.loaded)
	l.loaded = make(chan struct{})
	return nil
}

// follow reads the leases that are new since the last look.
func (l *Lessor) follow(ctx context.Context, x *led) error {
	since := x.leases.generation // the loop alone changes it
	var counts kv.LeaseCounts
	var news []kv.Lease
	err := x.zone.ReadLocal(ctx, func(r nexusraft.Reader) (err error) {
		if counts, err = kv.LeaseStanding(r); err != nil || counts.Generation <= since {
			return err
		}
		return kv.LeasesSince(r, since, func(l kv.Lease) error {
			news = append(news, l)
			return nil
		})
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	now := l.clock.now()
	for _, lease := range news {
		x.leases.hear(lease, now)
	}
	x.leases.generation = counts.Generation
	many := x.leases.tooMany(counts)
	l.mu.Unlock()
	if many {
		return l.clear(ctx, x)
	}
	return nil
}

// clear forgets leases that the state does not have any more.
func (l *Lessor) clear(ctx context.Context, x *led) error {
	has := make(map[int64]struct{})
	var counts kv.LeaseCounts
	err := x.zone.ReadLocal(ctx, func(r nexusraft.Reader) (err error) {
		if counts, err = kv.LeaseStanding(r); err != nil {
			return err
		}
		return kv.Leases(r, func(l kv.Lease) error {
			has[l.ID] = struct{}{}
			return nil
		})
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x.leases.keep(has, counts.Generation)
	return nil
}

// isOver reports whether an error means that this node does not lead the zone in the term any more.
func isOver(err error) bool {
	return errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrZoneNotFound) ||
		errors.Is(err, nexusraft.ErrClosed) || errors.Is(err, nexusraft.ErrCorrupt)
}

// lost forgets a zone that this node leads no more; nil is none.
func (l *Lessor) lost(x *led) {
	if x == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(x)
}

// forget is lost while mu is held.
func (l *Lessor) forget(x *led) {
	x.over = true
	x.wake()
	if l.zones[x.zone.ID()] == x {
		delete(l.zones, x.zone.ID())
	}
}

// wake wakes those that wait for the end of a command; mu is held.
func (x *led) wake() {
	if x.settled != nil {
		close(x.settled)
		x.settled = nil
	}
}

// wait returns what the next wake closes; mu is held.
func (x *led) wait() <-chan struct{} {
	if x.settled == nil {
		x.settled = make(chan struct{})
	}
	return x.settled
}

// loadTime is how long it may take until the lessor knows that this node leads a zone.
const loadTime = 500 * time.Millisecond

func errNotLed(id nexusraft.ZoneID) error { return &nexusraft.NotLeaderError{Zone: id} }

// find returns a zone that this node leads. A node that has just begun to lead one knows that in a moment.
func (l *Lessor) find(ctx context.Context, id nexusraft.ZoneID) (*led, error) {
	patience := time.NewTimer(loadTime)
	defer patience.Stop()
	for {
		l.mu.Lock()
		x, loaded, ended := l.zones[id], l.loaded, l.ended
		l.mu.Unlock()
		switch {
		case ended:
			return nil, errEnded()
		case x != nil:
			return x, nil
		}
		select {
		case <-loaded:
		case <-patience.C:
			return nil, errNotLed(id)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
		}
	}
}

func errEnded() error { return fmt.Errorf("%w: the lessor has ended", nexusraft.ErrClosed) }
