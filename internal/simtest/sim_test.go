package simtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Time is counted in steps; nothing happens between two of them.
const (
	tickSteps = 8 // one tick of the zone
	traceTail = 30
)

// onlyZone is the zone of a run that has no others.
const onlyZone nexusraft.ZoneID = 7

// world is one run: the zones, the network between their nodes, and what breaks. All of it is a function
// of the seed.
type world struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	now  int64 // steps

	zones  []*sim // that there are, the first one of the run first
	net    *network
	faults *faults
	trace  trace

	partBytes int // of each node: so much is applied at once; 0: as much as there is

	electionTicks, holdTicks int // of each replica that starts from now on; 0: as by default

	leases leases // reads that a leader serves alone

	batchesFrom int64 // the step from which on all nodes know entries of several commands

	stepTime int64 // how far a step of time takes the clock that leaders put into commands
	shared   int   // writes of several zones, of which some must be synced
}

// sim is a zone of the run, its clients and the oracle that watches it. Most runs have only one.
type sim struct {
	*world
	zone  nexusraft.ZoneID
	first nexusraft.Index // where a founder's log begins: above index 1, so that a joiner starts by a snapshot

	nodes   []*node // the two members, then the witness, then nodes that joined later
	retired []*node
	clients *clients
	callers *sessionCallers
	admin   *admin
	churn   *churn // nil: the zone stays as it is
	keeper  *keeper
	oracle  *oracle

	keys bool // the zone runs kv, and not registers

	liar *node // whose state machine is not the same function, from the index lies on; nil: none
	lies nexusraft.Index
}

// newSim makes a zone and starts its nodes. A founding run begins with one member alone;
// the others are there, empty, and are admitted as the run goes on.
func newSim(t *testing.T, seed uint64, founding bool) *sim {
	t.Helper()
	return newSimAt(t, seed, founding, firstIndex)
}

// newSimAt is newSim for a zone whose log begins elsewhere.
func newSimAt(t *testing.T, seed uint64, founding bool, first nexusraft.Index) *sim {
	t.Helper()
	s := newWorld(t, seed).add(onlyZone, first)
	s.begin(founding)
	return s
}

func newWorld(t *testing.T, seed uint64) *world {
	// raft draws its election timeouts from crypto/rand.
	cryptotest.SetGlobalRandom(t, seed)
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x6e65787573)), stepTime: 1}
	if w.batchesFrom = math.MaxInt64; seed%4 != 0 {
		w.batchesFrom = int64(seed % 4 * seed % 50 * tickSteps) // mostly in the middle, as in an update
	}
	w.trace.init()
	w.net = newNetwork(w)
	return w
}

// add makes a zone that has no nodes yet.
func (w *world) add(id nexusraft.ZoneID, first nexusraft.Index) *sim {
	s := &sim{world: w, zone: id, first: first}
	s.oracle = newOracle(s)
	s.clients = &clients{s: s}
	s.callers = &sessionCallers{s: s}
	s.admin = &admin{s: s}
	if w.zones = append(w.zones, s); len(w.zones) == 1 {
		w.faults = &faults{s: s}
	}
	return s
}

// begin makes the nodes of the first zone and starts them.
func (s *sim) begin(founding bool, state ...nexusraft.Pair) {
	s.createNodes(founding, state)
	s.t.Cleanup(func() {
		for _, n := range slices.Concat(s.nodes, s.retired) {
			n.endTurn()
			n.device.close()
		}
	})
	for _, n := range s.nodes {
		n.start()
	}
}

// batches reports whether leaders may put several commands into one entry.
func (s *world) batches() bool { return s.now >= s.batchesFrom }

// time is the clock of reads, a nanosecond for each step.
func (s *world) time() time.Time { return time.Unix(0, s.now) }

// createNodes writes what every node's disk holds at the beginning.
func (s *sim) createNodes(founding bool, state []nexusraft.Pair) {
	all := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	for _, name := range []string{"a", "b", "w"} {
		all = all.With(s.newNode(name, name == "w").record())
	}
	for i, n := range s.nodes {
		origin := origin{index: s.first, term: firstTerm, members: all, state: state}
		switch {
		case founding && i == 0:
			origin.members = nexusraft.Membership{Shape: all.Shape}.With(n.record())
		case founding:
			origin.index, origin.term, origin.members = 0, 0, nexusraft.Membership{}
		}
		n.format(origin)
	}
}

// newNode makes a node, without a disk, with identities that nobody has had.
func (s *sim) newNode(name string, witness bool) *node {
	p := &process{w: s.world, name: name, witness: witness, id: nexusraft.NodeID(s.rng.Uint64() | 1)}
	p.period = s.leases.period()
	n := &node{process: p, s: s, replica: nexusraft.ReplicaID(s.rng.Uint64()>>1 | 1)}
	if witness {
		p.device = newWitnessDevice(p)
	} else {
		p.device = newMemberDevice(p)
	}
	s.nodes = append(s.nodes, n)
	return n
}

// joiner starts a new node that belongs to no zone yet.
func (s *sim) joiner(witness bool) *node {
	n := s.newNode(fmt.Sprintf("n%d", len(s.nodes)+len(s.retired)), witness)
	n.format(origin{})
	n.start()
	return n
}

// format writes what a replica begins with.
func (n *node) format(o origin) {
	n.device.add(n, o)
	n.replicas = append(n.replicas, n)
	n.shadow.begin(o)
}

// Where a founder's log begins, unless the run says something else.
const (
	firstIndex nexusraft.Index = 10
	firstTerm  nexusraft.Term  = 1
)

// origin is what a node's disk holds before its first start; the zero one is a joiner's.
type origin struct {
	index   nexusraft.Index
	term    nexusraft.Term
	members nexusraft.Membership
	state   []nexusraft.Pair
}

// members returns the full nodes that there are, in the zone or not.
func (s *sim) members() (out []*node) {
	for _, n := range s.nodes {
		if !n.witness {
			out = append(out, n)
		}
	}
	return out
}

func (s *sim) anyMember() *node {
	all := s.members()
	return all[s.rng.IntN(len(all))]
}

func (s *sim) witness() *node {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *node) bool { return n.witness })]
}

func (s *world) tick() int64 { return s.now / tickSteps }

// admitted reports whether the leader counts a node among its zone's.
func (s *sim) admitted(n *node) bool {
	leader := s.leader()
	if leader == nil {
		return false
	}
	_, ok := leader.r.Membership().Replica(n.replica)
	return ok
}

// replica returns the node of a replica.
func (s *sim) replica(id nexusraft.ReplicaID) *node {
	for _, all := range [][]*node{s.nodes, s.retired} {
		for _, n := range all {
			if n.replica == id {
				return n
			}
		}
	}
	return nil
}

// leader returns the node that leads in the newest term, or nil.
func (s *sim) leader() *node {
	var best *node
	for _, n := range s.nodes {
		if n.r == nil {
			continue
		}
		if _, self := n.r.Leader(); self && (best == nil || n.shadow.staged.term > best.shadow.staged.term) {
			best = n
		}
	}
	return best
}

// step lets one step of time pass.
func (w *world) step() {
	w.now++
	first := w.zones[0] // each process has a replica of it
	first.sweep()
	w.faults.step()
	w.net.deliver()
	for _, n := range first.nodes {
		n.process.pass()
	}
	for _, i := range w.rng.Perm(len(first.nodes)) {
		first.nodes[i].process.run()
	}
	for _, s := range w.zones {
		s.clients.step()
		s.callers.step()
		s.admin.step()
		s.churn.step()
		s.keeper.step()
		s.oracle.ages()
		s.oracle.lease()
	}
}

// sweep takes out the nodes that are retired.
func (s *sim) sweep() {
	s.nodes = slices.DeleteFunc(s.nodes, func(n *node) bool {
		if n.retired {
			s.retired = append(s.retired, n)
		}
		return n.retired
	})
}

// run lets ticks pass.
func (s *world) run(ticks int) {
	for range ticks * tickSteps {
		s.step()
	}
}

// until runs until done, and returns how many ticks that took; it fails the test if it
// takes more than the limit.
func (s *sim) until(what string, limit int, done func() bool) int64 {
	s.t.Helper()
	begin := s.tick()
	for !done() {
		if s.tick()-begin >= int64(limit) {
			s.fatalf("liveness: after %d ticks, not yet: zone %v: %s\n%s", limit, s.zone, what, s.describe())
		}
		s.step()
	}
	return s.tick() - begin
}

// describe is the state of all nodes, for a failure's text.
func (s *sim) describe() string {
	var b strings.Builder
	for _, n := range s.nodes {
		d := n.shadow.durable
		fmt.Fprintf(&b, "  %s: up=%v durable term %d vote %s commit %d log (%d, %d]", n.name, n.r != nil, d.term,
			s.name(d.vote), d.commit, d.compacted, d.last())
		if n.r != nil {
			st := n.r.Status()
			fmt.Fprintf(&b, "; %s of %s, term %d, commit %d, applied %d, %q", st.State, s.name(st.Leader), st.Term, st.Commit,
				st.Applied, st.Sync)
			for _, r := range st.Replicas {
				fmt.Fprintf(&b, " [%s %s match %d %s active=%v]", s.name(r.Replica), r.Role, r.Match, r.State, r.Active)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *sim) name(id nexusraft.ReplicaID) string {
	if n := s.replica(id); n != nil {
		return n.name
	}
	return "-"
}

// fatalf ends the test with everything that is needed to run it again.
func (s *world) fatalf(format string, args ...any) {
	s.t.Helper()
	top, rest, _ := strings.Cut(s.t.Name(), "/")
	row, _, deeper := strings.Cut(rest, "/")
	run := "^" + top + "$"
	if deeper {
		run += "/^" + row + "$"
	}
	s.t.Fatalf("seed %d, tick %d: %s\nrerun: go test ./internal/simtest -run '%s' -simtest.seed=%d\nlast events:\n%s",
		s.seed, s.tick(), fmt.Sprintf(format, args...), run, s.seed, s.trace.tail())
}

func (s *world) must(n fmt.Stringer, doing string, err error) {
	s.t.Helper()
	if err != nil {
		s.fatalf("%s: %s: %v", n, doing, err)
	}
}

// percent is true with that probability.
func (s *world) percent(p int) bool { return s.rng.IntN(100) < p }

// between returns a number of [lo, hi].
func (s *world) between(lo, hi int) int { return lo + s.rng.IntN(hi-lo+1) }
