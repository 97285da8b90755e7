package gate

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Gate is the hold-back gate of one leader. The package comment says what it does. Its methods are
// for one goroutine.
type Gate struct {
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
	heard    map[nexusraft.ReplicaID]int  // the tick of a replica's last answer in this term
	greeted  map[nexusraft.ReplicaID]bool // witnesses that were asked for their first answer

	held map[nexusraft.ReplicaID]*held // per witness

	// Of the last Evaluate.
	reached   nexusraft.Index // R; 0 if there is none
	evaluated int             // its tick
}

const (
	firstBackOffTicks = 10
	maxBackOffTicks   = 200
)

// New returns the gate of a replica that does not lead. An entry waits at most holdTicks for the
// members; heartbeatTicks is raft's heartbeat interval.
func New(holdTicks, heartbeatTicks int) Gate {
	return Gate{holdTicks: holdTicks, heartbeatTicks: heartbeatTicks}
}

// Begin starts a term of leadership whose first entry is at index opens.
func (g *Gate) Begin(term nexusraft.Term, opens nexusraft.Index) {
	*g = Gate{
		holdTicks: g.holdTicks, heartbeatTicks: g.heartbeatTicks,
		term: term, opens: opens, floor: opens, backOff: firstBackOffTicks,
		samples: slices.Repeat([]nexusraft.Index{opens}, g.holdTicks+1),
		gone:    make(map[nexusraft.ReplicaID]bool),
		heard:   make(map[nexusraft.ReplicaID]int),
		greeted: make(map[nexusraft.ReplicaID]bool),
		held:    make(map[nexusraft.ReplicaID]*held),
	}
	g.enter(nexusraft.Degraded, opens)
}

// Term returns the term of leadership that the gate is in; 0 if this replica does not lead, or
// leads and its term's first entry has not been in a Ready yet.
func (g *Gate) Term() nexusraft.Term { return g.term }

// Opens returns the index of the empty entry that opens the term.
func (g *Gate) Opens() nexusraft.Index { return g.opens }

// Floor returns the highest index that a witness may hold of what this leader sent.
func (g *Gate) Floor() nexusraft.Index { return g.floor }

// State returns the gate's state and the log's last index when it was entered.
func (g *Gate) State() (s nexusraft.SyncState, since nexusraft.Index) { return g.state, g.since }

// End is the loss of the leadership.
func (g *Gate) End() { *g = New(g.holdTicks, g.heartbeatTicks) }

func (g *Gate) enter(s nexusraft.SyncState, last nexusraft.Index) {
	g.state, g.since, g.entered = s, last, g.now
}

// Tick advances time by one tick; last is the log's last index.
func (g *Gate) Tick(last nexusraft.Index) {
	g.now++
	g.samples[g.now%len(g.samples)] = last
	if g.now%g.heartbeatTicks == 0 {
		g.flushDue = g.holding()
	}
}

// LastAt returns the log's last index as it was the given number of ticks ago, at most
// holdTicks.
func (g *Gate) LastAt(ticksAgo int) nexusraft.Index {
	n := len(g.samples)
	return g.samples[((g.now-ticksAgo)%n+n)%n]
}

// Unsettled reports whether a round is to look at the gate, though raft has none: it may close, or something that
// is held may leave. In sync that is so for a moment in each heartbeat interval.
func (g *Gate) Unsettled() bool {
	switch {
	case g.term == 0:
		return false
	case g.state == nexusraft.Closing:
		return true
	case g.state == nexusraft.Degraded:
		return g.holding()
	}
	return g.flushDue
}

// holding reports whether anything is held that may leave some time.
func (g *Gate) holding() bool {
	for _, h := range g.held {
		if h.last > h.prev || h.probe {
			return true
		}
	}
	return false
}

// Leaving notes that a replica has said that it shuts down in order.
func (g *Gate) Leaving(id nexusraft.ReplicaID) {
	if g.gone != nil {
		g.gone[id] = true
	}
}

// HeardOf notes an answer of a replica, given in a term. What answers another leadership than
// the present one says nothing of the present links.
func (g *Gate) HeardOf(id nexusraft.ReplicaID, term nexusraft.Term) {
	if g.term == 0 || g.term != term {
		return
	}
	if _, answered := g.heard[id]; !answered && g.held[id] != nil {
		g.flushDue = true // raft waits for an answer to its first append
	}
	delete(g.gone, id)
	g.heard[id] = g.now
}

// Gone reports whether a replica has said that it shuts down, and was not heard of since.
func (g *Gate) Gone(id nexusraft.ReplicaID) bool { return g.gone[id] }

// HeardWithin reports whether a replica has answered within so many ticks, and has not said
// good-bye since. (raft's own mark is cleared for all replicas at each check of the quorum.)
func (g *Gate) HeardWithin(id nexusraft.ReplicaID, ticks int) bool {
	at, ok := g.heard[id]
	return ok && g.now-at <= ticks && !g.gone[id]
}

// answers reports whether a witness was heard within the hold time. It is asked once a
// heartbeat, so a hold time shorter than that is no measure.
func (g *Gate) answers(witness nexusraft.ReplicaID) bool {
	return g.HeardWithin(witness, g.hearing()-1)
}

// Silent reports whether a full voter has not answered for so long that the zone is not in
// sync, though nothing waits for it.
func (g *Gate) Silent(id nexusraft.ReplicaID) bool { return !g.HeardWithin(id, 2*g.hearing()) }

func (g *Gate) hearing() int { return max(g.holdTicks, 2*g.heartbeatTicks) }

// Voter is what the gate knows of one full voter.
type Voter struct {
	Match     nexusraft.Index
	Following bool // replicating, and heard of lately
	Silent    bool // has not answered for two hold times
	Gone      bool // has said that it shuts down
}

// Voters is what a leader knows of its zone's voters at one moment.
type Voters struct {
	Last    nexusraft.Index
	Halves  [][]nexusraft.ReplicaID // voters, of both halves in a joint configuration; those to come first
	Full    map[nexusraft.ReplicaID]Voter
	Leaving bool // the leader is not among the voters to come
}

// reached returns R over the full voters that count says yes to; ok is false where there
// are fewer of them than the quorum.
func (p Voters) reached(count func(Voter) bool) (r nexusraft.Index, ok bool) {
	r = ^nexusraft.Index(0)
	var few [8]nexusraft.Index
	for _, half := range p.Halves {
		matches := few[:0]
		for _, id := range half {
			if v, full := p.Full[id]; full && count(v) {
				matches = append(matches, v.Match)
			}
		}
		quorum := len(half)/2 + 1
		if len(matches) < quorum {
			return 0, false
		}
		slices.Sort(matches)
		r = min(r, matches[len(matches)-quorum])
	}
	return r, len(p.Halves) > 0
}

func all(Voter) bool         { return true }
func staying(v Voter) bool   { return !v.Gone && !v.Silent }
func following(v Voter) bool { return v.Following && staying(v) }

// Evaluate moves the gate to the state that the voters' progress asks for.
func (g *Gate) Evaluate(p Voters) {
	r, exists := p.reached(all)
	_, enough := p.reached(staying)
	stalled := !exists || !enough || r < g.LastAt(g.holdTicks)
	g.reached, g.evaluated = 0, g.now
	if exists {
		g.reached = r
	}

	switch {
	case g.state == nexusraft.InSync && stalled:
		g.fail(p.Last)
	case g.state == nexusraft.InSync && r < g.floor: // the configuration has changed
		g.enter(nexusraft.Closing, p.Last)
	case g.state == nexusraft.Degraded && g.now >= g.retryAt && g.canClose(p):
		g.enter(nexusraft.Closing, p.Last)
	}
	if g.state != nexusraft.Closing {
		return
	}
	switch {
	case stalled || g.now-g.entered >= g.holdTicks:
		g.fail(p.Last)
	case r >= g.floor:
		g.enter(nexusraft.InSync, p.Last)
	}
}

// Due reports whether time alone may have moved the gate since it was last evaluated: in sync, once an entry that
// did not have R then has waited for the hold time. Who has fallen silent is looked at in each heartbeat
// interval.
func (g *Gate) Due() bool {
	return g.term != 0 &&
		(g.state != nexusraft.InSync || g.reached < g.LastAt(g.holdTicks) || g.now-g.evaluated >= g.heartbeatTicks)
}

// canClose reports whether the full voters that R needs are replicating and close: they
// have everything that was in the log half a hold time ago.
func (g *Gate) canClose(p Voters) bool {
	r, ok := p.reached(following)
	return ok && r >= g.LastAt(g.holdTicks/2)
}

// fail opens the gate. The back-off doubles unless the zone had been in sync for longer.
func (g *Gate) fail(last nexusraft.Index) {
	if g.state == nexusraft.InSync && g.now-g.entered > g.backOff {
		g.backOff = firstBackOffTicks
	}
	g.enter(nexusraft.Degraded, last)
	g.retryAt = g.now + g.backOff
	g.backOff = min(2*g.backOff, maxBackOffTicks)
}

// Valid returns what is wrong with the gate, nil if nothing is. It is for tests, and for builds with
// the tag "invariants".
func Valid(g *Gate) error {
	if g.term == 0 {
		if g.held != nil || g.heard != nil || g.floor != 0 || g.state != "" {
			return fmt.Errorf("something is left of a leadership that is over: %s, floor %d", g.state, g.floor)
		}
		return nil
	}
	switch {
	case g.state != nexusraft.Degraded && g.state != nexusraft.Closing && g.state != nexusraft.InSync:
		return fmt.Errorf("state %q", g.state)
	case g.opens == 0 || g.floor < g.opens:
		return fmt.Errorf("the term opens at %d, and a witness may hold no more than %d", g.opens, g.floor)
	case len(g.samples) != g.holdTicks+1 || g.entered > g.now:
		return fmt.Errorf("%d samples for %d ticks, state entered at tick %d of %d", len(g.samples), g.holdTicks,
			g.entered, g.now)
	case g.backOff < firstBackOffTicks || g.backOff > maxBackOffTicks || g.retryAt > g.now+maxBackOffTicks:
		return fmt.Errorf("back-off of %d ticks, until tick %d, at tick %d", g.backOff, g.retryAt, g.now)
	}
	for id, h := range g.held {
		if err := h.valid(); err != nil {
			return fmt.Errorf("held for %v: %w", id, err)
		}
	}
	return nil
}

// Describe returns the gate's state, its figures and what is held, for people and for transcripts.
func Describe(g *Gate, p Voters) string {
	if g.term == 0 {
		return "no gate: not leading"
	}
	reached := "none"
	if r, ok := p.reached(all); ok {
		reached = fmt.Sprint(uint64(r))
	}
	out := fmt.Sprintf("%s since %d: R=%s floor=%d last=%d", g.state, g.since, reached, g.floor, p.Last)
	for _, id := range slices.Sorted(maps.Keys(g.held)) {
		if h := g.held[id]; h.last > h.prev {
			out += fmt.Sprintf("\nheld for %d: (%d, %d]", uint64(id), h.prev, h.last)
		}
	}
	return out
}

// limit is how far a witness may see the log now.
func (g *Gate) limit(p Voters) nexusraft.Index {
	limit := p.Last
	switch g.state {
	case nexusraft.InSync:
		limit, _ = p.reached(all)
	case nexusraft.Closing:
		limit = g.floor
	}
	if p.Leaving {
		limit = min(limit, p.stays())
	}
	return limit
}

// stays returns the end of the longest log among the full voters to come.
func (p Voters) stays() (longest nexusraft.Index) {
	for _, id := range p.Halves[0] {
		longest = max(longest, p.Full[id].Match)
	}
	return longest
}

// SnapshotReport says how a snapshot to a replica ended, for raft.
type SnapshotReport struct {
	To nexusraft.ReplicaID
	OK bool
}

// Filtered is what a leader's messages have become.
type Filtered struct {
	Messages []*raftpb.Message

	// Snapshots are those for witnesses and how they ended. They are metadata, one
	// message: raft is told at once that it has left, and probes.
	Snapshots []SnapshotReport
}

// Holds reports whether a round does no more about a leader's messages than Hold does.
func (g *Gate) Holds(msgs []*raftpb.Message, isWitness func(nexusraft.ReplicaID) bool) bool {
	if g.state != nexusraft.InSync || g.flushDue {
		return false
	}
	return !slices.ContainsFunc(msgs, func(m *raftpb.Message) bool {
		return m.GetType() == raftpb.MsgSnap && isWitness(nexusraft.ReplicaID(m.GetTo()))
	})
}

// Hold takes the appends for witnesses out of a leader's messages, and returns the others: Filter, where
// nothing may leave yet. It changes msgs.
func (g *Gate) Hold(msgs []*raftpb.Message, isWitness func(nexusraft.ReplicaID) bool) []*raftpb.Message {
	return slices.DeleteFunc(msgs, func(m *raftpb.Message) bool {
		to := nexusraft.ReplicaID(m.GetTo())
		if m.GetType() != raftpb.MsgApp || !isWitness(to) {
			return false
		}
		g.of(to).add(m)
		return true
	})
}

// Filter takes the appends and snapshots for witnesses out of a leader's messages, and
// puts in their place what may leave now: copied, stripped of payload, never beyond the
// limit. Heartbeats are never held.
func (g *Gate) Filter(
	msgs []*raftpb.Message, p Voters, commit nexusraft.Index, isWitness func(nexusraft.ReplicaID) bool,
) (f Filtered) {
	limit := g.limit(p)
	maps.DeleteFunc(g.held, func(id nexusraft.ReplicaID, _ *held) bool { return !isWitness(id) })
	for _, m := range msgs {
		to := nexusraft.ReplicaID(m.GetTo())
		switch {
		case m.GetType() == raftpb.MsgApp && isWitness(to):
			g.of(to).add(m)
		case m.GetType() == raftpb.MsgSnap && isWitness(to):
			delete(g.held, to)
			index := nexusraft.Index(m.GetSnapshot().GetMetadata().GetIndex())
			leaves := index <= limit && g.answers(to)
			if leaves {
				g.floor = max(g.floor, index)
				f.Messages = append(f.Messages, m)
			}
			f.Snapshots = append(f.Snapshots, SnapshotReport{to, leaves})
		default:
			f.Messages = append(f.Messages, m)
		}
	}
	switch {
	case g.state == nexusraft.Degraded:
		f.Messages = append(f.Messages, g.release(limit, commit, math.MaxInt)...)
	case g.flushDue:
		f.Messages = append(f.Messages, g.release(limit, commit, g.heartbeatTicks)...)
	}
	g.flushDue = false
	f.Messages = append(f.Messages, g.greet()...)
	return f
}

// greet asks each witness that something is held for, and that has not answered in this
// term, by a heartbeat: once, for raft sends one in each interval after that.
func (g *Gate) greet() (out []*raftpb.Message) {
	for _, id := range slices.Sorted(maps.Keys(g.held)) {
		if _, answered := g.heard[id]; answered || g.greeted[id] {
			continue
		}
		g.greeted[id] = true
		out = append(out, g.held[id].heartbeat())
	}
	return out
}

func (g *Gate) of(id nexusraft.ReplicaID) *held {
	if g.held[id] == nil {
		g.held[id] = &held{}
	}
	return g.held[id]
}

// release makes the appends that may leave, at most so many for each witness that answers.
func (g *Gate) release(limit, commit nexusraft.Index, most int) (out []*raftpb.Message) {
	for _, id := range slices.Sorted(maps.Keys(g.held)) {
		if !g.answers(id) {
			continue
		}
		h := g.held[id]
		for range most {
			m := h.take(limit, commit)
			if m == nil {
				break
			}
			g.floor = max(g.floor, nexusraft.Index(m.GetIndex())+nexusraft.Index(len(m.GetEntries())))
			out = append(out, m)
		}
	}
	return out
}
