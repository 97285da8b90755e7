package simtest

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// faults breaks things at random while it is on.
type faults struct {
	s  *sim
	on bool
}

// step may begin one fault; chances are for each tick.
func (f *faults) step() {
	s := f.s
	if !f.on || s.now%tickSteps != 0 {
		return
	}
	switch p := s.rng.IntN(1000); {
	case p < 30:
		f.crash(s.nodes[s.rng.IntN(len(s.nodes))])
	case p < 40:
		for _, n := range s.nodes {
			f.crash(n)
		}
	case p < 70:
		f.weather()
	case p < 100:
		f.partition()
	case p < 130:
		s.net.heal()
	case p < 150:
		f.stall(s.nodes[s.rng.IntN(len(s.nodes))])
	case p < 160:
		f.transfer()
	case p < 170:
		f.leave(s.anyMember())
	case p < 175:
		n := f.zone().anyMember()
		if n.r != nil {
			n.later(func(n *node) { _ = n.r.Campaign() }) // refused where a leader was heard of
		}
	case p < 195: // the zone falls asleep, or nearly
		f.zone().clients.pause = s.now + int64(s.between(5, 60)*tickSteps)
	}
}

// zone returns any of the zones.
func (f *faults) zone() *sim {
	if len(f.s.zones) == 1 {
		return f.s
	}
	return f.s.zones[f.s.rng.IntN(len(f.s.zones))]
}

// crash arms a crash at a random point of a round.
func (f *faults) crash(n *node) {
	if n.r != nil {
		n.crashAt = crashPoint(f.s.between(int(beforeWrite), int(crashPoints)-1))
	}
}

// weather changes what the network does to each message.
func (f *faults) weather() {
	s := f.s
	s.net.maxDelay = []int{1, 2, 6, 3 * tickSteps}[s.rng.IntN(4)]
	s.net.dropPercent = []int{0, 2, 10, 40}[s.rng.IntN(4)]
	s.net.dupPercent = []int{0, 5, 30}[s.rng.IntN(3)]
}

// partition blocks one link, in one direction or both, or all links of a node.
func (f *faults) partition() {
	s := f.s
	from, to := s.nodes[s.rng.IntN(len(s.nodes))], s.nodes[s.rng.IntN(len(s.nodes))]
	s.net.blocked[linkOf(from, to)] = true
	if s.percent(50) {
		s.net.blocked[linkOf(to, from)] = true
	}
	if s.percent(30) {
		for _, n := range s.nodes {
			s.net.blocked[linkOf(from, n)], s.net.blocked[linkOf(n, from)] = true, true
		}
	}
}

// stall has a node's disk answer nothing for a while.
func (f *faults) stall(n *node) {
	n.slowTo = f.s.now + int64(f.s.between(2, 40)*tickSteps)
}

func (f *faults) transfer() {
	z := f.zone()
	n := z.leader()
	if n == nil {
		return
	}
	to := z.nodes[f.s.rng.IntN(len(f.s.nodes))]
	n.later(func(n *node) {
		err := zone.TransferLeader(n.r, to.replica)
		if err == nil && to.witness {
			f.s.fatalf("I11: %s takes a transfer to the witness", n.name)
		}
	})
}

// leave stops a member in order: it says so, and syncs.
func (f *faults) leave(n *node) {
	if n.r == nil {
		return
	}
	for _, z := range f.s.zones {
		leaves := z.on(n.process).replica
		for _, x := range z.nodes {
			if x.process != n.process && x.r != nil {
				x.later(func(x *node) { x.r.ReportLeaving(leaves) })
			}
		}
	}
	n.crash(true, f.s.between(1, 30))
}

// stop heals everything and restarts the nodes that are down.
func (f *faults) stop() {
	f.on = false
	f.s.net.heal()
	for _, n := range f.s.nodes {
		n.crashAt, n.slowTo = never, min(n.slowTo, f.s.now)
		n.restartAt = f.s.now
	}
}

// inSync reports whether the zone has its whole shape and its leader is in sync.
func (s *sim) inSync() bool {
	n := s.leader()
	if n == nil {
		return false
	}
	state, _ := n.r.Sync()
	m := n.r.Membership()
	return state == nexusraft.InSync && m.Count(nexusraft.RoleMember) == 2 && m.Count(nexusraft.RoleWitness) == 1
}

// level reports whether every replica that is up has applied everything that is committed.
func (s *sim) level() bool {
	for _, n := range s.nodes {
		if n.r != nil && s.admitted(n) && n.r.Applied() < s.oracle.last.index {
			return false
		}
	}
	return true
}
