package zone_test

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// busy has the leader write in each of so many ticks but one in gap, so that the zone does not sleep; each
// is called after every tick.
func (w *world) busy(leader *node, ticks, gap int, each func()) {
	for i := range ticks {
		if i%gap == 0 {
			must(w.propose(leader, fmt.Sprint(i)))
			w.run(leader)
		}
		w.pass(1)
		each()
	}
}

// TestHeartbeatsAreRare: where nodes say that they live, an awake zone sends a heartbeat to each replica every
// third tick, and nobody doubts the leader meanwhile.
func TestHeartbeatsAreRare(t *testing.T) {
	w, leader, _, _ := sleepy(t)
	heartbeats := 0
	w.sent = func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgHeartbeat {
			heartbeats++
		}
	}
	const ticks = 300
	term := leader.r.Term()
	w.busy(leader, ticks, 5, func() {})
	if want := 2 * ticks / 3; heartbeats < want-4 || heartbeats > want+4 {
		t.Errorf("%d heartbeats in %d ticks, want %d", heartbeats, ticks, want)
	}
	if _, self := leader.r.Leader(); !self || leader.r.Term() != term {
		t.Errorf("term %d has become %d", term, leader.r.Term())
	}
}

// failover has a busy zone run for a few ticks, does something to its leader, and returns after how many ticks another
// replica, or the same one in its next life, asks for votes.
func failover(t *testing.T, seed uint64, run int, do func(w *world)) (ticks int) {
	t.Helper()
	w, leader, _, _ := sleepyOf(t, seed)
	w.busy(leader, run, 5, func() {})
	asks := false
	w.sent = func(m *raftpb.Message) { asks = asks || m.GetType() == raftpb.MsgPreVote }
	do(w)
	for ; !asks; ticks++ {
		if ticks > 10*electionTicks {
			t.Fatalf("the follower has asked for no votes after %d ticks:\n%s", ticks, w.told())
		}
		w.pass(1)
	}
	w.told()
	return ticks
}

// raft stands for election after a random time below twice the election timeout.
const latestElection = 2 * electionTicks

// TestLeaderIsMissed: a leader whose node falls silent is missed as soon as without signals, whatever the tick;
// one that falls silent alone, some ticks later.
func TestLeaderIsMissed(t *testing.T) {
	const later = electionTicks/2 + 1
	for name, tt := range map[string]struct {
		do   func(w *world)
		most int
	}{
		"its process dies": {func(w *world) { w.stop(w.nodes[1]) }, latestElection},
		"its node is cut off": {func(w *world) {
			for _, x := range []uint64{2, 3} {
				w.cut[[2]uint64{1, x}], w.cut[[2]uint64{x, 1}] = true, true
			}
		}, latestElection},
		"its process restarts": {func(w *world) {
			w.stop(w.nodes[1])
			w.start(w.nodes[1])
		}, latestElection},
		"it says nothing, and its node does": {func(w *world) {
			w.mute = 1
		}, latestElection + later},
	} {
		t.Run(name, func(t *testing.T) {
			for run := range 60 {
				if took := failover(t, uint64(run), 10+run%10, tt.do); took > tt.most {
					t.Errorf("seed %d: somebody asks for votes %d ticks later, want at most %d", run, took, tt.most)
				}
			}
		})
	}
}

// TestSignalsStandForHeartbeats: while a leader's node is heard, the leader may be late by longer than without
// signals, and nobody doubts it.
func TestSignalsStandForHeartbeats(t *testing.T) {
	for seed := range uint64(60) {
		w, leader, _, _ := sleepyOf(t, seed)
		term := leader.r.Term()
		w.busy(leader, electionTicks, 1, func() {})
		w.mute = leader.id
		w.busy(leader, electionTicks+electionTicks/2, electionTicks, func() {})
		w.mute = 0
		w.busy(leader, electionTicks, 1, func() {})
		if _, self := leader.r.Leader(); !self || leader.r.Term() != term {
			t.Fatalf("seed %d: the leader was doubted; its term was %v, and is %v now", seed, term, leader.r.Term())
		}
	}
}

// TestSlowLeader: a leader on whose node rounds take several ticks, as where disk or processors are busy, is doubted as
// little as if it sent a heartbeat with each of them.
func TestSlowLeader(t *testing.T) {
	for every := 2; every < electionTicks; every++ {
		for seed := range uint64(30) {
			w, leader, _, _ := sleepyOf(t, seed)
			term := leader.r.Term()
			w.busy(leader, electionTicks, 1, func() {}) // the nodes hear each other
			for i := range 200 {
				leader.r.Stir() // it does not sleep
				if w.slow = leader.id; i%every == 0 {
					w.slow = 0
				}
				w.pass(1)
			}
			if _, self := leader.r.Leader(); !self || leader.r.Term() != term {
				t.Errorf("a tick of %d, seed %d: the leader was doubted; its term was %v, and is %v now", every, seed, term,
					leader.r.Term())
			}
			w.told()
		}
	}
}
