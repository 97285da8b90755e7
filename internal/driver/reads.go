package driver

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// readContexts makes the contexts of ReadIndex requests: unique in the zone for all time,
// so that no answer to another process is taken for one of ours.
type readContexts struct {
	replica     nexusraft.ReplicaID
	incarnation nexusraft.Incarnation
	sequence    uint64
}

func (c *readContexts) next() []byte {
	c.sequence++
	b := binary.BigEndian.AppendUint64(nil, uint64(c.replica))
	b = binary.BigEndian.AppendUint64(b, uint64(c.incarnation))
	return binary.BigEndian.AppendUint64(b, c.sequence)
}

// reads are the linearizable reads of one zone. Reads that come together share one question to
// the leader, at most one in each tick, so that any number of them costs one round.
//
// Questions get lost, with a leader or on the way, and raft says nothing. So a new one is asked
// after a while, and the older ones stay good: how long an answer takes is not known here, and
// to discard it would be to wait for ever where it takes longer than that. The answer to a
// question is good for the reads of all older ones, too: they waited already when it was asked.
type reads struct {
	contexts readContexts
	limit    int        // ticks for which a read waits for a leader
	leader   leadership // as of the last round
	last     leadership // the last one that was known, which the questions under way went to
	lost     int        // the tick at which no leader was known any more
	now      int        // ticks

	waiting []waitingRead // for the next question
	asked   []question    // under way, oldest first, at most maxQuestions
	retryAt int           // the tick at which the next question is due, if none is answered
	retry   int           // ticks until the one after that; (0, maxReadRetryTicks]
	indexed []indexedRead // of confirmed reads and of ReadAt, above the applied index; served once theirs is

	fresh *Freshness
	lease *Lease
}

// leadership is one leader in one term; its zero value is none.
type leadership struct {
	leader nexusraft.ReplicaID
	term   nexusraft.Term
}

type question struct {
	context []byte
	at      int // the tick of the question
	reads   []waitingRead
	lease   leaseQuestion
}

type indexedRead struct {
	index     nexusraft.Index
	confirmed bool // by the leader, after the reads came
	reads     []waitingRead
	lease     leaseQuestion // of the question that was answered
}

// Read is one call that waits.
type Read interface {
	// Serve is called once, by the group's goroutine: with nil, once the state includes everything
	// that was acknowledged before the read came, or with the error that ends it.
	Serve(error)

	// Gone reports whether nobody waits any more. Serve may be called all the same.
	Gone() bool
}

// waitingRead is a read, the tick at which it came, and the time.
type waitingRead struct {
	Read
	since int
	asked time.Time
}

// Read takes in a linearizable read, which came at a time that is not after now. The leader of that time
// confirms it; without a leader it ends after a while, by ErrNoQuorum.
func (g *Group) Read(x Read, asked time.Time) {
	g.replica.Stir()
	g.reads.add(x, asked)
}

// ReadAt takes in a read that is to be served once the entry at an index is applied. Nothing ends it
// before, but that it is gone, which ticks find: the zone does not sleep meanwhile.
func (g *Group) ReadAt(x Read, index nexusraft.Index) {
	g.replica.Stir()
	g.reads.addAt(x, index)
}

// Freshness says how new the state is; it may be asked at any time.
func (g *Group) Freshness() *Freshness { return g.reads.fresh }

// Reads returns how many reads wait.
func (g *Group) Reads() int {
	n := len(g.reads.waiting) + len(g.reads.pending())
	for _, x := range g.reads.indexed {
		n += len(x.reads)
	}
	return n
}

// Leaderless returns ErrNoQuorum where no leader has been known for as long as a read waits for
// one.
func (g *Group) Leaderless() error { return g.reads.leaderless() }

func newReads(c Config) reads {
	r := reads{
		contexts: readContexts{replica: c.Replica, incarnation: c.Incarnation}, limit: c.ReadTicks, retry: readRetryTicks,
		fresh: new(Freshness), lease: newLease(c.Lease),
	}
	r.fresh.applied.Store(uint64(c.Applied))
	return r
}

const (
	// The first question is repeated after readRetryTicks, later ones after twice as long each
	// time, and after maxReadRetryTicks at most.
	readRetryTicks    = 4
	maxReadRetryTicks = 32

	// Questions under way. The last place is for a repetition alone: it takes the place of the one
	// before, and the older ones keep theirs until they are answered.
	maxQuestions = 16
)

// add puts a read into line.
func (r *reads) add(x Read, asked time.Time) {
	r.waiting = append(r.waiting, waitingRead{x, r.now, asked})
}

// addAt serves a read, or has it wait for its index.
func (r *reads) addAt(x Read, index nexusraft.Index) {
	if r.fresh.Has(index) {
		x.Serve(nil)
		return
	}
	r.indexed = append(r.indexed, indexedRead{index: index, reads: []waitingRead{{Read: x}}})
}

// follow notes who leads the zone. Another leadership knows nothing of what the last one was
// asked, so it is asked at once.
func (r *reads) follow(l leadership) {
	if l.leader == 0 {
		l = leadership{}
	}
	if l == r.leader {
		return
	}
	r.leader = l
	r.retry, r.retryAt = readRetryTicks, r.now
	switch {
	case l.leader == 0:
		r.lost = r.now
	case l != r.last:
		r.last = l
		r.waiting = append(r.pending(), r.waiting...)
		r.asked = nil
	}
}

// wait reports whether any read waits.
func (r *reads) wait() bool { return len(r.waiting)+len(r.asked)+len(r.indexed) > 0 }

// pending returns the reads whose questions are under way.
func (r *reads) pending() (out []waitingRead) {
	for _, q := range r.asked {
		out = append(out, q.reads...)
	}
	return out
}

// due reports whether there is a question to ask.
func (r *reads) due() bool {
	switch {
	case r.leader.leader == 0 || len(r.waiting)+len(r.asked) == 0:
		return false
	case len(r.asked) == 0 || r.now >= r.retryAt:
		return true
	}
	return len(r.waiting) > 0 && len(r.asked) < maxQuestions-1 && r.asked[len(r.asked)-1].at < r.now
}

// request returns the context of a new question, if one is due.
func (r *reads) request() ([]byte, bool) {
	if !r.due() {
		return nil, false
	}
	q := question{r.contexts.next(), r.now, r.waiting, r.lease.ask()}
	r.waiting = nil
	if last := len(r.asked) - 1; len(r.asked) == maxQuestions {
		q.reads = append(r.asked[last].reads, q.reads...)
		r.asked = r.asked[:last]
	}
	r.asked = append(r.asked, q)
	r.retryAt = r.now + r.retry
	r.retry = min(2*r.retry, maxReadRetryTicks)
	return q.context, true
}

// tick forgets the reads that nobody waits for any more, and ends those that have waited for a
// leader for too long: another member may know one.
func (r *reads) tick() {
	r.now++
	abandoned := func(x waitingRead) bool { return x.Gone() }
	r.waiting = slices.DeleteFunc(r.waiting, abandoned)
	for i := range r.asked {
		r.asked[i].reads = slices.DeleteFunc(r.asked[i].reads, abandoned)
	}
	r.indexed = slices.DeleteFunc(r.indexed, func(x indexedRead) bool {
		return !slices.ContainsFunc(x.reads, func(x waitingRead) bool { return !x.Gone() })
	})
	if r.leader.leader == 0 {
		r.expire()
	}
	if !slices.ContainsFunc(r.asked, func(q question) bool { return len(q.reads) > 0 }) {
		r.asked, r.retry = nil, readRetryTicks
	}
}

// leaderless returns ErrNoQuorum where no leader has been known for as long as limit.
func (r *reads) leaderless() error {
	if r.leader.leader != 0 || r.now-r.lost < r.limit {
		return nil
	}
	return fmt.Errorf("%w: no leader is known", nexusraft.ErrNoQuorum)
}

// expire ends the reads that have waited for as long as limit since there was a leader.
func (r *reads) expire() {
	err := fmt.Errorf("%w: no leader is known", nexusraft.ErrNoQuorum)
	late := func(x waitingRead) bool {
		if r.now-max(x.since, r.lost) < r.limit {
			return false
		}
		x.Serve(err)
		return true
	}
	r.waiting = slices.DeleteFunc(r.waiting, late)
	for i := range r.asked {
		r.asked[i].reads = slices.DeleteFunc(r.asked[i].reads, late)
	}
}

// confirmed takes the answer to a question. One to a question that is not under way is late.
func (r *reads) confirmed(c zone.Read) {
	i := slices.IndexFunc(r.asked, func(q question) bool { return bytes.Equal(q.context, c.Context) })
	if i < 0 {
		return
	}
	for _, q := range r.asked[:i+1] {
		r.indexed = append(r.indexed, indexedRead{index: c.Index, confirmed: true, reads: q.reads})
	}
	r.indexed[len(r.indexed)-1].lease = r.asked[i].lease
	r.asked = slices.Delete(r.asked, 0, i+1)
	r.retry = readRetryTicks
}

// serve lets the reads go whose index is applied.
func (r *reads) serve(applied nexusraft.Index) {
	r.fresh.applied.Store(uint64(applied))
	keep := r.indexed[:0]
	for _, x := range r.indexed {
		if x.index > applied {
			keep = append(keep, x)
			continue
		}
		r.lease.grant(x.lease)
		for _, c := range x.reads {
			if x.confirmed {
				r.fresh.served(c.asked)
			}
			c.Serve(nil)
		}
	}
	clear(r.indexed[len(keep):])
	r.indexed = keep
}

// fail ends every read.
func (r *reads) fail(err error) {
	all := append(r.pending(), r.waiting...)
	for _, x := range r.indexed {
		all = append(all, x.reads...)
	}
	for _, c := range all {
		c.Serve(err)
	}
	r.waiting, r.asked, r.indexed = nil, nil, nil
}

func (r *reads) valid(applied nexusraft.Index) error {
	switch {
	case len(r.asked) > maxQuestions:
		return fmt.Errorf("%d questions are under way", len(r.asked))
	case !slices.IsSortedFunc(r.asked, func(a, b question) int { return cmp.Compare(a.at, b.at) }):
		return errors.New("the questions under way are not in their order")
	case r.retry < 1 || r.retry > maxReadRetryTicks:
		return fmt.Errorf("a question is repeated after %d ticks", r.retry)
	}
	for _, x := range r.indexed {
		if x.index <= applied {
			return fmt.Errorf("reads wait for index %d, applied is %d", x.index, applied)
		}
	}
	return nil
}
