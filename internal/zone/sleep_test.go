package zone_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// silentTicks is after how many silent ticks a node is not heard any more.
const silentTicks = electionTicks - 1

// pass lets time go on, on all nodes alike, and delivers what they send. Each tick every node hears
// those that are up and not cut off from it.
func (w *world) pass(ticks int) {
	for range ticks {
		for _, n := range w.sorted() {
			w.passTick(n)
		}
		w.stabilize()
	}
}

func (w *world) passTick(n *node) {
	if n.r == nil || n.resume != nil || n.id == w.slow {
		return
	}
	var listed []nexusraft.NodeID
	heard := make(map[nexusraft.NodeID]zone.Signal)
	for _, x := range w.sorted() {
		if x == n {
			continue
		}
		listed = append(listed, nodeOf(x.id))
		if x.r != nil && x.resume == nil && x.id != w.slow && !w.cut[[2]uint64{x.id, n.id}] {
			heard[nodeOf(x.id)] = x.others.Own()
		}
	}
	n.others.Tick(listed, heard, func(g *driver.Group) {
		n.ticks++
		g.Tick()
	})
	w.run(n)
	if err := driver.CheckNeighbors(n.others); err != nil {
		w.t.Error(err)
	}
}

// sleepers returns the replicas that sleep.
func (w *world) sleepers() (ids []uint64) {
	for _, n := range w.sorted() {
		if n.r != nil && n.r.Asleep() {
			ids = append(ids, n.id)
		}
	}
	return ids
}

// asleep waits until the whole zone sleeps.
func (w *world) asleep() {
	w.t.Helper()
	for range 100 {
		if len(w.sleepers()) == len(w.nodes) {
			return
		}
		w.pass(1)
	}
	w.t.Fatalf("of %d replicas %v sleep after 100 ticks:\n%s", len(w.nodes), w.sleepers(), w.told())
}

// sleepy starts a zone of two members and a witness, led by 1, and returns them.
func sleepy(t *testing.T) (w *world, leader, follower, witness *node) { return sleepyOf(t, 1) }

func sleepyOf(t *testing.T, seed uint64) (w *world, leader, follower, witness *node) {
	w = newWorldOf(t, 0, seed)
	w.sleeps, w.quiet = true, true
	w.found([]uint64{1, 2}, []uint64{3})
	must(w.campaign(w.nodes[1]))
	w.stabilize()
	w.told()
	return w, w.nodes[1], w.nodes[2], w.nodes[3]
}

// TestIdleZoneSleeps: an idle zone sends nothing and takes no ticks, says what it said before, and
// takes the next command like any other.
func TestIdleZoneSleeps(t *testing.T) {
	w, leader, follower, witness := sleepy(t)
	for i := range 3 {
		w.asleep()
		sent := 0
		w.sent = func(*raftpb.Message) { sent++ }
		before := []int{leader.ticks, follower.ticks, witness.ticks}
		w.pass(100)
		if after := []int{leader.ticks, follower.ticks, witness.ticks}; sent != 0 || !slices.Equal(before, after) {
			t.Fatalf("asleep, %d messages were sent, ticks went from %v to %v", sent, before, after)
		}
		if err := zone.Lacks(leader.r.Status()); err != nil {
			t.Errorf("asleep, the zone can't lose a node: %v", err)
		}
		w.sent = nil
		must(w.propose(leader, fmt.Sprint("command ", i)))
		if leader.r.Asleep() {
			t.Fatal("the leader sleeps with a command")
		}
		w.run(leader)
		w.pass(3)
		for _, n := range w.sorted() {
			if n.r.Applied() != foundedIndex+2+nexusraft.Index(i) {
				t.Errorf("%d has applied %d", n.id, n.r.Applied())
			}
		}
	}
}

// read asks for a read at a replica.
func (w *world) read(id uint64) { w.nodes[id].group.Read(reading{w.nodes[id], "r"}, time.Time{}) }

// TestWhatWakes: whatever a replica is given to do wakes it, and the others as they are needed.
func TestWhatWakes(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*testing.T, *world)
		says string // is told within an election timeout
	}{
		"a command":          {func(_ *testing.T, w *world) { must(w.propose(w.nodes[1], "x")) }, `2 applies 12/2 "x"`},
		"a read":             {func(_ *testing.T, w *world) { w.read(1) }, `1 serves read "r"`},
		"a follower's read":  {func(_ *testing.T, w *world) { w.read(2) }, `2 serves read "r"`},
		"a transfer":         {func(_ *testing.T, w *world) { must(zone.TransferLeader(w.nodes[1].r, 2)) }, "2 is leader"},
		"a follower's leave": {func(_ *testing.T, w *world) { w.nodes[1].r.ReportLeaving(2) }, "degraded"},
		"a change": {func(t *testing.T, w *world) {
			c := zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}}
			if err := w.change(w.nodes[1], c); err != nil {
				t.Fatal(err)
			}
		}, "(4=learner)"},
		"a message without a mark": {func(_ *testing.T, w *world) {
			must(w.step(w.nodes[2], &raftpb.Message{
				Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(2)),
				Index: new(uint64(11)), LogTerm: new(uint64(2)), Commit: new(uint64(11)),
			}))
			w.quiet = false
		}, "2->1 AppResp"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _, _ := sleepy(t)
			w.asleep()
			w.told()
			tc.do(t, w)
			if len(w.sleepers()) == 3 {
				t.Fatal("nothing has woken")
			}
			for _, n := range w.sorted() {
				w.run(n)
			}
			w.pass(electionTicks)
			if told := w.told(); !strings.Contains(told, tc.says) {
				t.Errorf("nothing says %q:\n%s", tc.says, told)
			}
			w.asleep()
		})
	}
}

// marked reports whether a message asks to sleep, or agrees.
func marked(m *raftpb.Message) bool { return len(m.GetContext()) == 24 }

// TestLostAskOrAnswer: as long as one replica has not agreed, or is not known to have, the leader
// does not sleep; those that do sleep are woken by its next heartbeat.
func TestLostAskOrAnswer(t *testing.T) {
	for name, lost := range map[string]func(*raftpb.Message) bool{
		"ask to the follower":    func(m *raftpb.Message) bool { return m.GetFrom() == 1 && m.GetTo() == 2 },
		"ask to the witness":     func(m *raftpb.Message) bool { return m.GetFrom() == 1 && m.GetTo() == 3 },
		"answer of the follower": func(m *raftpb.Message) bool { return m.GetFrom() == 2 },
		"answer of the witness":  func(m *raftpb.Message) bool { return m.GetFrom() == 3 },
	} {
		t.Run(name, func(t *testing.T) {
			w, leader, _, _ := sleepy(t)
			lose := true
			asks, others, both := 0, 0, 0
			for range 100 {
				for _, n := range w.sorted() {
					w.passTick(n)
				}
				for range 3 {
					w.drop(func(m *raftpb.Message) bool { return lose && marked(m) && lost(m) })
					w.deliver(func(*raftpb.Message) bool { return true })
				}
				switch asleep := w.sleepers(); {
				case leader.r.Asleep():
					t.Fatalf("the leader sleeps: %v", asleep)
				case len(asleep) > 0:
					others++
				case others > 0:
					both++
				}
			}
			asks = strings.Count(w.told(), "drop")
			if asks == 0 || others == 0 || both == 0 {
				t.Errorf("%d messages lost, others slept for %d ticks, and were awake again for %d", asks, others, both)
			}
			if st := leader.r.Status(); st.State != nexusraft.Leader || st.Term != 2 {
				t.Errorf("it is %v at term %d now", st.State, st.Term)
			}
			lose = false
			for i := 0; len(w.sleepers()) < 3; i++ {
				if i > 100*electionTicks {
					t.Fatalf("nothing is lost any more, and %v sleep", w.sleepers())
				}
				w.pass(1)
			}
		})
	}
}

// TestFollowerThatIsBusy: a follower at which a read waits does not agree, and its leader does not
// sleep.
func TestFollowerThatIsBusy(t *testing.T) {
	w, leader, follower, _ := sleepy(t)
	w.sent = func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgReadIndexResp {
			m.To = new(uint64(9)) // it goes nowhere
		}
	}
	follower.group.Read(reading{follower, "r"}, time.Time{})
	for range 10 * electionTicks {
		w.pass(1)
		if leader.r.Asleep() || follower.r.Asleep() {
			t.Fatalf("%v sleep though a read waits", w.sleepers())
		}
	}
	w.sent = nil
	w.asleep()
}

// heartbeatOf is one with a mark, of replica 1 to replica 2.
func heartbeatOf(term, commit uint64, incarnation byte) *raftpb.Message {
	mark := make([]byte, 24)
	mark[7], mark[23] = incarnation, 1
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: &term, Commit: &commit,
		Context: mark,
	}
}

// TestLateMarks: a follower agrees only to its leader of this term and incarnation, that counts on
// all it has, and raft never sees a mark.
func TestLateMarks(t *testing.T) {
	for name, tc := range map[string]struct {
		m     *raftpb.Message
		agree bool
	}{
		"as it should be":      {heartbeatOf(2, 11, 1), true},
		"of an old term":       {heartbeatOf(1, 11, 1), false},
		"of a new term":        {heartbeatOf(3, 11, 1), false},
		"of a process before":  {heartbeatOf(2, 11, 0), false},
		"of a process to come": {heartbeatOf(2, 11, 2), false},
		"less is committed":    {heartbeatOf(2, 10, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, follower, _ := sleepy(t)
			w.pass(electionTicks - 1) // the leader has not asked yet
			var answers []*raftpb.Message
			w.sent = func(m *raftpb.Message) { answers = append(answers, m) }
			must(w.step(follower, tc.m))
			w.run(follower)
			if got := follower.r.Asleep(); got != tc.agree {
				t.Errorf("asleep: %v, want %v", got, tc.agree)
			}
			if len(answers) != 1 || marked(answers[0]) != tc.agree {
				t.Errorf("the answers are %v", answers)
			}
		})
	}
}

// TestFollowerWithMore: an entry that is not committed keeps a follower awake, and its leader.
func TestFollowerWithMore(t *testing.T) {
	w, leader, follower, _ := sleepy(t)
	w.pass(1)
	must(w.propose(leader, "x"))
	w.run(leader)
	w.deliver(func(m *raftpb.Message) bool { return m.GetTo() == 2 })
	w.passTick(follower)
	must(w.step(follower, heartbeatOf(2, 12, 1))) // commits it
	w.run(follower)
	if follower.r.Asleep() {
		t.Error("the follower agrees in the round that applies an entry")
	}
	w.drop(func(*raftpb.Message) bool { return true })
	w.sent = func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgAppResp && m.GetFrom() == 2 {
			m.To = new(uint64(9)) // the leader never hears that the follower has it
		}
	}
	for range 10 * electionTicks {
		w.pass(1)
		if leader.r.Asleep() {
			t.Fatal("the leader sleeps, and does not know that the follower has everything")
		}
	}
}

// electionBound is after how many ticks one follower of three leads at the latest that hears its
// leader no more: raft draws its timeout below twice the election timeout.
const electionBound = 2 * electionTicks

// TestLeaderDiesAsleep: a sleeping zone notices the death of its leader's node as soon as an awake
// one.
func TestLeaderDiesAsleep(t *testing.T) {
	for seed := range uint64(20) {
		w, leader, follower, _ := sleepy(t)
		for range seed { // other timeouts
			w.pass(electionTicks)
			must(zone.TransferLeader(leader.r, nexusraft.ReplicaID(follower.id)))
			w.run(leader)
			w.stabilize()
			leader, follower = follower, leader
		}
		w.asleep()
		if !leader.r.Asleep() || leader.r.Status().State != nexusraft.Leader {
			t.Fatalf("%d does not lead", leader.id)
		}
		w.stop(leader)
		w.pass(electionBound)
		if st := follower.r.Status(); st.State != nexusraft.Leader {
			t.Errorf("after %d ticks the follower is a %v at term %d", electionBound, st.State, st.Term)
		}
	}
}

// TestWokenAsItsLeaderFallsSilent: a replica that hears its leader's message in the tick in which the leader's node
// counts as silent gets none of the ticks that it has slept through: what it promises its leader begins with the
// message.
func TestWokenAsItsLeaderFallsSilent(t *testing.T) {
	w, leader, follower, witness := sleepy(t)
	w.asleep()
	listed := []nexusraft.NodeID{nodeOf(leader.id), nodeOf(witness.id)}
	silent := func() (ticks int) {
		heard := map[nexusraft.NodeID]zone.Signal{nodeOf(witness.id): witness.others.Own()}
		follower.others.Tick(listed, heard, func(g *driver.Group) {
			ticks++
			g.Tick()
		})
		return ticks
	}
	for range silentTicks - 1 {
		if silent() != 0 {
			t.Fatal("the follower is ticked too early")
		}
	}
	m := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(leader.id), To: new(follower.id), Term: new(uint64(leader.r.Term())),
	}
	must(follower.group.Step(nodeOf(leader.id), m, nil))
	if got := silent(); got != 1 {
		t.Errorf("it gets %d ticks, want 1", got)
	}
	w.run(follower)
	if left := follower.r.LeaseTicksLeft(); left != electionTicks-1 {
		t.Errorf("it keeps its promise for %d ticks more, want %d", left, electionTicks-1)
	}
}

// TestLeaderRestartsAsleep: a leader's node that is back before anybody has noticed is another one
// than before.
func TestLeaderRestartsAsleep(t *testing.T) {
	w, leader, follower, witness := sleepy(t)
	w.asleep()
	w.stop(leader)
	w.start(leader)
	w.passTick(follower)
	w.passTick(witness)
	if follower.r.Asleep() || witness.r.Asleep() {
		t.Errorf("%v sleep though their leader has restarted", w.sleepers())
	}
	w.pass(2 * electionBound)
	if leads(w) == nil {
		t.Error("nobody leads")
	}
	w.asleep()
}

func leads(w *world) *node {
	for _, n := range w.sorted() {
		if n.r != nil && n.r.Status().State == nexusraft.Leader {
			return n
		}
	}
	return nil
}

// TestLeaderIsCutOffAsleep: a leader that hears no signals wakes, and does not say for ever that it
// leads.
func TestLeaderIsCutOffAsleep(t *testing.T) {
	w, leader, follower, _ := sleepy(t)
	w.asleep()
	for _, id := range []uint64{2, 3} {
		w.cut[[2]uint64{1, id}], w.cut[[2]uint64{id, 1}] = true, true
	}
	w.pass(silentTicks + electionBound)
	if st := leader.r.Status(); st.State == nexusraft.Leader {
		t.Errorf("cut off for %d ticks, it leads at term %d", silentTicks+electionBound, st.Term)
	}
	if st := follower.r.Status(); st.State != nexusraft.Leader {
		t.Errorf("the follower is a %v", st.State)
	}
}

// TestFollowerDiesAsleep: the zone says that it is not in sync as soon as an awake one does, and
// sleeps again without the follower, whose return wakes it.
func TestFollowerDiesAsleep(t *testing.T) {
	w, leader, follower, witness := sleepy(t)
	w.asleep()
	w.stop(follower)
	w.pass(3 * electionTicks)
	if s, _ := leader.r.Sync(); s != nexusraft.Degraded {
		t.Errorf("without the follower it is %s", s)
	}
	for i := 0; !leader.r.Asleep() || !witness.r.Asleep(); i++ {
		if i > 100*electionTicks {
			t.Fatalf("without the follower %v sleep:\n%s", w.sleepers(), w.told())
		}
		w.pass(1)
	}
	if err := zone.Lacks(leader.r.Status()); err == nil {
		t.Error("it says that it can lose any node")
	}
	w.start(follower)
	w.pass(2)
	if leader.r.Asleep() {
		t.Error("the leader sleeps though the follower is back")
	}
	w.asleep()
	if err := zone.Lacks(leader.r.Status()); err != nil {
		t.Errorf("with the follower back: %v", err)
	}
}

// TestOneWay: a link that works one way only ends with a zone that works, whichever end hears
// nothing.
func TestOneWay(t *testing.T) {
	for _, link := range [][2]uint64{{1, 2}, {2, 1}, {1, 3}, {3, 1}, {2, 3}, {3, 2}} {
		t.Run(fmt.Sprint(link), func(t *testing.T) {
			w, _, _, _ := sleepy(t)
			w.asleep()
			w.cut[link] = true
			w.pass(10 * electionTicks)
			n := leads(w)
			if n == nil {
				t.Fatalf("nobody leads:\n%s", w.told())
			}
			must(w.propose(n, "x"))
			last := n.r.Status().LastIndex
			w.run(n)
			w.pass(3 * electionTicks)
			if got := n.r.Applied(); got < last {
				t.Errorf("what is proposed is not applied: %d, want %d", got, last)
			}
			clear(w.cut)
			w.pass(20 * electionTicks)
			for i := 0; len(w.sleepers()) < 3; i++ {
				if i > 100*electionTicks {
					t.Fatalf("the link works again, and %v sleep", w.sleepers())
				}
				w.pass(1)
			}
		})
	}
}

// TestWitnessWithLess: the leader does not sleep while a replica lacks an entry, though that
// replica has all that it knows to be committed.
func TestWitnessWithLess(t *testing.T) {
	w, leader, _, _ := sleepy(t)
	must(w.propose(leader, "x"))
	w.run(leader)
	for range 10 * electionTicks {
		for _, n := range w.sorted() {
			w.passTick(n)
		}
		for range 4 {
			w.drop(func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgApp && m.GetTo() == 3 })
			w.deliver(func(*raftpb.Message) bool { return true })
		}
		if leader.r.Asleep() {
			t.Fatal("the leader sleeps, and the witness lacks an entry")
		}
	}
	w.asleep()
}

// TestNodeSaysSomethingElse: when a zone has stopped on a node alone, those that rest on the node
// wake, and what it leads.
func TestNodeSaysSomethingElse(t *testing.T) {
	for id := range uint64(3) {
		w, leader, _, _ := sleepy(t)
		w.asleep()
		w.nodes[id+1].others.Change()
		w.pass(1)
		if leader.r.Asleep() || len(w.sleepers()) > 0 && id == 0 {
			t.Errorf("a zone stops on node %d, and %v sleep", id+1, w.sleepers())
		}
		w.asleep()
	}
}
