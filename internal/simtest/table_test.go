package simtest

import (
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Bounds in ticks, with raft's election timeout of 6 to 12 and a hold time of 6.
const (
	failoverTicks = 40 // two election rounds, should the first one fail
	holdTicks     = 6
	roundTicks    = 3 // a write through the whole zone, and the pause of its client
)

// TestTable is the table of docs/invariants.md: which node dies in which state, and what the
// zone owes to its clients then.
func TestTable(t *testing.T) {
	rows := []struct {
		name string
		run  func(s *sim)
	}{
		{"in sync, leader dies", inSyncLeaderDies},
		{"in sync, follower dies", inSyncFollowerDies},
		{"in sync, follower leaves in order", inSyncFollowerLeaves},
		{"in sync, follower's disk stalls", inSyncFollowerStalls},
		{"in sync, leader's disk stalls", inSyncLeaderStalls},
		{"in sync, witness dies", inSyncWitnessDies},
		{"degraded, leader dies", degradedLeaderDies},
		{"degraded, leader restarts", degradedLeaderRestarts},
		{"degraded, witness dies", degradedWitnessDies},
		{"closing, leader dies", closingLeaderDies},
		{"member killed, then the other one", eachDies},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			forSeeds(t, 15, func(t *testing.T, seed uint64) {
				s := newSim(t, seed, seed%4 == 0)
				s.net.maxDelay = s.between(1, 4)
				s.clients.add(4)
				s.until("in sync", 400, s.inSync)
				s.run(s.between(1, 30))
				s.until("in sync", 400, s.inSync)
				row.run(s)
			})
		})
	}
}

// follower returns the member that does not lead.
func (s *sim) follower() *node {
	for _, n := range s.members() {
		if n != s.leader() {
			return n
		}
	}
	return nil
}

// kill stops a node at a random point of a round; it stays down until revive.
func (s *sim) kill(n *node) {
	s.t.Helper()
	n.gone = true
	s.faults.crash(n)
	s.until(n.name+" is dead", 50, func() bool { return n.r == nil })
}

func (s *sim) revive(n *node) { n.gone, n.restartAt = false, s.now }

func (s *sim) state() nexusraft.SyncState {
	n := s.leader()
	if n == nil {
		return nexusraft.SyncUnknown
	}
	state, _ := n.r.Sync()
	return state
}

// acknowledges waits until a write that begins now is acknowledged.
func (s *sim) acknowledges(limit int) {
	s.t.Helper()
	since := s.clients.stamp
	s.clients.add(3)
	s.until("a write that began just now is acknowledged", limit, func() bool {
		for _, op := range s.clients.history {
			if op.call > since && op.command != "" && op.ret != 0 {
				return true
			}
		}
		return false
	})
}

// silent runs on and checks that nothing is acknowledged meanwhile.
func (s *sim) silent(ticks int) {
	s.t.Helper()
	before := s.oracle.acked
	s.run(ticks)
	if s.oracle.acked != before {
		s.fatalf("%d writes were acknowledged where the zone must wait", s.oracle.acked-before)
	}
}

func inSyncLeaderDies(s *sim) {
	s.kill(s.leader())
	s.until("the follower leads", failoverTicks, func() bool { return s.leader() != nil })
	s.acknowledges(failoverTicks)
	s.end()
}

func inSyncFollowerDies(s *sim) {
	s.kill(s.follower())
	s.acknowledges(holdTicks + 3*roundTicks)
	s.until("degraded", holdTicks+2*roundTicks, func() bool { return s.state() == nexusraft.Degraded })
	s.end()
}

func inSyncFollowerLeaves(s *sim) {
	n := s.follower()
	n.gone = true
	s.faults.leave(n)
	s.until("degraded", 2, func() bool { return s.state() == nexusraft.Degraded })
	s.acknowledges(2 * roundTicks)
	s.end()
}

func inSyncFollowerStalls(s *sim) {
	n := s.follower()
	n.slowTo = s.now + 1000*tickSteps
	s.acknowledges(holdTicks + 2*roundTicks)
	s.run(s.between(1, 40))
	n.crash(false, 1)
	s.recover()
}

func inSyncLeaderStalls(s *sim) {
	n := s.leader()
	n.slowTo = s.now + 1000*tickSteps
	s.until("the follower leads", failoverTicks+holdTicks, func() bool { return s.leader() != n && s.leader() != nil })
	// The old leader is up and says nothing: a client finds out by its own patience.
	s.acknowledges(4 * patienceTicks)
	n.crash(s.percent(50), 1)
	s.recover()
}

func inSyncWitnessDies(s *sim) {
	leader := s.leader()
	s.kill(s.witness())
	s.acknowledges(2 * roundTicks)
	s.run(50)
	if s.leader() != leader || s.state() != nexusraft.InSync {
		s.fatalf("the death of the witness has changed the leader or the state, now %q", s.state())
	}
	s.end()
}

// degrade kills the follower and has something acknowledged that it does not have.
func (s *sim) degrade() (leader, follower *node) {
	leader, follower = s.leader(), s.follower()
	s.kill(follower)
	s.until("degraded", holdTicks+2*roundTicks, func() bool { return s.state() == nexusraft.Degraded })
	s.acknowledges(2 * roundTicks)
	return leader, follower
}

func degradedLeaderDies(s *sim) {
	leader, follower := s.degrade()
	s.kill(leader)
	s.revive(follower)
	s.silent(100)
	s.revive(leader)
	s.acknowledges(failoverTicks)
	s.recover()
}

// degradedLeaderRestarts crashes the leader wherever it is in a round, with the follower gone
// for good: leader and witness alone bring the zone back each time.
func degradedLeaderRestarts(s *sim) {
	leader, _ := s.degrade()
	for range 5 {
		s.kill(leader)
		s.run(s.between(0, 20))
		s.revive(leader)
		s.acknowledges(2 * failoverTicks)
		s.run(s.between(1, 10))
	}
	s.end()
}

func degradedWitnessDies(s *sim) {
	leader, follower := s.degrade()
	s.kill(s.witness())
	s.run(1) // what the witness has sent arrives
	s.silent(50)
	if s.percent(50) {
		s.revive(follower)
	} else {
		s.revive(s.witness())
	}
	s.acknowledges(failoverTicks)
	if leader.r == nil {
		s.fatalf("the leader is down")
	}
	s.revive(follower)
	s.revive(s.witness())
	s.recover()
}

func closingLeaderDies(s *sim) {
	leader, follower := s.degrade()
	s.run(s.between(1, 60))
	s.revive(follower)
	// It may close and be in sync within one step, which is as good here.
	s.until("closing", 400, func() bool { return s.state() == nexusraft.Closing || s.state() == nexusraft.InSync })
	s.kill(leader)
	s.run(s.between(0, 60))
	s.revive(leader)
	s.acknowledges(2 * failoverTicks)
	s.recover()
}

// eachDies kills the leader, has it come back, and kills the new leader once in sync:
// the node that came back carries the data.
func eachDies(s *sim) {
	for range 3 {
		n := s.leader()
		s.kill(n)
		s.acknowledges(2 * failoverTicks)
		s.revive(n)
		s.until("in sync", 400, s.inSync)
	}
	s.recover()
}

// TestFounderAlone restarts a founder that has nobody yet, and reads as soon as it leads: a
// crash may take back the newest commit index, and raft lets a single voter answer reads
// before it knows it again.
func TestFounderAlone(t *testing.T) {
	forSeeds(t, 15, func(t *testing.T, seed uint64) {
		s := newSim(t, seed, true)
		s.admin.done = true
		s.clients.add(4)
		n := s.nodes[0]
		for range 5 {
			s.acknowledges(2 * failoverTicks)
			s.run(s.between(0, 10))
			n.crash(s.percent(50), 1)
			key := fmt.Sprintf("r%d", s.rng.IntN(registers))
			op := s.clients.operation(&client{all: s.clients, target: n}, key)
			s.until("a read after the restart", patienceTicks, func() bool {
				op.c.target = n
				op.attempt()
				return op.ret != 0
			})
		}
		s.end()
	})
}

// end checks what is left while a node is gone for good: the zone goes on, all that was
// acknowledged can be read through the survivors, and the answers are linearizable.
func (s *sim) end() {
	s.t.Helper()
	s.stopClients()
	for _, n := range s.members() {
		if n.r != nil && n.r.Applied() > 0 {
			s.readAll(n)
		}
	}
	s.checkHistory()
}
