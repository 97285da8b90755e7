package simtest

import (
	"fmt"
	"testing"
	"time"
)

// A tick of the simulation stands for 50 ms, as it is by default.
const (
	tickTime        = 50 * time.Millisecond
	electionDefault = 6 // ticks
	settleTicks     = 100
)

func steps(d time.Duration) int { return max(1, int(d*tickSteps/tickTime)) }

// newSlow makes a zone that is in sync, with that election timeout and hold time, and whose
// paths and disks are fast so far.
func newSlow(t *testing.T, seed uint64, ticks int) *row {
	s := newSim(t, seed, false)
	s.admin.done = true
	s.electionTicks, s.holdTicks = ticks, ticks
	for _, n := range s.nodes {
		n.crash(false, 1)
	}
	s.until("in sync", 400, s.inSync)
	s.clients.add(2)
	return &row{sim: s, leader: s.leader(), follower: s.follower()}
}

// steady checks that the zone keeps its leader and term, acknowledges writes, and answers reads
// through both members.
func (r *row) steady() {
	r.t.Helper()
	r.run(settleTicks)
	leader := r.sim.leader()
	if leader == nil {
		r.fatalf("nobody leads\n%s", r.describe())
	}
	term, acked := leader.r.Status().Term, r.oracle.acked
	r.run(settleTicks)
	if now := r.sim.leader(); now != leader || now.r.Status().Term != term || r.oracle.acked == acked {
		r.fatalf("from %s in term %d on, %d writes were acknowledged\n%s", leader, term, r.oracle.acked-acked, r.describe())
	}
}

// TestLongPaths: round trips of 1 to 500 ms. What is shorter than an election timeout makes writes
// and reads slower and nothing else, where the hold time is as long. What is as long lets a leader
// stay, and go on degraded now and then, for its heartbeats follow each other closely; but none can
// be elected any more: each one steps down at its first check of the quorum, before the first
// answers.
func TestLongPaths(t *testing.T) {
	for _, ticks := range []int{electionDefault, 2 * electionDefault} {
		for _, ms := range []int{1, 50, 100, 200, 275, 300, 400, 500} {
			roundTrip, election := time.Duration(ms)*time.Millisecond, time.Duration(ticks)*tickTime
			t.Run(fmt.Sprintf("%v with an election timeout of %v", roundTrip, election), func(t *testing.T) {
				forSeeds(t, 1, func(t *testing.T, seed uint64) { longPath(t, seed, ticks, roundTrip, roundTrip < election) })
			})
		}
	}
}

func longPath(t *testing.T, seed uint64, ticks int, roundTrip time.Duration, short bool) {
	r := newSlow(t, seed, ticks)
	r.net.minDelay = steps(roundTrip / 2)
	r.net.maxDelay = r.net.minDelay
	r.steady()
	if short && !r.inSync() {
		r.fatalf("the zone is %q", r.state())
	}
	for _, n := range r.members() {
		if !r.readsThrough(n) {
			r.fatalf("no linearizable read of %s ends", n)
		}
	}
	r.leader.crash(false, 1)
	if short {
		r.write("after the leader has restarted", contendedTicks)
		r.steady()
		r.until("in sync", 400, r.inSync)
	} else {
		r.run(2 * int(roundTrip/tickTime)) // what was under way arrives
		r.silent(outageTicks)
		r.net.heal()
		r.write("the paths are short again", contendedTicks)
	}
	r.net.heal()
	r.recover()
}

// TestSlowDisks: syncs of 0.1 to 3 election timeouts, on one node or all of them. As long as nobody
// dies writes go on, as slowly as the disks that they need: a leader that is silent for too long is
// replaced, a follower that takes longer than the hold time makes the zone degraded, and a
// witness is not waited for in sync.
//
// When the leader dies, the other member is elected if the zone was in sync, and if the witness
// stores its vote in time: always below one election timeout, sooner or later below two. Beyond
// that a candidate has given up before the vote is on the witness's disk, and the zone waits for
// its leader, or for the disk. Where the zone was degraded it may wait for its leader, too.
func TestSlowDisks(t *testing.T) {
	for _, x := range []struct {
		whose       string
		slow        func(r *row, n *node) bool
		elects      int // up to so many tenths of an election timeout
		waits       int // from so many on
		staysInSync int // up to so many
	}{
		{"the leader's", func(r *row, n *node) bool { return n == r.leader }, 9, 100, 5},
		{"the follower's", func(r *row, n *node) bool { return n == r.follower }, 5, 100, 5},
		{"the witness's", func(_ *row, n *node) bool { return n.witness }, 15, 20, 30},
		{"all", func(*row, *node) bool { return true }, 5, 20, 1},
	} {
		for _, tenths := range []int{1, 5, 9, 15, 20, 25, 30} {
			t.Run(fmt.Sprintf("%s, %d tenths of an election timeout", x.whose, tenths), func(t *testing.T) {
				forSeeds(t, 1, func(t *testing.T, seed uint64) {
					r := newSlow(t, seed, 0)
					for _, n := range r.nodes {
						if x.slow(r, n) {
							n.syncFor = tenths * electionDefault * tickSteps / 10
						}
					}
					r.steady()
					if tenths <= x.staysInSync && !r.inSync() {
						r.fatalf("the zone is %q", r.state())
					}
					r.leaderDies(tenths <= x.elects, tenths >= x.waits)
				})
			})
		}
	}
}

// leaderDies kills the leader of a zone with slow disks, and checks whether the other member is
// elected; then the leader comes back. If neither elects nor waits is true that depends.
func (r *row) leaderDies(elects, waits bool) {
	leader, slowest := r.sim.leader(), 0
	for _, n := range r.nodes {
		slowest = max(slowest, n.syncFor)
	}
	leader.gone = true
	leader.crash(false, 1)
	r.run(2*slowest/tickSteps + 2) // what was under way is written and arrives
	if elects {
		r.write("after the leader's death", 2*contendedTicks)
	} else if waits {
		r.silent(outageTicks)
	}
	r.revive(leader)
	if leader.syncFor > 0 { // nothing but faster disks is sure to help
		r.fast()
	}
	r.write("the leader is back", contendedTicks)
	r.fast()
	r.recover()
}

func (r *row) fast() {
	for _, n := range r.nodes {
		n.syncFor = 0
	}
}
