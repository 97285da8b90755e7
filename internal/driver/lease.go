package driver

import (
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// LeaseConfig says for how long a leader may read alone; the zero value: it may not.
type LeaseConfig struct {
	// Length is how long a quorum's answer is good for, from when it was asked for, by Clock.
	Length time.Duration

	// Clock is the machine's, with its monotonic reading.
	Clock func() time.Time

	// Keeps reports whether a node's program keeps the promise of a voter; see internal/zone, promise.go.
	Keeps func(nexusraft.NodeID) bool
}

// LeaseLength is the longest lease under which a leader's reads are linearizable, if of the clocks of two nodes
// none gains more than a part, drift, on the other; 0 if the election timeout is too short for any.
//
// A voter keeps its promise for an election timeout in ticks. The first one may have been taken before the message
// that it counts from, and counts at once after it; the second one is kept by the ticker for a worker that is busy,
// and the third one may come soon after that. So it is three ticks less in time.
func LeaseLength(electionTicks int, tick time.Duration, drift float64) time.Duration {
	return time.Duration(float64(max(0, electionTicks-3)) * float64(tick) / (1 + drift))
}

// Lease says whether a replica may serve reads alone: it leads, and a quorum has answered a question for a
// read so lately that none of it helps to elect another leader yet. Any goroutine may ask, without waiting for
// the group's.
//
// A read is linearizable if it asks, in this order: Index; for a state that has the entries up to there;
// whether the lease Holds. Then nobody led after this replica when the read came, so that every write that was
// acknowledged by then is in the state. So is what anybody had read: an entry is shown elsewhere once
// this replica has told of its commit, and Index is not below that. A pause before Holds ends the lease; one
// after it does not matter.
//
// The lease counts from before the question leaves, not from its answer. It ends before anything leaves that
// could help to elect another leader: this replica's own vote, or its order to stand for election. It ends with
// each change of the zone's replicas, since a quorum of the next but one need not have part in the one
// that has answered.
type Lease struct {
	c LeaseConfig

	asked atomic.Pointer[time.Time] // when the question left that a quorum has answered; nil: there is no lease
	told  atomic.Uint64             // an index that is not below any commit that this replica has told of
	used  atomic.Bool               // since the last tick

	// The group's goroutine alone looks at these.
	epoch int         // the answer to a question of an earlier one is worth nothing
	kept  func() bool // each voter is known to keep its promise
}

// leaseQuestion is what a question for a read is worth once it is answered.
type leaseQuestion struct {
	epoch int
	at    time.Time
}

func newLease(c LeaseConfig) *Lease { return &Lease{c: c, epoch: 1} }

// Index returns which entry a state has to include; false: there is no lease.
func (l *Lease) Index() (nexusraft.Index, bool) {
	if !l.Holds() {
		return 0, false
	}
	l.used.Store(true)
	return nexusraft.Index(l.told.Load()), true
}

// Holds reports whether the lease lasts.
func (l *Lease) Holds() bool {
	asked := l.asked.Load() // before the clock is read
	return asked != nil && elapsed(*asked, l.c.Clock()) < l.c.Length
}

// ask returns what is to be kept of a question that is about to leave.
func (l *Lease) ask() (q leaseQuestion) {
	if l.c.Length > 0 {
		q = leaseQuestion{l.epoch, l.c.Clock()}
	}
	return q
}

// grant gives the lease for the answer to a question, if it is worth one.
func (l *Lease) grant(q leaseQuestion) {
	if q.epoch != l.epoch || !l.kept() {
		return
	}
	if old := l.asked.Load(); old == nil || q.at.After(*old) {
		l.asked.Store(&q.at)
	}
}

// end takes the lease, and those that questions under way would bring.
func (l *Lease) end() {
	l.epoch++
	l.asked.Store(nil)
}

// Lease says whether the replica may serve reads alone; it may be asked at any time.
func (g *Group) Lease() *Lease { return g.reads.lease }

// followLease ends the lease before a round shows the world why, and notes what the round tells of commits.
func (g *Group) followLease() {
	if g.reads.lease.c.Length == 0 {
		return
	}
	if !g.replica.MayLease() {
		g.reads.lease.end()
	}
	if n := len(g.round.work.Committed); n > 0 {
		g.reads.lease.told.Store(uint64(g.round.work.Committed[n-1].Index))
	}
}

// renewLease asks anew while there are reads by the lease, so that none of them has to wait.
func (g *Group) renewLease() {
	if g.reads.lease.used.Swap(false) && g.replica.MayLease() {
		g.reads.add(renewal{}, time.Time{})
	}
}

// renewal is a read that nobody waits for.
type renewal struct{}

// Serve implements Read.
func (renewal) Serve(error) {}

// Gone implements Read.
func (renewal) Gone() bool { return false }
