package simtest

import (
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// asleep reports whether every node that is up sleeps.
func (s *sim) asleep() bool {
	return !slices.ContainsFunc(s.nodes, func(n *node) bool { return n.r != nil && !n.r.Asleep() })
}

// hush lets nobody ask for anything until the zone sleeps.
func (s *sim) hush() {
	s.t.Helper()
	s.clients.pause = s.now + 1<<40
	s.until("the zone sleeps", 400, s.asleep)
}

// TestSleep breaks something while the zone sleeps or falls asleep: it says and does what an awake zone
// would, and sleeps again.
func TestSleep(t *testing.T) {
	rows := []struct {
		name string
		run  func(s *sim)
	}{
		{"nothing happens", func(s *sim) { s.run(50) }},
		{"leader dies", asleepLeaderDies},
		{"leader's disk stalls", asleepLeaderStalls},
		{"leader restarts", func(s *sim) { s.leader().crash(s.percent(50), s.between(0, 2)) }},
		{"follower dies", asleepFollowerDies},
		{"follower restarts", func(s *sim) { s.follower().crash(s.percent(50), s.between(0, 2)) }},
		{"witness restarts", func(s *sim) { s.witness().crash(s.percent(50), s.between(0, 2)) }},
		{"all restart", asleepAllRestart},
		{"leader is cut off", asleepLeaderIsCutOff},
		{"a link works one way", asleepOneWay},
		{"bad weather while it falls asleep", badNights},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			forSeeds(t, 15, func(t *testing.T, seed uint64) {
				s := newSim(t, seed, seed%4 == 0)
				s.net.maxDelay = s.between(1, 4)
				s.clients.add(4)
				s.until("in sync", 400, s.inSync)
				s.hush()
				s.run(s.between(0, 30))
				row.run(s)
				s.clients.pause = 0
				s.acknowledges(2*failoverTicks + holdTicks)
				s.until("in sync", 400, s.inSync)
				s.hush()
				s.clients.pause = 0
				s.acknowledges(3 * roundTicks)
				s.recover()
			})
		})
	}
}

// die is kill for a node that makes no rounds.
func (s *sim) die(n *node) {
	n.gone = true
	n.crash(s.percent(50), 0)
}

func asleepLeaderDies(s *sim) {
	n := s.leader()
	s.die(n)
	s.until("the follower leads", failoverTicks, func() bool { return s.leader() != nil })
	s.acknowledgesNow()
	s.revive(n)
}

// acknowledgesNow has the clients go on, and waits for a write.
func (s *sim) acknowledgesNow() {
	s.t.Helper()
	s.clients.pause = 0
	s.acknowledges(2*failoverTicks + holdTicks)
}

func asleepLeaderStalls(s *sim) {
	n := s.leader()
	n.slowTo = s.now + 1000*tickSteps
	s.clients.pause = 0 // a write finds the stall
	s.until("the follower leads", failoverTicks+4*patienceTicks,
		func() bool { return s.leader() != n && s.leader() != nil })
	n.crash(s.percent(50), 1)
}

func asleepFollowerDies(s *sim) {
	n := s.follower()
	s.die(n)
	s.until("degraded", 3*holdTicks, func() bool { return s.state() == nexusraft.Degraded })
	s.hush() // without the follower
	if s.state() != nexusraft.Degraded {
		s.fatalf("asleep without a follower, it is %q", s.state())
	}
	s.acknowledgesNow()
	s.revive(n)
}

func asleepAllRestart(s *sim) {
	for _, n := range s.nodes {
		n.crash(s.percent(50), s.between(0, 20))
	}
}

func asleepLeaderIsCutOff(s *sim) {
	n := s.leader()
	for _, x := range s.nodes {
		s.net.blocked[linkOf(n, x)], s.net.blocked[linkOf(x, n)] = true, true
	}
	s.until("the leader that is cut off gives up", failoverTicks, func() bool {
		_, self := n.r.Leader()
		return !self
	})
	s.acknowledgesNow()
	s.net.heal()
}

func asleepOneWay(s *sim) {
	from := s.nodes[s.rng.IntN(len(s.nodes))]
	for _, to := range s.nodes {
		if to != from && s.percent(60) {
			s.net.blocked[linkOf(from, to)] = true
		}
	}
	s.run(s.between(1, 60))
	s.net.heal()
}

// badNights has the zone fall asleep, or nearly, again and again while messages get lost, doubled and
// late.
func badNights(s *sim) {
	for range 8 {
		s.faults.weather()
		s.clients.pause = s.now + int64(s.between(5, 60)*tickSteps)
		s.run(s.between(10, 60))
		if n := s.nodes[s.rng.IntN(len(s.nodes))]; s.percent(50) && n.r != nil {
			n.crash(s.percent(50), s.between(0, 10))
		}
	}
	s.net.heal()
}
