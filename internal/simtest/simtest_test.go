package simtest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
)

var (
	seedsFlag = flag.Uint64("simtest.seeds", quickSeeds(), "how many seeds to run; a tenth of them with -short")
	seedFlag  = flag.Uint64("simtest.seed", 0, "run this seed alone; 0: all")
	fromFlag  = flag.Uint64("simtest.from", 1, "the first of the seeds")
	traceFlag = flag.Bool("simtest.trace", false, "print what happens")
)

// usualSeeds is how many the checks of a landing play. So many find each rare event that a test wants
// to have happened.
const usualSeeds = 100

// quickSeeds is how many are played where nobody says how many: go test ./... is to take few minutes.
func quickSeeds() uint64 {
	if os.Getenv("NEXUS_RAFT_CI") != "" {
		return usualSeeds
	}
	return usualSeeds / 10
}

// rareHappens reports whether the seeds are so many that each rare event is among them.
func rareHappens() bool { return *seedFlag == 0 && *seedsFlag >= usualSeeds && !testing.Short() }

// forSeeds runs f once for each seed that the flags ask for, share percent of them.
func forSeeds(t *testing.T, share uint64, f func(t *testing.T, seed uint64)) {
	t.Helper()
	from, n := *fromFlag, *seedsFlag*share/100
	switch {
	case *seedFlag != 0:
		from, n = *seedFlag, 1
	case testing.Short():
		n = max(n/10, 2*share/100) // the mutants need two
	}
	for seed := from; seed < from+max(1, n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, seed) })
	}
}

// regressions are seeds of TestChaos that have failed once, with what was wrong. A seed
// means its schedule only as long as nobody changes how the simulation draws; what is
// worth more has a test of its own.
var regressions = map[uint64]string{
	10:   "zone refused late answers to a leader that had crashed meanwhile as forged ones",
	1121: "simtest itself: filling a staging tree syncs what was written before",
	1911: "a founder alone answered a read before it knew its commit index again (TestFounderAlone)",
}

// TestChaos breaks everything for a while, then heals it: nothing acknowledged is lost, all
// answers are linearizable, and the zone is in sync again within bounds.
func TestChaos(t *testing.T) {
	forSeeds(t, 100, func(t *testing.T, seed uint64) { chaos(t, seed) })
}

func TestRegressions(t *testing.T) {
	for _, seed := range slices.Sorted(maps.Keys(regressions)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { chaos(t, seed) })
	}
}

// chaos is one run; every third one begins with a founder alone.
func chaos(t *testing.T, seed uint64) *sim {
	s := newSim(t, seed, seed%3 == 0)
	s.clients.add(4)
	s.partBytes = int(seed % 4 / 3) // every fourth run writes each entry that it applies by itself
	if seed%2 == 0 {
		s.until("in sync for the first time", 400, s.inSync)
	}
	s.faults.on = true
	s.run(250)
	s.faults.stop()
	s.recover()
	return s
}

// recover restarts everybody; then all is well.
func (s *sim) recover() {
	s.t.Helper()
	for _, n := range s.nodes {
		if n.r != nil {
			n.crash(s.percent(50), 1)
		}
	}
	s.settle()
}

// settle waits until all is well in the zone, and checks what is left.
func (s *sim) settle() {
	s.t.Helper()
	s.until("in sync", 500, s.inSync)
	s.stopClients()
	s.answered()
	s.until("everything applied everywhere", 100, s.level)
	for _, n := range s.members() {
		if s.admitted(n) {
			s.readAll(n)
		}
	}
	s.checkHistory()
}

// answered waits until every proposal of the replicas that run has its answer.
func (s *sim) answered() {
	s.t.Helper()
	s.until("every call is answered", 500, func() bool {
		return !slices.ContainsFunc(s.nodes, func(n *node) bool { return n.r != nil && n.waiting != 0 })
	})
}

// stopClients waits for the operations under way.
func (s *sim) stopClients() {
	s.t.Helper()
	s.clients.stopped, s.callers.stopped = true, true
	s.until("no operation under way", 100, func() bool {
		return s.callers.idle() && !slices.ContainsFunc(s.clients.all, func(c *client) bool { return c.op != nil })
	})
}

// readAll reads every register through one member.
func (s *sim) readAll(n *node) {
	s.t.Helper()
	for i := range registers {
		c := &client{all: s.clients, target: n}
		key := fmt.Sprintf("r%d", i)
		if s.keys {
			key = keysName
		}
		op := s.clients.operation(c, key)
		s.until("a read through "+n.name, patienceTicks, func() bool {
			if op.ret == 0 && s.now%tickSteps == 0 {
				c.target = n
				op.attempt()
			}
			return op.ret != 0
		})
	}
}

// TestSameSeedSameRun: what a seed does is the same each time, or no failure could be run
// again.
func TestSameSeedSameRun(t *testing.T) {
	for seed, run := range map[uint64]func(*testing.T, uint64) *sim{
		2: chaos, 3: chaos, 4: membershipChaos, 5: sessionChaos, 6: zoneChaos,
		7: keySpaceChaos,
	} {
		var first uint64
		for again := range 3 {
			t.Run(fmt.Sprintf("%d/%d", seed, again), func(t *testing.T) {
				got := run(t, seed).trace.hash.Sum64()
				if again == 0 {
					first = got
				}
				if want := first; got != want {
					t.Errorf("trace hash: got %x, want %x", got, want)
				}
			})
		}
	}
}

// TestAgesAreKnown: replicas know of their states' age, or the oracle had nothing to check.
func TestAgesAreKnown(t *testing.T) {
	if s := chaos(t, 2); s.oracle.fresh < 100 {
		t.Errorf("a replica knew the age of its state %d times, want more", s.oracle.fresh)
	}
}
