package simtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// shownTick is a tick by the monotonic clock of any node. Clocks differ in how many steps that takes: in each one
// a clock moves on by shownTick/period.
const shownTick = 26880 * time.Nanosecond

// leases are the reads by lease of a run.
type leases struct {
	w     *world
	drift float64 // that the nodes count on; 0: there are no leases
	wrong bool    // the clocks drift more than that

	paused []pausedRead
	served int // by a lease
}

// The periods of clocks whose drift is within the bound.
const (
	fastPeriod = tickSteps
	slowPeriod = tickSteps + 2
	leaseDrift = float64(slowPeriod)/fastPeriod - 1
)

// period returns that of the next node's clock.
func (l *leases) period() int64 {
	if l.drift == 0 || l.w.percent(50) {
		return fastPeriod
	}
	return slowPeriod
}

// pass has the process's clock move on.
func (p *process) pass() { p.shows += int64(shownTick) / p.period }

func (n *node) leaseConfig() (c driver.LeaseConfig) {
	if l := &n.w.leases; l.drift > 0 {
		c.Length = driver.LeaseLength(cmp.Or(n.w.electionTicks, 6), shownTick, l.drift)
		c.Clock = func() time.Time { return time.Unix(0, n.shows) }
		c.Keeps = func(nexusraft.NodeID) bool { return true }
	}
	return c
}

// read is a read at a node: by lease, as node.Zone.ReadLease has it, or else as usual.
func (n *node) read(op *operation) {
	if index, held := n.group.Lease().Index(); held {
		n.group.ReadAt(leaseRead{n, n.group, op}, index)
		return
	}
	n.group.Read(reading{n, op}, n.s.time())
}

// leaseRead is an operation that waits for the state that its lease needs.
type leaseRead struct {
	n     *node
	group *driver.Group
	op    *operation
}

// Serve implements driver.Read. The node stands still for a while once it has taken the state.
func (r leaseRead) Serve(err error) {
	if err != nil {
		r.op.refused(r.n, err)
		return
	}
	value := r.op.value(r.n)
	l := &r.n.w.leases
	l.paused = append(l.paused, pausedRead{r, value, l.w.now + int64(l.w.between(0, 2*tickSteps))})
}

// Gone implements driver.Read.
func (r leaseRead) Gone() bool { return r.op.over }

// pausedRead has taken its value, and does not know yet whether the lease still holds.
type pausedRead struct {
	leaseRead
	value string
	until int64
}

// step ends the pauses that are over.
func (l *leases) step() {
	l.paused = slices.DeleteFunc(l.paused, func(r pausedRead) bool {
		switch {
		case r.op.over || r.n.group != r.group:
			return true
		case l.w.now < r.until:
			return false
		case r.group.Lease().Holds():
			l.served++
			r.op.finish(r.value)
		default:
			r.op.attempt()
		}
		return true
	})
}

// lease checks that nobody leads after a replica that holds a lease.
func (o *oracle) lease() {
	if o.s.leases.wrong {
		return
	}
	for _, n := range o.s.nodes {
		if n.r == nil || !n.group.Lease().Holds() {
			continue
		}
		for term, leader := range o.leaders {
			if term > n.r.Term() {
				o.s.fatalf("%s holds a lease of term %d, and %s leads in term %d", n, n.r.Term(), leader, term)
			}
		}
	}
}

// newLeaseSim is newSim with leases.
func newLeaseSim(t *testing.T, seed uint64, founding bool) *sim {
	w := newWorld(t, seed)
	w.leases = leases{w: w, drift: leaseDrift}
	s := w.add(onlyZone, firstIndex)
	s.begin(founding)
	return s
}

// TestLeaseChaos breaks everything while leaders read alone, with clocks that drift as far as they may: no read is
// stale.
func TestLeaseChaos(t *testing.T) {
	served := 0
	forSeeds(t, 100, func(t *testing.T, seed uint64) {
		s := newLeaseSim(t, seed, seed%3 == 0)
		s.clients.add(4)
		s.partBytes = int(seed % 4 / 3)
		s.faults.on = true
		s.run(250)
		s.faults.stop()
		s.recover()
		served += s.leases.served
	})
	checkServed(t, served)
}

// TestLeasesAndChanges: no other leader while one holds a lease, whichever nodes join and leave.
func TestLeasesAndChanges(t *testing.T) {
	served := 0
	forSeeds(t, 40, func(t *testing.T, seed uint64) {
		s := newLeaseSim(t, seed, seed%3 == 0)
		s.changeAll(seed)
		served += s.leases.served
	})
	checkServed(t, served)
}

// checkServed wants reads by lease to have happened, or the test says nothing. Some seeds have none.
func checkServed(t *testing.T, served int) {
	t.Helper()
	if t.Logf("%d reads were served by a lease", served); served == 0 && *seedFlag == 0 {
		t.Error("no read was served by a lease")
	}
}

// leased is a zone whose leader holds a lease, and a register that it has written.
func leased(t *testing.T, seed uint64) (s *sim, leader *node) {
	s = newLeaseSim(t, seed, false)
	s.until("in sync", 400, s.inSync)
	leader = s.leader()
	s.write(leader, "1.")
	s.until("a lease", 100, func() bool {
		leader.later(func(n *node) { n.group.Read(nobody{}, s.time()) })
		return leader.group.Lease().Holds()
	})
	return s, leader
}

// nobody waits for a read.
type nobody struct{}

func (nobody) Serve(error) {}
func (nobody) Gone() bool  { return false }

// otherLeads waits until another node leads.
func (s *sim) otherLeads(than *node) {
	s.t.Helper()
	s.until("another leader", 10*failoverTicks, func() bool { return s.leader() != than && s.leader() != nil })
}

// write has a register written through a node.
func (s *sim) write(n *node, value string) {
	s.t.Helper()
	op := s.clients.operation(&client{all: s.clients, target: n}, "r0")
	op.command, op.deadline = "put r0 "+value, s.now+1000*tickSteps
	op.attempt()
	s.until("a write of "+value, 1000, func() bool { return op.ret != 0 })
}

// cutOff blocks all links of a node.
func (s *sim) cutOff(n *node) {
	for _, x := range s.nodes {
		s.net.blocked[linkOf(n, x)], s.net.blocked[linkOf(x, n)] = true, true
	}
}

// TestLeaseNeedsItsBound: a leader whose clock goes slower than it may serves a stale read by its lease; one whose
// clock goes as slow as it may does not.
func TestLeaseNeedsItsBound(t *testing.T) {
	for period, want := range map[int64]porcupine.CheckResult{
		16 * slowPeriod: porcupine.Illegal, slowPeriod: porcupine.Ok,
	} {
		t.Run(fmt.Sprint(period), func(t *testing.T) {
			forSeeds(t, 20, func(t *testing.T, seed uint64) {
				s, leader := leased(t, seed)
				for _, n := range s.nodes {
					n.period = fastPeriod
				}
				leader.period, s.leases.wrong = period, want != porcupine.Ok
				s.leases.renew(leader)
				s.cutOff(leader)
				s.otherLeads(leader)
				s.write(s.leader(), "2.")
				if held := leader.group.Lease().Holds(); held != s.leases.wrong {
					s.fatalf("the lease holds after another one's write: %t", held)
				}
				op := s.clients.operation(&client{all: s.clients, target: leader}, "r0")
				op.attempt()
				s.run(patienceTicks)
				if _, _, got := s.explain(); got != want {
					s.fatalf("the history is %v, want %v", got, want)
				}
			})
		})
	}
}

// renew waits for the lease of a question that is asked from now on.
func (l *leases) renew(n *node) {
	before := n.shows
	n.s.until("a new lease", 200, func() bool {
		n.later(func(n *node) { n.group.Read(nobody{}, n.s.time()) })
		return n.shows-before > int64(driver.LeaseLength(6, shownTick, l.drift)) && n.group.Lease().Holds()
	})
}

// campaigns has a node stand for election whenever it may, until its zone's lease of another one is over: oracle.lease
// sees to it that it does not lead before.
func (s *sim) campaigns(n, leader *node) {
	s.t.Helper()
	begin := s.now
	for leader.group.Lease().Holds() {
		if (s.now-begin)%16 == 0 {
			n.later(func(n *node) {
				if err := n.r.Campaign(); err != nil && !errors.Is(err, nexusraft.ErrRefused) {
					s.fatalf("%s can't campaign: %v", n, err)
				}
			})
		}
		s.step()
	}
	s.otherLeads(leader)
}

// TestVoterThatWasStarted: it gives no vote while the leader that it has forgotten holds a lease.
func TestVoterThatWasStarted(t *testing.T) {
	forSeeds(t, 20, func(t *testing.T, seed uint64) {
		s, leader := leased(t, seed)
		follower := s.follower()
		s.net.maxDelay = 1
		s.net.blocked[linkOf(leader, follower)] = true
		s.until("the follower gives votes", 30, func() bool { return follower.r.LeaseTicksLeft() == 0 })
		s.leases.renew(leader)
		s.witness().crash(true, 0)
		s.cutOff(leader)
		s.campaigns(follower, leader)
	})
}

// TestLeaseEndsInATransfer: the votes that a leader asks for itself know no promise.
func TestLeaseEndsInATransfer(t *testing.T) {
	forSeeds(t, 20, func(t *testing.T, seed uint64) {
		s, leader := leased(t, seed)
		follower := s.follower()
		for _, n := range s.nodes {
			s.net.blocked[linkOf(n, leader)] = n != leader // it does not learn what comes of it
		}
		leader.later(func(n *node) { s.must(n, "hand over", zone.TransferLeader(n.r, follower.replica)) })
		s.until("the follower leads", failoverTicks, func() bool { return s.leader() == follower })
	})
}
