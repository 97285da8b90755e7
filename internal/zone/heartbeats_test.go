package zone_test

import (
	"fmt"
	"slices"
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

// TestHeartbeatsAreRare: where nodes say that they live, the leader of an awake zone speaks to each replica every third
// tick, besides what it has to say, and nobody doubts it meanwhile. What the witness gets of the log takes the place of
// heartbeats.
func TestHeartbeatsAreRare(t *testing.T) {
	w, leader, follower, witness := sleepy(t)
	heartbeats, appends := make(map[uint64]int), make(map[uint64]int)
	w.sent = func(m *raftpb.Message) {
		switch m.GetType() {
		case raftpb.MsgHeartbeat:
			heartbeats[m.GetTo()]++
		case raftpb.MsgApp:
			appends[m.GetTo()]++
		}
	}
	const ticks, times = 300, 100
	term := leader.r.Term()
	w.busy(leader, ticks, 5, func() {})
	near := func(got int) bool { return got >= times-4 && got <= times+4 }
	if !near(heartbeats[follower.id]) {
		t.Errorf("%d heartbeats in %d ticks, want %d", heartbeats[follower.id], ticks, times)
	}
	if got := heartbeats[witness.id] + appends[witness.id]; !near(got) || appends[witness.id] < ticks/5 {
		t.Errorf("the witness got %d heartbeats and %d appends in %d ticks, want %d together", heartbeats[witness.id],
			appends[witness.id], ticks, times)
	}
	if _, self := leader.r.Leader(); !self || leader.r.Term() != term {
		t.Errorf("term %d has become %d", term, leader.r.Term())
	}
}

// TestNothingIsToldTwice: a follower acknowledges an entry once, though it hears of its commit, too; and a leader that
// asks again, as one that has lost an answer, is answered in the next tick.
func TestNothingIsToldTwice(t *testing.T) {
	w, leader, follower, _ := sleepy(t)
	w.pass(20)
	var told []uint64
	w.sent = func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgAppResp && m.GetFrom() == follower.id {
			told = append(told, m.GetIndex())
		}
	}
	last := uint64(leader.r.Status().LastIndex)
	must(w.propose(leader, "a"))
	w.run(leader)
	w.stabilize()
	if !slices.Equal(told, []uint64{last + 1}) || uint64(follower.r.Applied()) != last+1 {
		t.Errorf("acknowledged %v, applied %d, want %d once", told, follower.r.Applied(), last+1)
	}
	told = nil
	w.mute = follower.id
	must(w.propose(leader, "b"))
	w.run(leader)
	w.stabilize()
	w.mute = 0
	if uint64(leader.r.Applied()) != last+1 {
		t.Fatal("the answer was not lost")
	}
	w.pass(electionTicks)
	if uint64(leader.r.Applied()) != last+2 {
		t.Errorf("an answer was lost, and the leader was told %v since then", told)
	}
}

// failover has a busy zone run for a few ticks, does something to its leader, and returns after how many ticks the
// follower asks for votes.
func failover(t *testing.T, run int, do func(w *world)) (ticks int) {
	t.Helper()
	w, leader, follower, _ := sleepy(t)
	w.busy(leader, run, 5, func() {})
	asks := false
	w.sent = func(m *raftpb.Message) {
		asks = asks || m.GetType() == raftpb.MsgPreVote && m.GetFrom() == follower.id
	}
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
			for run := range 30 { // raft's time is random
				if took := failover(t, 10+run, tt.do); took > tt.most {
					t.Errorf("after %d ticks, the follower has asked for votes %d ticks later, want at most %d", 10+run, took,
						tt.most)
				}
			}
		})
	}
}

// TestSignalsStandForHeartbeats: while a leader's node is heard, the leader may be late by longer than without
// signals, and nobody doubts it.
func TestSignalsStandForHeartbeats(t *testing.T) {
	for range 30 { // raft's time is random, and the same for all of a term
		w, leader, _, _ := sleepy(t)
		term := leader.r.Term()
		w.busy(leader, electionTicks, 1, func() {})
		w.mute = leader.id
		w.busy(leader, electionTicks+electionTicks/2, electionTicks, func() {})
		w.mute = 0
		w.busy(leader, electionTicks, 1, func() {})
		if _, self := leader.r.Leader(); !self || leader.r.Term() != term {
			t.Fatalf("the leader was doubted; its term was %v, and is %v now", term, leader.r.Term())
		}
	}
}
