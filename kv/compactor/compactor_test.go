package compactor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// fakeNode leads zones, and says what happens in them.
type fakeNode struct {
	t       *testing.T
	changed chan []zone
	zones   []*fakeZone
	at      time.Time
	log     strings.Builder

	mu sync.Mutex // guards the zones: fake time orders the test and the compactor, and no race detector knows
}

// fakeZone is a zone of kv without a node.
type fakeZone struct {
	of    *fakeNode
	id    nexusraft.ZoneID
	state *machinetest.Replicas

	takes    time.Duration // each proposal
	refuses  error         // each proposal
	version  uint32
	proposed []string // what the compactor has, with the time in seconds
	reads    int
}

func newFakeNode(t *testing.T, zones int) *fakeNode {
	n := &fakeNode{t: t, changed: make(chan []zone), at: time.Now()}
	for i := range zones {
		z := &fakeZone{of: n, id: nexusraft.ZoneID(i + 1), state: machinetest.New(t, kv.StateMachine{})}
		z.raise(kv.VersionHistory)
		n.zones = append(n.zones, z)
	}
	return n
}

// run runs a compactor until the test ends, in a bubble.
func (n *fakeNode) run(p policy) {
	ctx, cancel := context.WithCancel(n.t.Context())
	c := newCompactor(p, slog.New(slog.NewTextHandler(&n.log, nil)))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx, n.changed)
	}()
	n.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func (n *fakeNode) lock() (unlock func()) {
	n.mu.Lock()
	return n.mu.Unlock
}

// tell tells the compactor of zones, and waits until it has nothing to do at that time.
func (n *fakeNode) tell(zones ...*fakeZone) {
	var all []zone
	for _, z := range zones {
		all = append(all, z)
	}
	n.changed <- all
	synctest.Wait()
}

func (z *fakeZone) raise(version uint32) {
	defer z.of.lock()()
	z.version = version
	z.state.SetVersion(version)
}

// put puts n times.
func (z *fakeZone) put(n int) {
	z.of.t.Helper()
	defer z.of.lock()()
	for i := range n {
		command, err := kv.EncodePut(&etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%10), Value: []byte("v")})
		if err == nil {
			_, err = z.state.Apply(nexusraft.Command{Data: command})
		}
		if err != nil {
			z.of.t.Fatal(err)
		}
	}
}

func (z *fakeZone) standing() kv.Standing {
	defer z.of.lock()()
	p, err := kv.StandingOf(z.state.Reader())
	if err != nil {
		z.of.t.Fatal(err)
	}
	return p
}

// refuse has all proposals refused, or none.
func (z *fakeZone) refuse(err error) {
	defer z.of.lock()()
	z.refuses = err
}

// looks returns how often the zone was looked at.
func (z *fakeZone) looks() int {
	defer z.of.lock()()
	return z.reads
}

// took returns what was proposed since it was asked last.
func (z *fakeZone) took() (proposed []string) {
	defer z.of.lock()()
	proposed, z.proposed = z.proposed, nil
	return proposed
}

func (z *fakeZone) ID() nexusraft.ZoneID { return z.id }

func (z *fakeZone) Version() uint32 {
	defer z.of.lock()()
	return z.version
}

func (z *fakeZone) Read(_ context.Context, fn func(nexusraft.Reader) error) error {
	defer z.of.lock()()
	z.reads++
	return fn(z.state.Reader())
}

func (z *fakeZone) Propose(ctx context.Context, command []byte) (nexusraft.Result, error) {
	select {
	case <-time.After(z.takes):
	case <-ctx.Done():
		return nexusraft.Result{}, nexusraft.ErrUncertain
	}
	defer z.of.lock()()
	what := "sweep"
	if command[0] == 4 {
		what = "compact"
	}
	z.proposed = append(z.proposed, fmt.Sprintf("%s %d", what, time.Since(z.of.at)/time.Second))
	if z.refuses != nil {
		return nexusraft.Result{}, z.refuses
	}
	data, err := z.state.Apply(nexusraft.Command{Data: command})
	return nexusraft.Result{Data: data}, err
}

func (z *fakeZone) compact(rev int64) {
	z.of.t.Helper()
	defer z.of.lock()()
	command, err := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	if err == nil {
		_, err = z.state.Apply(nexusraft.Command{Data: command})
	}
	if err != nil {
		z.of.t.Fatal(err)
	}
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// What is older than the period goes, and no more; then the zone is left in peace.
func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		n.run(policy{period: time.Hour})
		z.put(9) // revision 10
		n.tell(z)
		time.Sleep(time.Minute)
		z.put(10) // too soon for a sample of its own: it counts as of the sixth minute
		n.tell(z)
		time.Sleep(58*time.Minute + 59*time.Second)
		want(t, "before an hour has passed", z.took(), nil)
		time.Sleep(2 * time.Second)
		want(t, "after an hour", z.took(), []string{"compact 3600", "sweep 3600"})
		if p := z.standing(); p.Compacted != 10 || p.Left() {
			t.Errorf("after an hour: %+v, want revision 10 to be compacted, and swept", p)
		}
		time.Sleep(6 * time.Minute)
		want(t, "six minutes later", z.took(), []string{"compact 3960", "sweep 3960"})
		if p := z.standing(); p.Compacted != 20 || p.Left() {
			t.Errorf("in the end: %+v", p)
		}
		reads := z.looks()
		time.Sleep(100 * time.Hour)
		if synctest.Wait(); len(z.took()) > 0 || z.looks() > reads {
			t.Errorf("an idle zone without history was looked at %d times", z.looks()-reads)
		}
	})
}

// A zone that is written all the time keeps between one period and a tenth more, in little memory.
func TestPeriodUnderWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		c := newCompactor(policy{period: 100 * time.Minute}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		at := make(map[int64]time.Duration) // when each revision was made
		for minute := range 300 {
			time.Sleep(time.Minute)
			now := time.Duration(minute) * time.Minute
			z.put(1)
			at[z.standing().Newest] = now
			c.hear(z)
			for due, any := c.next(); any && !due.After(time.Now()); due, any = c.next() {
				c.turn(t.Context())
			}
			oldest := z.standing().Compacted // the first revision that can be read
			if oldest < 0 {
				continue
			}
			if kept := now - at[oldest]; kept < 100*time.Minute || kept > 110*time.Minute {
				t.Fatalf("in minute %d, revisions of the last %v can be read, want 100 to 110 minutes", minute, kept)
			}
			if h := c.zones[z.id].history; len(h.samples) > 12 {
				t.Fatalf("in minute %d there are %d samples", minute, len(h.samples))
			}
		}
		if z.standing().Compacted < 150 {
			t.Errorf("it has compacted up to revision %d only", z.standing().Compacted)
		}
	})
}

// Somebody else compacts, too: what that has made pointless is not proposed.
func TestClientCompacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		n.run(policy{period: time.Hour})
		z.put(9)
		n.tell(z)
		time.Sleep(30 * time.Minute)
		z.compact(10)
		n.tell(z)
		time.Sleep(time.Second)
		want(t, "after the client's compaction", z.took(), []string{"sweep 1800"})
		time.Sleep(2 * time.Hour)
		want(t, "later", z.took(), nil)
	})
}

// So many revisions are kept, and the rest goes every five minutes.
func TestRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		n.run(policy{period: time.Second, revisions: 100})
		z.put(200) // revision 201
		n.tell(z)
		time.Sleep(time.Hour)
		want(t, "100 too many", z.took(), []string{"compact 300", "sweep 300"})
		z.put(50)
		n.tell(z)
		time.Sleep(time.Minute)
		z.put(50)
		n.tell(z)
		time.Sleep(time.Hour)
		want(t, "100 more", z.took(), []string{"compact 3900", "sweep 3900"})
		if p := z.standing(); p.Newest-p.Compacted != 100 {
			t.Errorf("%+v, want a hundred revisions", p)
		}
	})
}

// Nothing is compacted by itself, and what a client compacts is swept.
func TestOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		n.run(Options{Period: -1}.policy())
		z.put(100)
		n.tell(z)
		time.Sleep(1000 * time.Hour)
		want(t, "off", z.took(), nil)
		z.compact(50)
		n.tell(z)
		want(t, "a few changes, which writes might sweep", z.took(), nil)
		time.Sleep(time.Second)
		want(t, "nothing is written", z.took(), []string{"sweep 3600000"})
	})
	if p := (Options{}).policy(); p != (policy{period: DefaultPeriod}) {
		t.Errorf("by default: %+v", p)
	}
}

// Zones take turns, none waits for another one's end, and after each sweep is a rest.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 3)
		n.run(Options{Period: -1}.policy())
		for _, z := range n.zones {
			z.put(1999)
			z.compact(2000)
			z.takes = 100 * time.Millisecond
		}
		n.changed <- []zone{n.zones[0], n.zones[1], n.zones[2]}
		time.Sleep(3900 * time.Millisecond) // each sweep takes 100 ms, and then is a rest of 300
		synctest.Wait()
		for _, z := range n.zones {
			if got := z.took(); len(got) < 3 || len(got) > 4 {
				t.Errorf("zone %v: %q, want three or four sweeps in that time", z.id, got)
			}
		}
		time.Sleep(time.Minute)
		for _, z := range n.zones {
			if z.standing().Left() {
				t.Errorf("zone %v: %+v is left", z.id, z.standing())
			}
		}
	})
}

// A zone that fails gets its turns ever more seldom, and the log has one line of it; others go on.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 2)
		bad, good := n.zones[0], n.zones[1]
		n.run(Options{Period: -1}.policy())
		for _, z := range n.zones {
			z.put(1999)
			z.compact(2000)
		}
		bad.refuse(nexusraft.ErrDiskFull)
		n.tell(bad, good)
		for range 600 {
			time.Sleep(time.Second)
			n.tell(bad) // others write to it, say
		}
		if good.standing().Left() || len(bad.took()) > 20 || strings.Count(n.log.String(), "disk full") != 1 {
			t.Errorf("%+v is left of the other zone; log: %s", good.standing(), n.log.String())
		}
		bad.refuse(nil)
		time.Sleep(2 * time.Minute)
		if bad.standing().Left() {
			t.Errorf("with room again: %+v is left", bad.standing())
		}
	})
}

// A zone that another node leads has no turns; what is known of its past is true when this node leads it again.
func TestNotLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 1)
		z := n.zones[0]
		z.put(9)
		z.refuses = &nexusraft.NotLeaderError{Zone: z.id}
		n.run(policy{period: time.Hour})
		n.tell(z)
		time.Sleep(1000 * time.Hour)
		want(t, "it follows", z.took(), []string{"compact 3600"})
		z.refuse(nil)
		n.tell(z) // it leads again, and its history is older than an hour
		time.Sleep(time.Minute)
		want(t, "at once", z.took(), []string{"compact 3600000", "sweep 3600000"})
	})
}

// A zone of the layout before goes over once its version is raised, and not before; an empty one is let sleep.
func TestRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode(t, 2)
		z, empty := n.zones[0], n.zones[1]
		n.run(policy{period: time.Hour})
		z.raise(0)
		empty.raise(0)
		z.put(30)
		n.tell(z, empty)
		time.Sleep(10 * time.Hour)
		want(t, "before the raise", z.took(), nil)
		z.raise(kv.VersionHistory)
		empty.raise(kv.VersionHistory)
		n.tell(z, empty)
		if p := z.standing(); p.Left() || p.Compacted != p.Newest {
			t.Errorf("after the raise: %+v", p)
		}
		want(t, "after the raise", z.took(), []string{"sweep 36000"})
		want(t, "an empty zone", empty.took(), nil)
	})
}
