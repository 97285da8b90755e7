package lessor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// election is the election timeout of fake nodes.
const election = 300 * time.Millisecond

// cluster is a zone on nodes without raft: one of them leads, in a term.
type cluster struct {
	t     *testing.T
	began time.Time
	nodes []*fakeNode

	mu     sync.Mutex // guards what follows
	state  *machinetest.Replicas
	leader *fakeNode // nil: none
	term   nexusraft.Term
	takes  func() time.Duration          // each message, and each commit
	refuse bool                          // proposals, within the term, as during a transfer
	lose   func(command []byte) error    // an error of a command that is applied all the same; nil: none
	hear   func(id int64, gone bool)     // a lease was granted, or is gone
	told   []string                      // commands that were applied
	hold   func(command []byte) chan int // holds a command before it is applied
}

// fakeNode is a node with its lessor.
type fakeNode struct {
	of      *cluster
	number  int
	lessor  *Lessor
	changed chan []zone
	news    chan struct{} // has room for one
	stalled chan struct{} // nil: it runs; else closed when it runs again; guarded by cluster.mu
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{
		t: t, began: time.Now(), state: machinetest.New(t, kv.StateMachine{}),
		takes: func() time.Duration { return time.Millisecond },
	}
	c.state.SetVersion(kv.VersionLeases)
	for i := range nodes {
		n := &fakeNode{
			of: c, number: i, lessor: New(Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}),
			changed: make(chan []zone), news: make(chan struct{}, 1),
		}
		c.nodes = append(c.nodes, n)
		n.run()
	}
	synctest.Wait() // all of them run
	return c
}

// run runs the node's lessor until the test ends.
func (n *fakeNode) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { n.lessor.run(ctx, n, n.changed) })
	ended.Go(func() { n.watch(ctx) })
	n.of.t.Cleanup(func() {
		n.of.mu.Lock()
		n.goOn()
		n.of.mu.Unlock()
		cancel()
		ended.Wait()
	})
}

// watch tells the lessor of the zone while the node leads it.
func (n *fakeNode) watch(ctx context.Context) {
	for {
		select {
		case <-n.news:
		case <-ctx.Done():
			return
		}
		z := n.leads()
		if z == nil || n.running(ctx) != nil {
			continue
		}
		select {
		case n.changed <- []zone{z}:
		case <-ctx.Done():
			return
		}
	}
}

func (n *fakeNode) leads() zone {
	n.of.mu.Lock()
	defer n.of.mu.Unlock()
	if n.of.leader != n {
		return nil
	}
	return fakeZone{n, n.of.term}
}

// running waits while the node stands still.
func (n *fakeNode) running(ctx context.Context) error {
	for {
		n.of.mu.Lock()
		stalled := n.stalled
		n.of.mu.Unlock()
		if stalled == nil {
			return nil
		}
		select {
		case <-stalled:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
		}
	}
}

// stall has the node stand still, as with a stalled disk, or go on.
func (n *fakeNode) stall(still bool) {
	n.of.mu.Lock()
	defer n.of.mu.Unlock()
	if n.goOn(); still {
		n.stalled = make(chan struct{})
	}
}

func (n *fakeNode) goOn() {
	if n.stalled != nil {
		close(n.stalled)
		n.stalled = nil
	}
}

func (n *fakeNode) tell() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// transfer has the leader refuse proposals, as during a transfer, or take them again.
func (c *cluster) transfer(under bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = under
}

// lead makes a node the leader, or with nil none.
func (c *cluster) lead(n *fakeNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader, c.refuse = n, false
	if n != nil {
		c.term++
		n.tell()
	}
}

func (c *cluster) delay(ctx context.Context) error {
	c.mu.Lock()
	d := c.takes()
	c.mu.Unlock()
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
	}
}

// apply applies a command; mu is held.
func (c *cluster) apply(command []byte) (nexusraft.Result, error) {
	before := c.ids()
	data, err := c.state.Apply(nexusraft.Command{Data: command})
	after := c.ids()
	for id := range before {
		if !after[id] && c.hear != nil {
			c.hear(id, true)
		}
	}
	for id := range after {
		if !before[id] && c.hear != nil {
			c.hear(id, false)
		}
	}
	if c.leader != nil {
		c.leader.tell()
	}
	if err == nil && c.lose != nil {
		err = c.lose(command)
	}
	return nexusraft.Result{Data: data}, err
}

func (c *cluster) ids() map[int64]bool {
	ids := make(map[int64]bool)
	if err := kv.Leases(c.state.Reader(), func(l kv.Lease) error { ids[l.ID] = true; return nil }); err != nil {
		c.t.Error(err)
	}
	return ids
}

// lease returns a lease of the state.
func (c *cluster) lease(id int64) (kv.Lease, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok, err := kv.LeaseOf(c.state.Reader(), id)
	if err != nil {
		c.t.Error(err)
	}
	return l, ok
}

// grant grants a lease.
func (c *cluster) grant(id, ttl int64) {
	c.t.Helper()
	if _, err := c.nodes[0].lessor.Grant(c.t.Context(), 1, id, ttl); err != nil {
		c.t.Fatal(err)
	}
}

// renew renews a lease through a node.
func (c *cluster) renew(n *fakeNode, id int64) int64 {
	c.t.Helper()
	ttl, err := n.lessor.Renew(c.t.Context(), 1, id)
	if err != nil {
		c.t.Fatal(err)
	}
	return ttl
}

func (n *fakeNode) ElectionTimeout() time.Duration { return election }

func (n *fakeNode) AwaitWorkers(ctx context.Context) error { return n.running(ctx) }

func (n *fakeNode) AskLeader(ctx context.Context, zone nexusraft.ZoneID, question []byte) ([]byte, error) {
	c := n.of
	if err := errors.Join(n.running(ctx), c.delay(ctx)); err != nil {
		return nil, err
	}
	c.mu.Lock()
	leader := c.leader
	c.mu.Unlock()
	if leader == nil {
		return nil, &nexusraft.NotLeaderError{Zone: zone}
	}
	if err := leader.running(ctx); err != nil {
		return nil, err
	}
	answer, err := leader.lessor.Answer(ctx, zone, question)
	return answer, errors.Join(err, c.delay(ctx))
}

func (n *fakeNode) ProposeAt(ctx context.Context, _ nexusraft.ZoneID, command []byte) (nexusraft.Result, error) {
	if err := n.of.delay(ctx); err != nil {
		return nexusraft.Result{}, err
	}
	n.of.mu.Lock()
	defer n.of.mu.Unlock()
	if n.of.leader == nil {
		return nexusraft.Result{}, nexusraft.ErrNotLeader
	}
	return n.of.apply(command)
}

// fakeZone is the zone in a node's term.
type fakeZone struct {
	n    *fakeNode
	term nexusraft.Term
}

func (z fakeZone) ID() nexusraft.ZoneID { return 1 }
func (z fakeZone) Term() nexusraft.Term { return z.term }

// leads returns ErrNotLeader unless the node leads in the term; mu is held.
func (z fakeZone) leads() error {
	if z.n.of.leader != z.n || z.n.of.term != z.term {
		return &nexusraft.NotLeaderError{Zone: 1}
	}
	return nil
}

func (z fakeZone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := errors.Join(z.n.of.delay(ctx), z.n.running(ctx)); err != nil {
		return err
	}
	if err := z.read(fn); err != nil {
		return err
	}
	return z.n.of.delay(ctx) // until the caller goes on
}

func (z fakeZone) read(fn func(nexusraft.Reader) error) error {
	z.n.of.mu.Lock()
	defer z.n.of.mu.Unlock()
	if err := z.leads(); err != nil {
		return err
	}
	return fn(z.n.of.state.Reader())
}

func (z fakeZone) ReadLocal(_ context.Context, fn func(nexusraft.Reader) error) error {
	z.n.of.mu.Lock()
	defer z.n.of.mu.Unlock()
	return fn(z.n.of.state.Reader())
}

func (z fakeZone) Propose(ctx context.Context, command []byte) (nexusraft.Result, error) {
	c := z.n.of
	if err := errors.Join(c.delay(ctx), z.n.running(ctx)); err != nil {
		return nexusraft.Result{}, errors.Join(nexusraft.ErrUncertain, err)
	}
	c.mu.Lock()
	var held chan int
	if c.hold != nil {
		held = c.hold(command)
	}
	c.mu.Unlock()
	if held != nil {
		<-held
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := z.leads(); err != nil || c.refuse {
		return nexusraft.Result{}, errors.Join(err, &nexusraft.NotLeaderError{Zone: 1})
	}
	c.told = append(c.told, fmt.Sprintf("%d at %v", command[0], time.Since(c.began).Round(time.Second)))
	return c.apply(command)
}
