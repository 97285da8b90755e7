package zone

import (
	"maps"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// gate is the hold-back gate of a leader: it decides how far the witnesses may see the log.
//
// # The problem
//
// With two members and a witness, any two of the three commit an entry. If the witness
// acknowledges an entry that the follower does not have, and the leader dies, then the
// follower's log is behind the witness's and the witness must refuse it its vote: no
// leader can be elected, although two of three are alive. Under load the witness, which
// writes less and sits on an idle disk, is ahead of the follower all the time.
//
// # The rule
//
// While both members are healthy, a witness gets an entry only after both have it. Then
// a follower is never behind a witness, every acknowledged write is on both disks, and the
// witness is off the path of a write. When a member falls out, the witness gets everything
// at once, and the zone goes on with the leader's copy alone.
//
// Terms used below, for one leader and one term of its:
//
//	R      the quorum-th highest index among the full voters' durable ones, the leader's
//	       own included; the quorum is that of all voters. In a joint configuration the
//	       lower of both halves. With fewer full voters than the quorum R doesn't exist.
//	floor  the highest index that a witness may hold of what this leader sent. It begins at
//	       the empty entry that opens the term: a member that holds an entry of this term
//	       is ahead of whatever a witness still has from an older one.
//
//	degraded  everything goes to the witness at once; floor follows. A leader begins here.
//	closing   the full voters that R needs are replicating and close. Nothing beyond floor
//	          is released, so R reaches it. If it does not within the hold time, release:
//	          degraded, and back off before the next try.
//	in sync   R >= floor. Appends to the witness beyond R are held. If an entry is older
//	          than the hold time and R has not reached it, release: degraded. Progress
//	          counts and not liveness: a follower with a stalled disk answers heartbeats.
//
// Invariant (checked by the simulation after each step): in sync, no witness holds an
// entry of this term beyond R.
//
// A leader may be on its way out of the zone: elected while its own removal was under way. It
// takes its log with it, so in whatever state, no witness may see what none of the members
// that stay has, or a single one of them could not be elected any more.
//
// Time is counted in ticks. The age of an entry is known from samples of the log's last
// index, one for each of the last HoldTicks ticks: R has stalled if it has not reached what
// the log's end was a hold time ago.
//
// Rejected: to let the witness acknowledge and to make only the commit wait. The witness
// would still hold what the follower lacks, which is the thing that blocks the election.
type gate struct {
	holdTicks, heartbeatTicks int

	term  nexusraft.Term // the term of leadership that the fields below belong to; 0: not leading
	state nexusraft.SyncState
	since nexusraft.Index // the log's last index when state was entered
	opens nexusraft.Index // the empty entry that opens the term
	floor nexusraft.Index

	now      int               // ticks since the term began
	samples  []nexusraft.Index // the log's last index at ticks now, now-1, …: a ring, newest at now % len
	entered  int               // the tick at which state was entered
	retryAt  int               // no closing before this tick
	backOff  int               // ticks to wait after the next failure
	flushDue bool              // a heartbeat interval has passed since the last release
	gone     map[nexusraft.ReplicaID]bool
	heard    map[nexusraft.ReplicaID]int // the tick of a replica's last answer

	held map[nexusraft.ReplicaID]*held // per witness
}

const (
	firstBackOffTicks = 10
	maxBackOffTicks   = 200
)

func newGate(holdTicks, heartbeatTicks int) gate {
	return gate{holdTicks: holdTicks, heartbeatTicks: heartbeatTicks}
}

// begin starts a term of leadership whose first entry is at index opens.
func (g *gate) begin(term nexusraft.Term, opens nexusraft.Index) {
	*g = gate{
		holdTicks: g.holdTicks, heartbeatTicks: g.heartbeatTicks,
		term: term, opens: opens, floor: opens, backOff: firstBackOffTicks,
		samples: slices.Repeat([]nexusraft.Index{opens}, g.holdTicks+1),
		gone:    make(map[nexusraft.ReplicaID]bool),
		heard:   make(map[nexusraft.ReplicaID]int),
		held:    make(map[nexusraft.ReplicaID]*held),
	}
	g.enter(nexusraft.Degraded, opens)
}

// end is the loss of the leadership.
func (g *gate) end() { *g = newGate(g.holdTicks, g.heartbeatTicks) }

func (g *gate) enter(s nexusraft.SyncState, last nexusraft.Index) {
	g.state, g.since, g.entered = s, last, g.now
}

func (g *gate) tick(last nexusraft.Index) {
	g.now++
	g.samples[g.now%len(g.samples)] = last
	if g.now%g.heartbeatTicks == 0 {
		g.flushDue = true
	}
}

// lastAt returns the log's last index as it was the given number of ticks ago, at most
// holdTicks.
func (g *gate) lastAt(ticksAgo int) nexusraft.Index {
	n := len(g.samples)
	return g.samples[((g.now-ticksAgo)%n+n)%n]
}

func (g *gate) leaving(id nexusraft.ReplicaID) {
	if g.gone != nil {
		g.gone[id] = true
	}
}

func (g *gate) heardOf(id nexusraft.ReplicaID) {
	if g.term == 0 {
		return
	}
	delete(g.gone, id)
	g.heard[id] = g.now
}

// heardWithin reports whether a replica has answered within so many ticks, and has not said
// good-bye since. (raft's own mark is wiped for everybody at each check of the quorum.)
func (g *gate) heardWithin(id nexusraft.ReplicaID, ticks int) bool {
	at, ok := g.heard[id]
	return ok && g.now-at <= ticks && !g.gone[id]
}

// voter is what the gate knows of one full voter.
type voter struct {
	match     nexusraft.Index
	following bool // replicating, and heard of lately
	gone      bool // has said that it shuts down
}

// look is one observation of the zone by its leader.
type look struct {
	last   nexusraft.Index
	halves [][]nexusraft.ReplicaID // voters, of both halves in a joint configuration; those to come first
	full   map[nexusraft.ReplicaID]voter
	going  bool // the leader is not among the voters to come
}

// reached returns R over the full voters that count says yes to; ok is false where there
// are fewer of them than the quorum.
func (l look) reached(count func(voter) bool) (r nexusraft.Index, ok bool) {
	r = ^nexusraft.Index(0)
	for _, half := range l.halves {
		var matches []nexusraft.Index
		for _, id := range half {
			if v, full := l.full[id]; full && count(v) {
				matches = append(matches, v.match)
			}
		}
		quorum := len(half)/2 + 1
		if len(matches) < quorum {
			return 0, false
		}
		slices.Sort(matches)
		r = min(r, matches[len(matches)-quorum])
	}
	return r, len(l.halves) > 0
}

func all(voter) bool         { return true }
func staying(v voter) bool   { return !v.gone }
func following(v voter) bool { return v.following && !v.gone }

// evaluate moves the gate to the state that the look asks for.
func (g *gate) evaluate(l look) {
	r, exists := l.reached(all)
	_, enough := l.reached(staying)
	stalled := !exists || !enough || r < g.lastAt(g.holdTicks)

	switch {
	case g.state == nexusraft.InSync && stalled:
		g.fail(l.last)
	case g.state == nexusraft.InSync && r < g.floor: // the configuration has changed
		g.enter(nexusraft.Closing, l.last)
	case g.state == nexusraft.Degraded && g.now >= g.retryAt && g.canClose(l):
		g.enter(nexusraft.Closing, l.last)
	}
	if g.state != nexusraft.Closing {
		return
	}
	switch {
	case stalled || g.now-g.entered >= g.holdTicks:
		g.fail(l.last)
	case r >= g.floor:
		g.enter(nexusraft.InSync, l.last)
	}
}

// canClose reports whether the full voters that R needs are replicating and close: they
// have everything that was in the log half a hold time ago.
func (g *gate) canClose(l look) bool {
	r, ok := l.reached(following)
	return ok && r >= g.lastAt(g.holdTicks/2)
}

// fail opens the gate. The back-off doubles unless the zone had been in sync for longer.
func (g *gate) fail(last nexusraft.Index) {
	if g.state == nexusraft.InSync && g.now-g.entered > g.backOff {
		g.backOff = firstBackOffTicks
	}
	g.enter(nexusraft.Degraded, last)
	g.retryAt = g.now + g.backOff
	g.backOff = min(2*g.backOff, maxBackOffTicks)
}

// limit is how far a witness may see the log now.
func (g *gate) limit(l look) nexusraft.Index {
	limit := l.last
	switch g.state {
	case nexusraft.InSync:
		limit, _ = l.reached(all)
	case nexusraft.Closing:
		limit = g.floor
	}
	if l.going {
		limit = min(limit, l.stays())
	}
	return limit
}

// stays returns the end of the longest log among the full voters to come.
func (l look) stays() (longest nexusraft.Index) {
	for _, id := range l.halves[0] {
		longest = max(longest, l.full[id].match)
	}
	return longest
}

// filtered is what a leader's messages have become.
type filtered struct {
	messages []*pb.Message

	// snapshots are those for witnesses and how they ended. They are metadata, one
	// message: raft is told at once that it has left, and probes.
	snapshots []snapshotReport
}

// filter takes the appends and snapshots for witnesses out of a leader's messages, and
// puts in their place what may leave now: copied, stripped of payload, never beyond the
// limit. Heartbeats are never held.
func (g *gate) filter(msgs []*pb.Message, l look, commit nexusraft.Index, isWitness func(nexusraft.ReplicaID) bool) (f filtered) {
	limit := g.limit(l)
	maps.DeleteFunc(g.held, func(id nexusraft.ReplicaID, _ *held) bool { return !isWitness(id) })
	for _, m := range msgs {
		to := nexusraft.ReplicaID(m.GetTo())
		switch {
		case m.GetType() == pb.MsgApp && isWitness(to):
			g.of(to).add(m)
		case m.GetType() == pb.MsgSnap && isWitness(to):
			delete(g.held, to)
			index := nexusraft.Index(m.GetSnapshot().GetMetadata().GetIndex())
			if index <= limit {
				g.floor = max(g.floor, index)
				f.messages = append(f.messages, m)
			}
			f.snapshots = append(f.snapshots, snapshotReport{to, index <= limit})
		default:
			f.messages = append(f.messages, m)
		}
	}
	switch {
	case g.state == nexusraft.Degraded:
		f.messages = append(f.messages, g.release(limit, commit, false)...)
	case g.flushDue:
		f.messages = append(f.messages, g.release(limit, commit, true)...)
	}
	g.flushDue = false
	return f
}

func (g *gate) of(id nexusraft.ReplicaID) *held {
	if g.held[id] == nil {
		g.held[id] = &held{}
	}
	return g.held[id]
}

// release makes the appends that may leave: all of them, or the first one for each witness.
func (g *gate) release(limit, commit nexusraft.Index, first bool) (out []*pb.Message) {
	for _, id := range slices.Sorted(maps.Keys(g.held)) {
		h := g.held[id]
		for m := h.take(limit, commit); m != nil; m = h.take(limit, commit) {
			g.floor = max(g.floor, nexusraft.Index(m.GetIndex())+nexusraft.Index(len(m.GetEntries())))
			out = append(out, m)
			if first {
				break
			}
		}
	}
	return out
}
