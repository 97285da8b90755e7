package node_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/witness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests beside one another wait, mostly: for timeouts of nodes, not for a processor.
	if p := flag.Lookup("test.parallel"); p.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := p.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must come; it never waits for it to pass.
const patience = 30 * time.Second

// rounds is how many rounds a test plays: few, or where NEXUS_RAFT_CI is set all.
func rounds(few, all int) int {
	if os.Getenv("NEXUS_RAFT_CI") != "" {
		return all
	}
	return few
}

// cluster is two members and a witness behind a network that can be cut.
type cluster struct {
	*network
	tune     func(*node.Config)
	services func(*node.Node) func(grpc.ServiceRegistrar) // of members; nil for none

	mu      sync.Mutex         // guards what follows
	nodes   map[string]*member // as they were last started
	watcher *watcher
}

// watcher is a running witness.
type watcher struct {
	config witness.Config
	*witness.Witness
	stop  context.CancelFunc
	ended chan error
}

// newCluster starts members n1 and n2 and witness w, and waits until they are in sync.
// The disks are in memory. tune, if not nil, is called for each member's configuration.
func newCluster(t *testing.T, tune func(*node.Config)) *cluster {
	t.Helper()
	return emptyCluster(t, tune).populate()
}

// newKVCluster is newCluster with the key-value store, behind etcd's API.
func newKVCluster(t *testing.T) *cluster {
	t.Helper()
	c := emptyCluster(t, func(n *node.Config) {
		n.StateMachine, n.ServerOptions, n.CompactEntries = kv.StateMachine{}, etcd.Options(), 50
	})
	c.services = etcd.Services
	return c.populate()
}

// populate starts the nodes of newCluster, and returns c.
func (c *cluster) populate() *cluster {
	t := c.t
	t.Helper()
	config := c.memberConfig("n1")
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	c.start(config)
	c.leader()
	waitRole(t, c.join("n2", "n1"), nexusraft.RoleMember)
	c.startWitness(c.witnessConfig("w", "n1"))
	follower := c.other(c.awaitSync())
	eventually(t, "the follower knows of the witness", func() error {
		// Until it does, it wants the first member's vote.
		if s := follower.status(); s.Membership.Count(nexusraft.RoleWitness) != 1 {
			return fmt.Errorf("it has members %+v", s.Membership.Members)
		}
		return nil
	})
	return c
}

// emptyCluster is a cluster without nodes. Its test runs beside others: it waits, mostly.
func emptyCluster(t *testing.T, tune func(*node.Config)) *cluster {
	t.Parallel()
	c := &cluster{network: newNetwork(t), tune: tune, nodes: make(map[string]*member)}
	t.Cleanup(c.heal) // before the nodes stop in order
	return c
}

func (c *cluster) memberConfig(name string) node.Config {
	config := testConfig(c.t, name)
	config.Dir = "data"
	config.ElectionTicks = 10
	config.Storage = storage.Options{FS: storage.NewMemFS(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
	if c.tune != nil {
		c.tune(&config)
	}
	return config
}

func (c *cluster) witnessConfig(name, join string) witness.Config {
	m := c.memberConfig(name)
	return witness.Config{
		Dir: "data", Name: name, FS: witness.NewMemFS(), Logger: m.Logger, Join: []string{c.door(join).address},
		TickInterval: m.TickInterval, ElectionTicks: m.ElectionTicks, JoinTimeout: m.JoinTimeout,
	}
}

// start runs a member behind its door until the test ends.
func (c *cluster) start(config node.Config) *member {
	c.t.Helper()
	lis := listen(c.t, "")
	config.Advertise = c.door(config.Name).address
	n, err := node.Open(config)
	if err != nil {
		c.t.Fatalf("open %s: %v", config.Name, err)
	}
	c.lead(config.Name, lis.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{t: c.t, config: config, node: n, stop: cancel, ended: make(chan error, 1)}
	var services func(grpc.ServiceRegistrar)
	if c.services != nil {
		services = c.services(n)
	}
	go func() { m.ended <- n.Run(ctx, lis, services) }()
	c.t.Cleanup(func() {
		c.heal()
		m.close()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[config.Name] = m
	return m
}

// join starts a new member by another one's address.
func (c *cluster) join(name, by string) *member {
	c.t.Helper()
	config := c.memberConfig(name)
	config.Join = []string{c.door(by).address}
	return c.start(config)
}

func (c *cluster) startWitness(config witness.Config) *watcher {
	c.t.Helper()
	w := c.runWitness(config)
	select {
	case <-w.Ready():
	case err := <-w.ended:
		w.ended <- err
		c.t.Fatalf("%s ended before it was ready: %v", config.Name, err)
	case <-time.After(patience):
		c.t.Fatalf("%s is not ready", config.Name)
	}
	c.watcher = w
	return w
}

// runWitness runs a witness behind its door until the test ends.
func (c *cluster) runWitness(config witness.Config) *watcher {
	c.t.Helper()
	lis := listen(c.t, "")
	config.Advertise = c.door(config.Name).address
	opened, err := witness.Open(config)
	if err != nil {
		c.t.Fatalf("open %s: %v", config.Name, err)
	}
	c.lead(config.Name, lis.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{config: config, Witness: opened, stop: cancel, ended: make(chan error, 1)}
	go func() { w.ended <- opened.Run(ctx, lis) }()
	c.t.Cleanup(func() { w.end(c.t) })
	return w
}

// end stops the witness and returns what its Run did.
func (w *watcher) end(t *testing.T) error {
	t.Helper()
	w.stop()
	return awaitEnd(t, w.config.Name, w.ended)
}

// awaitEnd waits until a Run has ended; it can be called again.
func awaitEnd(t *testing.T, name string, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		ended <- err
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not end", name)
		return nil
	}
}

// crash ends a member without an orderly stop, and returns the configuration to start it
// again: with the disk as the crash has left it.
func (c *cluster) crash(m *member) node.Config {
	c.t.Helper()
	c.isolate(m.config.Name, broken)
	seed := rand.Uint64()
	c.t.Logf("%s crashes, seed %d", m.config.Name, seed)
	config := m.config
	config.Storage.FS = config.Storage.FS.(*storage.MemFS).CrashClone(rand.New(rand.NewPCG(seed, 0)), 50)
	c.lead(m.config.Name, "")
	m.close()
	c.isolate(m.config.Name, open)
	return config
}

// crashWitness is crash for the witness.
func (c *cluster) crashWitness() witness.Config {
	c.t.Helper()
	w := c.watcher
	c.isolate(w.config.Name, broken)
	config := w.config
	config.FS = config.FS.(*witness.MemFS).CrashClone(nil, 0)
	c.lead(w.config.Name, "")
	if err := w.end(c.t); err != nil {
		c.t.Errorf("%s ended with %v", w.config.Name, err)
	}
	c.isolate(w.config.Name, open)
	return config
}

func (c *cluster) named(name string) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

// running returns the members as they were last started, in the order of their names.
func (c *cluster) running() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*member
	for _, name := range []string{"n1", "n2", "n3"} {
		if m := c.nodes[name]; m != nil {
			out = append(out, m)
		}
	}
	return out
}

// leader waits until one of the members leads, those called except not counted.
func (c *cluster) leader(except ...*member) (leader *member) {
	c.t.Helper()
	eventually(c.t, "a leader", func() error {
		var term nexusraft.Term
		leader = nil
		for _, m := range c.running() {
			s, err := rootStatus(c.t.Context(), m)
			if err == nil && s.State == nexusraft.Leader && s.Term > term && !contains(except, m) {
				leader, term = m, s.Term
			}
		}
		if leader == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return leader
}

func contains(members []*member, m *member) bool {
	for _, x := range members {
		if x == m {
			return true
		}
	}
	return false
}

// other returns the member of n1 and n2 that is not m.
func (c *cluster) other(m *member) *member {
	if m.config.Name == "n1" {
		return c.named("n2")
	}
	return c.named("n1")
}

// transfer makes the member of that name lead, and returns it.
func (c *cluster) transfer(name string) *member {
	c.t.Helper()
	heir := c.named(name)
	eventually(c.t, name+" leads", func() error {
		leader := c.leader()
		if leader == heir {
			return nil
		}
		_, err := leader.zone().TransferLeader(c.t.Context(), heir.node.ID())
		return err
	})
	return heir
}

// rootStatus is status without a test to fail: for nodes that may be down.
func rootStatus(ctx context.Context, m *member) (nexusraft.ZoneStatus, error) {
	z, err := m.node.Zone(nexusraft.RootZone)
	if err != nil {
		return nexusraft.ZoneStatus{}, err
	}
	return z.Status(ctx)
}

// awaitSync waits until a leader says that both members and the witness are there and in
// sync, and returns it.
func (c *cluster) awaitSync() (leader *member) {
	c.t.Helper()
	eventually(c.t, "in sync", func() error {
		leader = c.leader()
		s := leader.status()
		if s.Membership.Count(nexusraft.RoleMember) != 2 || s.Membership.Count(nexusraft.RoleWitness) != 1 {
			return fmt.Errorf("%s has members %+v", leader.config.Name, s.Membership.Members)
		}
		if s.Sync != nexusraft.InSync {
			return fmt.Errorf("%s is %q, its replicas %+v", leader.config.Name, s.Sync, s.Replicas)
		}
		return nil
	})
	return leader
}

// awaitCopies writes until a write is acknowledged on so many copies.
func (m *member) awaitCopies(want int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("a write on %d copies", want), func() error {
		if r := m.put("copies", fmt.Sprint(want)); r.Copies != want {
			return fmt.Errorf("it is on %d", r.Copies)
		}
		return nil
	})
}

// try proposes once, and returns within the time given.
func (m *member) try(ctx context.Context, within time.Duration, key, value string) (nexusraft.Result, error) {
	z, err := m.node.Zone(nexusraft.RootZone)
	if err != nil {
		return nexusraft.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return z.ProposeOnce(ctx, nexusraft.RequestID{}, []byte(key+"="+value))
}

// history is what became of a test's writes, each to a key of its own.
type history struct {
	mu      sync.Mutex // guards what follows
	acked   []string
	refused []string // the error said that nothing was or will be written
	last    time.Time
	gap     time.Duration // the longest between two acknowledgements

	stop context.CancelFunc
	wait sync.WaitGroup
}

// write starts writers that never pause until the history ends: each proposes by the
// members in turn, whichever are there.
func (c *cluster) write(writers int) *history {
	ctx, cancel := context.WithCancel(context.Background())
	h := &history{stop: cancel, last: time.Now()}
	for w := range writers {
		h.wait.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				members := c.running()
				key := fmt.Sprintf("w%d.%d", w, i)
				_, err := members[(w+i)%len(members)].try(ctx, time.Second, key, "x")
				h.add(key, err)
				if err != nil {
					time.Sleep(time.Millisecond) // don't spin while nobody leads
				}
			}
		})
	}
	c.t.Cleanup(h.end)
	return h
}

// end stops the writers.
func (h *history) end() {
	h.stop()
	h.wait.Wait()
}

func (h *history) add(key string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.acked = append(h.acked, key)
		h.gap = max(h.gap, time.Since(h.last))
		h.last = time.Now()
	case !errors.Is(err, nexusraft.ErrUncertain):
		h.refused = append(h.refused, key)
	}
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acked)
}

// more waits until n more writes are acknowledged.
func (h *history) more(t *testing.T, n int) {
	t.Helper()
	until := h.count() + n
	eventually(t, fmt.Sprintf("%d more writes", n), func() error {
		if got := h.count(); got < until {
			return fmt.Errorf("%d acknowledged, want %d", got, until)
		}
		return nil
	})
}

// verify reads by m, linearizably: all that was acknowledged is there, and nothing that was
// refused.
func (h *history) verify(t *testing.T, m *member) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.acked) == 0 {
		t.Error("nothing was acknowledged")
	}
	stored := make(map[string]bool)
	m.read(func(r nexusraft.Reader) error {
		clear(stored)
		for p, err := range r.Scan([]byte("w"), []byte("x")) {
			if err != nil {
				return err
			}
			stored[string(p.Key)] = true
		}
		return nil
	})
	for _, key := range h.acked {
		if !stored[key] {
			t.Errorf("%s was acknowledged, and %s does not have it", key, m.config.Name)
		}
	}
	for _, key := range h.refused {
		if stored[key] {
			t.Errorf("%s was refused as not written, and %s has it", key, m.config.Name)
		}
	}
}

// read reads linearizably, again while there is no quorum.
func (m *member) read(fn func(nexusraft.Reader) error) {
	m.t.Helper()
	eventually(m.t, "read by "+m.config.Name, func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
		defer cancel()
		return m.zone().Read(ctx, fn)
	})
}

// awaitEqual waits until both members have applied the same, and compares their states.
func (c *cluster) awaitEqual() {
	c.t.Helper()
	eventually(c.t, "equal states", func() error { return equalStates(c.t, c.named("n1"), c.named("n2")) })
}

// verify ends the writers and checks what they wrote by both members.
func (c *cluster) verify(h *history) {
	c.t.Helper()
	h.end()
	h.verify(c.t, c.named("n1"))
	h.verify(c.t, c.named("n2"))
	c.awaitEqual()
}

// record returns the record of the node of that name.
func (m *member) record(name string) nexusraft.Member {
	m.t.Helper()
	for _, x := range m.status().Membership.Members {
		if x.Name == name {
			return x
		}
	}
	m.t.Fatalf("%s knows no replica of %s", m.config.Name, name)
	return nexusraft.Member{}
}

// mentions reports what an error's text lacks.
func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got error %v, want one that mentions %q", err, word)
		}
	}
}
