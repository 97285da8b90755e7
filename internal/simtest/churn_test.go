package simtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// churn changes the zone's replicas at random, as an operator would: one wish at a time, with
// the same checks as the node's own calls. It loses disks, too, where I1 says that a zone
// survives that: any one of them while the leader is in sync.
type churn struct {
	s    *sim
	on   bool
	wish *wish
	done map[string]int // by kind
}

// wish is one change: old goes, fresh comes; either may be nil.
type wish struct {
	kind       string
	old, fresh *node
}

func (c *churn) step() {
	if c == nil || c.s.now%tickSteps != 0 {
		return
	}
	s := c.s
	if c.on && c.wish == nil && s.percent(10) {
		c.begin()
	}
	if c.on && s.percent(3) {
		c.transfer()
	}
	if s.now%(3*tickSteps) != 0 {
		return
	}
	if n := s.leader(); n != nil {
		n.later(c.advise)
	}
}

// begin makes a wish up.
func (c *churn) begin() {
	s := c.s
	if !s.inSync() && !s.roomy() {
		return
	}
	member, watcher, members := c.pick()
	switch p := s.rng.IntN(100); {
	case p < 50 && !s.agreed():
	case p < 35: // a member's disk is lost, the leader's or another's
		c.wish = &wish{"lost member", member, s.joiner(false)}
		member.retire("its disk is lost")
	case p < 50:
		c.wish = &wish{"lost witness", watcher, s.joiner(true)}
		watcher.retire("its disk is lost")
	case p < 65:
		c.wish = &wish{"replaced member", member, s.joiner(false)}
	case p < 75:
		c.wish = &wish{"replaced witness", watcher, s.joiner(true)}
	case p < 90 && members < 3:
		c.wish = &wish{"third member", nil, s.joiner(false)}
	case members > 2:
		c.wish = &wish{"removed member", member, nil}
	}
	if c.wish != nil {
		s.eventf("wish: %s, %v goes, %v comes", c.wish.kind, c.wish.old, c.wish.fresh)
	}
}

// pick returns one of the zone's members, its witness, and how many members there are.
func (c *churn) pick() (member, watcher *node, members int) {
	var all []*node
	for _, m := range c.s.leader().r.Membership().Members {
		switch n := c.s.replica(m.Replica); m.Role {
		case nexusraft.RoleMember:
			all = append(all, n)
		case nexusraft.RoleWitness:
			watcher = n
		}
	}
	return all[c.s.rng.IntN(len(all))], watcher, len(all)
}

// String is for events and failures.
func (n *node) String() string {
	switch {
	case n == nil:
		return "nobody"
	case n.s.zone != onlyZone:
		return fmt.Sprintf("%s/%v", n.name, n.s.zone)
	}
	return n.name
}

// agreed reports whether every replica of the zone is up and has applied the configuration
// that the leader has: raft counts votes by what a candidate has applied, so that a disk
// that is lost before the others know of the last change may cost the zone its quorum.
func (s *sim) agreed() bool {
	want := s.leader().r.Membership()
	for _, m := range want.Members {
		n := s.replica(m.Replica)
		if n.r == nil || n.turn != nil || !cmp.Equal(n.r.Membership(), want) {
			return false
		}
	}
	return true
}

// roomy reports whether the zone is in sync with a third member.
func (s *sim) roomy() bool {
	n := s.leader()
	if n == nil || n.r.Joint() {
		return false
	}
	state, _ := n.r.Sync()
	m := n.r.Membership()
	return state == nexusraft.InSync && m.Count(nexusraft.RoleMember) == 3 && m.Count(nexusraft.RoleWitness) == 1
}

func (c *churn) transfer() {
	s := c.s
	to := s.nodes[s.rng.IntN(len(s.nodes))].id
	if s.percent(50) {
		to = 0
	}
	if n := s.leader(); n != nil {
		n.later(func(n *node) { n.pass(to) })
	}
}

// pass has another node lead, if the zone's own rules allow it.
func (n *node) pass(to nexusraft.NodeID) {
	transferee, err := zone.PlanTransfer(n.r, to)
	if err == nil && transferee != n.replica {
		err = zone.TransferLeader(n.r, transferee)
	}
	n.s.eventf("%s is asked to hand over to %s: %v", n.name, n.s.name(transferee), err)
}

// advise takes the next step towards the wish, on the leader; what is refused now is tried
// again.
func (c *churn) advise(n *node) {
	c.settle(n)
	w := c.wish
	if w == nil || n.r.Joint() {
		return
	}
	members := n.r.Membership()
	var role nexusraft.Role
	if w.fresh != nil {
		m, _ := members.Replica(w.fresh.replica)
		role = m.Role
	}
	present := false
	if w.old != nil {
		_, present = members.Replica(w.old.replica)
	}
	switch witness := w.old != nil && w.old.witness; {
	case present && (witness || w.fresh == nil):
		c.plan(n, nexusraft.MembershipChange{Remove: w.old.id})
	case w.fresh != nil && role == "":
		m := w.fresh.record()
		if !w.fresh.witness {
			m.Role = nexusraft.RoleLearner
		}
		c.propose(n, zone.ConfChange{Set: []nexusraft.Member{m}})
	case role == nexusraft.RoleLearner && present:
		c.plan(n, nexusraft.MembershipChange{Replace: w.old.id, With: w.fresh.id})
	case role == nexusraft.RoleLearner:
		c.plan(n, nexusraft.MembershipChange{Promote: w.fresh.id})
	default:
		c.s.eventf("wish granted: %s", w.kind)
		c.done[w.kind]++
		c.wish = nil
	}
}

// settle wishes a third member away once nothing is broken any more.
func (c *churn) settle(n *node) {
	if c.on || c.wish != nil || n.r.Membership().Count(nexusraft.RoleMember) <= 2 {
		return
	}
	members := c.s.members()
	i := slices.IndexFunc(members, func(x *node) bool { return x != n && c.s.admitted(x) })
	if i >= 0 {
		c.wish = &wish{"removed member", members[i], nil}
	}
}

func (c *churn) plan(n *node, change nexusraft.MembershipChange) {
	conf, err := zone.Plan(n.r, change)
	c.s.eventf("%s plans to %v: %v", n.name, change, err)
	switch {
	case err == nil:
		c.propose(n, conf)
	case change.Remove == n.id || change.Replace == n.id:
		n.pass(0)
	}
}

func (c *churn) propose(n *node, change zone.ConfChange) {
	change.Time = n.clock()
	err := driver.ProposeConfChange(n.group, change, nil)
	c.s.eventf("%s proposes a change: %v", n.name, err)
}

// membershipChaos is chaos with a zone whose replicas change all the time.
func membershipChaos(t *testing.T, seed uint64) *sim {
	s := newSim(t, seed, seed%3 == 0)
	s.changeAll(seed)
	return s
}

// changeAll has nodes join and leave while things break.
func (s *sim) changeAll(seed uint64) {
	s.t.Helper()
	s.clients.add(4)
	s.until("in sync for the first time", 400, s.inSync)
	s.admin.done = true
	s.churn = &churn{s: s, on: true, done: make(map[string]int)}
	s.faults.on = seed%4 != 1
	s.run(400)
	s.churn.on = false
	s.faults.stop()
	s.until("every wish granted", 1000, func() bool { return s.churn.wish == nil })
	s.recover()
}

// TestMembershipChaos: nothing acknowledged is lost, whichever nodes join and leave.
func TestMembershipChaos(t *testing.T) {
	granted := make(map[string]int)
	forSeeds(t, 50, func(t *testing.T, seed uint64) {
		for kind, n := range membershipChaos(t, seed).churn.done {
			granted[kind] += n
		}
	})
	t.Logf("granted: %v", granted)
	if kinds := len(granted); rareHappens() && kinds < 6 {
		t.Errorf("only %d of 6 kinds of changes were made", kinds)
	}
}
