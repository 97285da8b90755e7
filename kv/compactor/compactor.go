package compactor

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// How much is done at once, and when. Everybody's writes wait for a sweep that is applied: 512 changes take some
// milliseconds.
const (
	sweepChanges = 512
	many         = 1000 // unswept revisions that are swept at once, though writes sweep, too
	fewWait      = 250 * time.Millisecond
	proposalTime = 5 * time.Second
	leastRest    = 10 * time.Millisecond // after a sweep; it is three times what the sweep took
	mostRest     = time.Second
	leastRetry   = time.Second // after a failure; it doubles with each one
	mostRetry    = time.Minute
)

// zone is a zone that this node leads, in a term of that.
type zone interface {
	ID() nexusraft.ZoneID
	Version() uint32 // of its state machine

	// Read runs fn over the state as this node has it.
	Read(ctx context.Context, fn func(nexusraft.Reader) error) error

	// Propose runs a command in the term or, with nexusraft.ErrNotLeader, not at all.
	Propose(ctx context.Context, command []byte) (nexusraft.Result, error)
}

// compactor is the loop, which alone touches it.
type compactor struct {
	policy policy
	logger *slog.Logger
	now    func() time.Time

	zones map[nexusraft.ZoneID]*tended
	turns turns
	count uint64    // of turns that were given, so that those of one time come in order
	rest  time.Time // nothing is proposed before
}

// tended is a zone that has something to compact or to sweep, or may have; also one that another node leads now, which
// has no turns.
type tended struct {
	zone  zone
	due   time.Time // of its next turn
	order uint64
	place int // in turns; -1: it has none

	unsweptSince time.Time // zero: nothing was left to sweep at its last turn
	history      history
	failures     int // in a row
}

func newCompactor(p policy, logger *slog.Logger) *compactor {
	return &compactor{policy: p, logger: logger, now: time.Now, zones: make(map[nexusraft.ZoneID]*tended)}
}

// run goes on until ctx ends or changed is closed, which brings zones that have applied something.
func (c *compactor) run(ctx context.Context, changed <-chan []zone) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if due, any := c.next(); any {
			timer.Reset(due.Sub(c.now()))
		}
		select {
		case zones, ok := <-changed:
			if !ok {
				return
			}
			for _, z := range zones {
				c.hear(z)
			}
		case <-timer.C:
			c.turn(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// next returns when the next turn is due, if any is.
func (c *compactor) next() (due time.Time, any bool) {
	if len(c.turns) == 0 {
		return due, false
	}
	if due = c.turns[0].due; due.Before(c.rest) {
		due = c.rest
	}
	return due, true
}

// hear notes that a zone has applied something. It gets a turn at once, unless it has failed lately.
func (c *compactor) hear(z zone) {
	t := c.zones[z.ID()]
	switch {
	case t == nil:
		t = &tended{zone: z, place: -1}
		c.zones[z.ID()] = t
		c.give(t, c.now())
	case t.place < 0, t.failures == 0 && t.due.After(c.now()):
		t.zone = z
		c.give(t, c.now())
	default:
		t.zone = z
	}
}

// give gives a zone its next turn.
func (c *compactor) give(t *tended, due time.Time) {
	c.count++
	t.due, t.order = due, c.count
	if t.place < 0 {
		heap.Push(&c.turns, t)
		return
	}
	heap.Fix(&c.turns, t.place)
}

// forget ends the turns of a zone, until it is heard of again.
func (c *compactor) forget(t *tended) {
	heap.Remove(&c.turns, t.place)
	delete(c.zones, t.zone.ID())
}

// turn is one turn of the zone that has waited longest: it proposes one command at most.
func (c *compactor) turn(ctx context.Context) {
	due, any := c.next()
	if !any || due.After(c.now()) {
		return
	}
	t := c.turns[0]
	var p kv.Standing
	err := t.zone.Read(ctx, func(r nexusraft.Reader) (err error) {
		p, err = kv.StandingOf(r)
		return err
	})
	var next time.Time
	if err == nil {
		next, err = c.do(ctx, t, p)
	}
	switch {
	case errors.Is(err, nexusraft.ErrNotLeader):
		heap.Remove(&c.turns, t.place) // what is known of its past is true when this node leads it again
	case errors.Is(err, nexusraft.ErrZoneNotFound), errors.Is(err, nexusraft.ErrClosed),
		errors.Is(err, nexusraft.ErrCorrupt):
		c.forget(t) // it is nobody's
	case ctx.Err() != nil:
	case err != nil:
		c.failed(t, err)
	case next.IsZero():
		c.forget(t)
	default:
		t.failures = 0
		c.give(t, next)
	}
}

// failed gives a zone its next turn after a pause.
func (c *compactor) failed(t *tended, err error) {
	if t.failures == 0 {
		c.logger.Warn("history not compacted yet, it is tried again", "zone", t.zone.ID(), "err", err)
	}
	pause := leastRetry << min(t.failures, 10)
	t.failures++
	c.give(t, c.now().Add(min(pause, mostRetry)))
}

// do does what is due of a zone that is so far, and returns when the next turn is due; the zero time: there is
// nothing to do until something happens.
func (c *compactor) do(ctx context.Context, t *tended, p kv.Standing) (next time.Time, err error) {
	if t.zone.Version() < kv.VersionHistory {
		return next, nil // it has no history
	}
	target, next := c.policy.look(&t.history, c.now(), p.Newest, p.Compacted)
	if target > 0 {
		return c.now(), c.compact(ctx, t, target)
	}
	if !p.Left() {
		t.unsweptSince = time.Time{}
		return next, nil
	}
	if t.unsweptSince.IsZero() {
		t.unsweptSince = c.now()
	}
	due := t.unsweptSince.Add(fewWait)
	if p.Moving || p.Unswept > many || !due.After(c.now()) {
		return c.now(), c.sweep(ctx, t)
	}
	return earlier(due, next), nil
}

// compact proposes a compaction.
func (c *compactor) compact(ctx context.Context, t *tended, rev int64) error {
	command, err := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	if err != nil {
		return err
	}
	err = propose(ctx, t.zone, command)
	if errors.Is(err, kv.ErrCompacted) {
		return nil // somebody else has
	}
	if err == nil {
		c.logger.Info("history compacted", "zone", t.zone.ID(), "revision", rev)
	}
	return err
}

// sweep proposes a sweep, and then rests.
func (c *compactor) sweep(ctx context.Context, t *tended) error {
	began := c.now()
	err := propose(ctx, t.zone, kv.EncodeSweep(sweepChanges))
	ended := c.now()
	c.rest = ended.Add(min(max(3*ended.Sub(began), leastRest), mostRest))
	return err
}

// propose runs a command, and returns what it was refused for.
func propose(ctx context.Context, z zone, command []byte) error {
	ctx, cancel := context.WithTimeout(ctx, proposalTime)
	defer cancel()
	r, err := z.Propose(ctx, command)
	if err != nil {
		return err
	}
	_, err = kv.DecodeCompactResult(r.Data)
	return err
}

// earlier returns the earlier of two times, of which the zero one is never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// turns are the zones in the order of their turns: a heap.
type turns []*tended

func (h turns) Len() int { return len(h) }

func (h turns) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].order < h[j].order
}

func (h turns) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *turns) Push(x any) {
	t := x.(*tended)
	t.place = len(*h)
	*h = append(*h, t)
}

func (h *turns) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	t.place = -1
	return t
}
