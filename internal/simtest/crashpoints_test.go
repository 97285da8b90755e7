package simtest

import (
	"flag"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

var allCrashes = flag.Bool("simtest.crashes", false, "TestMembershipCrashes: every crash point; by default one in nine")

// downTicks is how long a node that has crashed stays away: the others go on with the change,
// as far as they can.
const downTicks = 40

// changes are the changes of a zone's replicas, as an operator makes them: a wish is several
// conf changes one after the other.
var changes = []struct {
	name string
	wish func(c *crashRun) *wish
}{
	{"a third member comes, as a learner first", func(c *crashRun) *wish { return &wish{"", nil, c.joiner(false)} }},
	{"a third member goes", func(c *crashRun) *wish {
		c.grant(&wish{"", nil, c.joiner(false)})
		return &wish{"", c.someFollower(), nil}
	}},
	{"the follower is replaced", func(c *crashRun) *wish { return &wish{"", c.someFollower(), c.joiner(false)} }},
	{"the leader is replaced", func(c *crashRun) *wish { return &wish{"", c.leader(), c.joiner(false)} }},
	{"the witness is replaced: it goes, another one comes", func(c *crashRun) *wish {
		return &wish{
			"", c.witness(),
			c.joiner(true),
		}
	}},
	{"the witness goes", func(c *crashRun) *wish { return &wish{"", c.witness(), nil} }},
	{"the second of two members goes", func(c *crashRun) *wish {
		c.grant(&wish{"", c.witness(), nil})
		return &wish{"", c.someFollower(), nil}
	}},
	{"the witness comes", func(c *crashRun) *wish {
		c.grant(&wish{"", c.witness(), nil})
		return &wish{"", nil, c.joiner(true)}
	}},
}

// crashRun is one change in a zone, and perhaps one crash in it.
type crashRun struct {
	*sim
	churn *churn
	nodes []*node // as the change begins: all of them crash in turn
}

func newCrashRun(t *testing.T, seed uint64) *crashRun {
	s := newSim(t, seed, false)
	s.admin.done = true
	s.clients.add(2)
	s.until("in sync", 400, s.inSync)
	return &crashRun{sim: s, churn: &churn{s: s, done: make(map[string]int)}}
}

func (c *crashRun) someFollower() *node {
	for _, m := range c.leader().r.Membership().Members {
		if n := c.replica(m.Replica); m.Role == nexusraft.RoleMember && n != c.leader() {
			return n
		}
	}
	return nil
}

// pursue lets time pass, in which the leader takes the next step towards the wish.
func (c *crashRun) pursue() bool {
	if n := c.leader(); n != nil && c.now%(3*tickSteps) == 0 {
		n.later(func(n *node) {
			if c.churn.wish != nil {
				c.churn.advise(n)
			}
		})
	}
	return c.churn.wish == nil
}

func (c *crashRun) grant(w *wish) {
	c.t.Helper()
	c.churn.wish = w
	c.until(fmt.Sprintf("%v goes, %v comes", w.old, w.fresh), 1000, c.pursue)
	c.run(10)
}

// begin makes a wish, without waiting for it.
func (c *crashRun) begin(make func(*crashRun) *wish) {
	c.churn.wish = make(c)
	c.nodes = append(c.nodes, c.sim.nodes...)
}

// writes counts the rounds of each node that write something, until the wish is granted
// and everybody knows.
func (c *crashRun) writes() []int {
	counts := make([]int, len(c.nodes))
	for i, n := range c.nodes {
		n.crashIf = func(w *zone.Work) crashPoint {
			if !w.Empty() {
				counts[i]++
			}
			return never
		}
	}
	c.until("granted", 1000, c.pursue)
	c.run(3)
	return counts
}

// crashIn has the node of that number crash in one of its rounds that write. It reports whether it
// came to that.
func (c *crashRun) crashIn(node, round int, at crashPoint) bool {
	n, hit := c.nodes[node], false
	n.crashIf = func(w *zone.Work) crashPoint {
		if w.Empty() || hit {
			return never
		}
		if round--; round >= 0 {
			return never
		}
		hit, n.gone = true, true // until everybody is back
		return at
	}
	for end := c.now + 400*tickSteps; n.r != nil && c.now < end && !c.pursue(); {
		c.step()
	}
	return hit
}

// recoverAll has everybody go on without the node for a while; then all restart at once.
func (c *crashRun) recoverAll(node int) {
	c.t.Helper()
	for range downTicks * tickSteps {
		c.pursue()
		c.step()
	}
	n := c.nodes[node]
	n.crashIf = nil
	if !n.retired {
		n.gone = false
	}
	for _, x := range c.sim.nodes {
		if x.r != nil {
			x.crash(c.percent(50), 1)
		}
	}
	c.until("a leader", 200, func() bool { return c.leader() != nil })
	c.acknowledges(failoverTicks)
	c.until("the change made", 1000, c.pursue)
	c.stopClients()
	c.until("everything applied everywhere", 200, c.level)
	for _, m := range c.members() {
		if c.admitted(m) {
			c.readAll(m)
		}
	}
	c.checkHistory()
}

// TestMembershipCrashes crashes each node in each round that it writes during each change of a
// zone's replicas, before the write and after it. The node stays away while the others go on;
// then everybody restarts. The zone has a leader again, has lost nothing that was
// acknowledged, and the change is made.
func TestMembershipCrashes(t *testing.T) {
	every := 18
	if rareHappens() {
		every = 9
	}
	for i, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			forSeeds(t, 1, func(t *testing.T, seed uint64) {
				baseline := newCrashRun(t, seed)
				baseline.begin(change.wish)
				point, crashes := i, 0
				for node, rounds := range baseline.writes() {
					for round := range rounds {
						for _, at := range []crashPoint{beforeWrite, afterWrite} {
							if point++; point%every != 0 && !*allCrashes {
								continue
							}
							t.Run(fmt.Sprintf("%v/%d/%d", baseline.nodes[node], round, at), func(t *testing.T) {
								c := newCrashRun(t, seed)
								c.begin(change.wish)
								if c.crashIn(node, round, at) {
									crashes++
								}
								c.recoverAll(node)
							})
						}
					}
				}
				t.Logf("%d of %d crash points", crashes, point-i)
			})
		})
	}
}
