package simtest

import (
	"fmt"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Bounds in ticks for the rows of the matrix.
const (
	steadyTicks    = 3 * holdTicks // the leader stays: one hold time, and writes through the zone
	contendedTicks = 400           // a leader that nobody answers may be elected again and again before the other one is
	outageTicks    = 80            // how long a row that must wait is watched
)

// cuts is a set of directed links between a leader, its follower and a witness over which no
// call can be made.
type cuts uint8

const (
	leaderToFollower cuts = 1 << iota
	followerToLeader
	leaderToWitness
	witnessToLeader
	followerToWitness
	witnessToFollower
	allCuts cuts = 1<<iota - 1

	betweenMembers   = leaderToFollower | followerToLeader
	leaderAndWitness = leaderToWitness | witnessToLeader
	otherAndWitness  = followerToWitness | witnessToFollower
)

// cutNames are in the order of the bits: leader, follower, witness.
var cutNames = []string{"L→F", "F→L", "L→W", "W→L", "F→W", "W→F"}

func (c cuts) String() string {
	var names []string
	for i, name := range cutNames {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "nothing"
	}
	return strings.Join(names, " ")
}

// from is the state of the zone before its links are cut.
type from int

const (
	fromInSync   from = iota // all links at once
	fromUnheard              // in sync; the witness's links first, and nobody notices
	fromDegraded             // the follower was away, and is behind
	fromCount
)

func (f from) String() string {
	return [...]string{"in sync", "in sync, the witness's links first", "degraded"}[f]
}

// outcome is what a zone owes its clients.
type outcome struct {
	leader string // "leader" stays, in its term; or "follower" is elected; "" for nobody: no write
	sync   nexusraft.SyncState
	reads  bool   // linearizable reads through the other member end
	back   []cuts // without a leader: each of these brings writes back, if it is mended
}

// expected is section 7 of the design, for links instead of nodes: a pair of nodes can work
// together if each can call the other, since both speak on calls of their own. Any two of the
// three make a quorum, in this order:
//
//   - leader and follower: nothing changes, the zone is in sync (again);
//   - leader and witness: for the leader the follower is dead, so after a hold time it goes on
//     degraded. The follower can't disturb: the witness hears the leader and refuses its vote;
//   - follower and witness: for both of them the leader is dead. If the follower has all that
//     the witness has, as in sync, it is elected. If not, the zone waits for its leader.
//
// A link that works in one direction only is worth nothing, whichever it is.
func expected(c cuts, f from) outcome {
	whole := func(pair cuts) bool { return c&pair == 0 }
	switch {
	case whole(betweenMembers):
		return outcome{leader: "leader", sync: nexusraft.InSync, reads: true}
	case whole(leaderAndWitness):
		return outcome{leader: "leader", sync: nexusraft.Degraded}
	case whole(otherAndWitness) && f != fromDegraded:
		return outcome{leader: "follower", sync: nexusraft.Degraded}
	}
	o := outcome{back: []cuts{c & betweenMembers, c & leaderAndWitness}}
	if f != fromDegraded {
		o.back = append(o.back, c&otherAndWitness)
	}
	return o
}

// row is one run of the matrix.
type row struct {
	*sim
	leader, follower *node
	term             nexusraft.Term
}

// newRow brings a zone into the state that a row begins with, and cuts the links.
func newRow(t *testing.T, seed uint64, c cuts, f from) *row {
	s := newSim(t, seed, false)
	s.admin.done = true
	s.clients.add(2)
	s.until("in sync", 400, s.inSync)
	r := &row{sim: s, leader: s.leader(), follower: s.follower()}
	s.run(s.between(1, 20))
	switch f {
	case fromUnheard:
		r.cut(c & (leaderAndWitness | otherAndWitness))
		s.run(s.between(2*holdTicks, 10*holdTicks))
	case fromDegraded:
		r.leaveBehind()
	}
	if s.leader() != r.leader {
		s.fatalf("another leader, before the links are cut")
	}
	r.term = r.leader.r.Status().Term
	r.cut(c)
	return r
}

// leaveBehind has the follower miss more than one append carries: a single one of them gets
// through without an answer.
func (r *row) leaveBehind() {
	r.kill(r.follower)
	r.write("a hold time after the follower's death", steadyTicks)
	r.until("degraded", holdTicks+2*roundTicks, func() bool { return r.state() == nexusraft.Degraded })
	for end := r.oracle.last.index + 60; r.oracle.last.index < end; {
		r.write("behind", 60)
	}
	r.revive(r.follower)
}

// cut makes these links, and no others, fail.
func (r *row) cut(c cuts) {
	w := r.witness()
	clear(r.net.blocked)
	for i, l := range []link{
		linkOf(r.leader, r.follower),
		linkOf(r.follower, r.leader),
		linkOf(r.leader, w),
		linkOf(w, r.leader),
		linkOf(r.follower, w),
		linkOf(w, r.follower),
	} {
		r.net.blocked[l] = c&(1<<i) != 0
	}
	r.eventf("cut: %v", c)
}

// write proposes at both members in each tick, until one of the writes is acknowledged; it
// returns how many ticks that took.
func (r *row) write(what string, limit int) int64 {
	r.t.Helper()
	var ops []*operation
	return r.until("writes go on: "+what, limit, func() bool {
		if r.now%tickSteps == 0 {
			for _, n := range r.members() {
				ops = append(ops, r.probe(n, fmt.Sprintf("put probe %d.", r.clients.next())))
			}
		}
		for _, op := range ops {
			if op.ret != 0 {
				return true
			}
		}
		return false
	})
}

// probe is an operation of a client that asks one member, once.
func (r *row) probe(n *node, command string) *operation {
	op := r.clients.operation(&client{all: r.clients, target: n}, "probe")
	op.command = command
	op.attempt()
	return op
}

// readsThrough reports whether a linearizable read of a member ends.
func (r *row) readsThrough(n *node) bool {
	for range 3 {
		op := r.probe(n, "")
		for end := r.now + 40*tickSteps; op.ret == 0 && r.now < end; {
			r.step()
		}
		if op.ret != 0 {
			return true
		}
	}
	return false
}

// check holds a row against what is expected of it and returns how long its writes waited.
func (r *row) check(want outcome) (ticks int64) {
	if want.leader == "" {
		r.run(2) // what was under way arrives
		r.silent(outageTicks)
		return 0
	}
	limit := steadyTicks
	if want.leader == "follower" {
		limit = contendedTicks
	}
	ticks = r.write("expected", limit)
	r.until("the state that is expected", 400, func() bool { return r.state() == want.sync })
	r.run(40)
	leader, other := r.leader, r.follower
	if want.leader == "follower" {
		leader, other = other, leader
	}
	st := leader.r.Status()
	if got := r.state(); r.sim.leader() != leader || got != want.sync || leader == r.leader && st.Term != r.term {
		r.fatalf("want %s as the leader and %q, got %s\n%s", leader, want.sync, got, r.describe())
	}
	if !r.readsThrough(leader) {
		r.fatalf("no linearizable read of the leader ends")
	}
	if got := r.readsThrough(other); got != want.reads {
		r.fatalf("linearizable reads of the other member end: %v, want %v", got, want.reads)
	}
	return ticks
}

// heal mends everything and checks that nothing was lost.
func (r *row) heal() {
	r.cut(0)
	r.recover()
}

// TestAvailability is every subset of the six directed links between two members and a
// witness, in each state of the zone: which member leads then, whether writes go on, and what brings
// them back. docs/availability.md shows the expectations. Of the ways back each row tries one;
// all of them with more than the usual seeds. With fewer, each subset is tried in some of the states.
func TestAvailability(t *testing.T) {
	for f := range fromCount {
		for c := range allCuts + 1 {
			if f == fromUnheard && c&(leaderAndWitness|otherAndWitness) == 0 {
				continue
			}
			if *seedsFlag < usualSeeds && *seedFlag == 0 && (int(c)+int(f))%3 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%v/%v", f, c), func(t *testing.T) {
				forSeeds(t, 1, func(t *testing.T, seed uint64) {
					if *seedFlag == 0 {
						seed = seed<<8 + uint64(c)
					}
					availabilityRow(t, seed, c, f)
				})
			})
		}
	}
}

func availabilityRow(t *testing.T, seed uint64, c cuts, f from) {
	want := expected(c, f)
	r := newRow(t, seed, c, f)
	waited := r.check(want)
	r.heal()
	t.Logf("writes waited %d ticks", waited)
	for i, mended := range want.back {
		if *seedsFlag <= usualSeeds && i != int(c)%len(want.back) {
			continue
		}
		r := newRow(t, seed, c, f)
		r.run(outageTicks / 2)
		r.cut(c &^ mended)
		t.Logf("writes went on %d ticks after %v was mended", r.write(mended.String()+" mended", contendedTicks), mended)
		r.heal()
	}
}
