package simtest

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// TestLeaderCrashesAsItRemoves: a zone of two members removes the second one, and the leader
// crashes in the round in which it applies the end of the joint configuration. If the follower had
// heard of it by then it would be gone for good, and the leader, back in the joint
// configuration, would need its vote.
func TestLeaderCrashesAsItRemoves(t *testing.T) {
	for _, at := range []crashPoint{beforeWrite, inWrite, afterWrite} {
		forSeeds(t, 10, func(t *testing.T, seed uint64) { leaderCrashesAsItRemoves(t, seed, at) })
	}
}

func leaderCrashesAsItRemoves(t *testing.T, seed uint64, at crashPoint) {
	s := newSim(t, seed, false)
	s.clients.add(4)
	s.until("in sync", 400, s.inSync)
	s.admin.done = true
	w := s.witness()
	s.change(nexusraft.MembershipChange{Remove: w.id}, func() bool { return !s.admitted(w) })
	w.retire("it was removed")
	s.run(10)
	l, f := s.leader(), s.follower()
	crashed := false
	l.crashIf = func(work *zone.Work) crashPoint {
		for _, c := range work.Committed {
			if c.ConfChange != nil && l.r.Joint() {
				crashed = true
				return at
			}
		}
		return never
	}
	s.change(nexusraft.MembershipChange{Remove: f.id}, func() bool { return l.r == nil || f.r == nil })
	l.crashIf = nil
	s.run(60)
	if !crashed {
		t.Fatal("the leader did not crash in the round that was meant")
	}
	s.until("a member leads again", 400, func() bool { return s.leader() != nil })
	s.acknowledges(50)
}

// change has the leader plan and propose a change, again and again, until done.
func (s *sim) change(c nexusraft.MembershipChange, done func() bool) {
	s.t.Helper()
	s.until("a change is made", 400, func() bool {
		if n := s.leader(); n != nil && s.now%(3*tickSteps) == 0 && !n.r.Joint() {
			n.later(func(n *node) {
				if conf, err := zone.Plan(n.r, c); err == nil {
					_ = driver.ProposeConfChange(n.group, conf, nil)
				}
			})
		}
		return done()
	})
}

// TestLeaderThatGoesTellsEarly: the leader of two members removes the other one, which comes to
// lead meanwhile. So it is a leader on its way out that commits the end of the joint configuration,
// and it is lost for good in the round in which it applies that. The one that stays must have heard
// of it by then: in the joint configuration it would need the vote of the one that is gone.
func TestLeaderThatGoesTellsEarly(t *testing.T) {
	for _, at := range []crashPoint{beforeWrite, inWrite, afterWrite, never} {
		happened := 0
		forSeeds(t, 10, func(t *testing.T, seed uint64) {
			if leaderThatGoesTellsEarly(t, seed, at) {
				happened++
			}
		})
		if happened == 0 && rareHappens() { // a single seed may miss it
			t.Errorf("crash point %v: no leader has applied its own removal", at)
		}
	}
}

func leaderThatGoesTellsEarly(t *testing.T, seed uint64, at crashPoint) (happened bool) {
	s := newSim(t, seed, false)
	s.clients.add(4)
	s.until("in sync", 400, s.inSync)
	s.admin.done = true
	w := s.witness()
	s.change(nexusraft.MembershipChange{Remove: w.id}, func() bool { return !s.admitted(w) })
	w.retire("it was removed")
	s.run(10)
	stays, goes := s.leader(), s.follower()
	goes.crashIf = func(work *zone.Work) crashPoint {
		for _, c := range work.Committed {
			if c.ConfChange != nil && goes.r.Joint() && s.leader() == goes {
				happened = true
				goes.gone = at != never
				return at
			}
		}
		return never
	}
	stays.crashIf = func(work *zone.Work) crashPoint { // it crashes between two configurations, and either may lead then
		for _, c := range work.Committed {
			if c.ConfChange != nil {
				return afterWrite
			}
		}
		return never
	}
	s.change(nexusraft.MembershipChange{Remove: goes.id}, func() bool { return stays.r == nil })
	stays.crashIf = nil
	s.until("the one that stays is alone, and leads", 400, func() bool {
		return s.leader() == stays && !stays.r.Joint() && !s.admitted(goes)
	})
	s.acknowledges(50)
	return happened
}
