package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/compactor"
	"github.com/nexi-lab/nexus-raft/node"
)

// compacts runs a compactor beside a member until the test ends.
func (m *member) compacts(o compactor.Options) {
	ctx, stop := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { compactor.Run(ctx, m.node, o) })
	m.t.Cleanup(func() {
		stop()
		ended.Wait()
	})
}

// standing returns how far a member's copy of a zone is compacted and swept.
func (m *member) standing(id nexusraft.ZoneID) (s kv.Standing) {
	m.t.Helper()
	err := m.zoneOf(id).ReadLocal(m.t.Context(), func(r nexusraft.Reader) (err error) {
		s, err = kv.StandingOf(r)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// hasHistory makes a zone with old revisions of so many transactions of 40 puts, compacted up to the newest.
func hasHistory(t *testing.T, z *node.Zone, txns int) {
	t.Helper()
	for i := range txns {
		txn := new(etcdserverpb.TxnRequest)
		for k := range 40 {
			put := &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", k), Value: fmt.Appendf(nil, "v%d", i)}
			txn.Success = append(txn.Success, &etcdserverpb.RequestOp{
				Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put},
			})
		}
		command, err := kv.EncodeTxn(txn, kv.MaxTxnOps)
		if err != nil {
			t.Fatal(err)
		}
		run(t, z, command)
	}
	command, err := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: int64(txns)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, z, command)
}

// run proposes until an answer says that the command has run, once or several times.
func run(t *testing.T, z *node.Zone, command []byte) {
	t.Helper()
	eventually(t, "run a command", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := z.Propose(ctx, nexusraft.RequestID{}, command)
		return err
	})
}

// swept waits until nothing is left to sweep of a zone.
func (m *member) swept(id nexusraft.ZoneID) {
	m.t.Helper()
	eventually(m.t, m.config.Name+" has swept", func() error {
		if s := m.standing(id); s.Left() {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// halfSwept waits until a sweep is under way.
func (m *member) halfSwept(id nexusraft.ZoneID, of int64) {
	m.t.Helper()
	eventually(m.t, m.config.Name+" sweeps", func() error {
		if s := m.standing(id); s.Unswept >= of {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// kvChecked runs kv.Check on a member's copy of a zone.
func (m *member) kvChecked(id nexusraft.ZoneID) {
	m.t.Helper()
	if err := m.zoneOf(id).ReadLocal(m.t.Context(), kv.Check); err != nil {
		m.t.Errorf("%s: %v", m.config.Name, err)
	}
}

// TestSweepEndsWithAnotherLeader: the leader crashes in the middle of a sweep, the other member ends it, and both come
// to the same tree, which has nothing left of what was compacted.
func TestSweepEndsWithAnotherLeader(t *testing.T) {
	const txns = 60
	c := newKVCluster(t)
	leader := c.awaitSync()
	leader.raised(nexusraft.RootZone, kv.VersionLeases)
	hasHistory(t, leader.zone(), txns)
	leader = c.awaitSync()
	follower := c.other(leader)
	off := compactor.Options{Period: -1}
	leader.compacts(off)
	follower.compacts(off)
	leader.halfSwept(nexusraft.RootZone, txns-5)
	config := c.crash(leader)
	follower.swept(nexusraft.RootZone)
	again := c.start(config)
	again.compacts(off)
	c.awaitSync()
	agree(t, nexusraft.RootZone, follower, again)
	again.swept(nexusraft.RootZone)
	for _, m := range []*member{follower, again} {
		m.kvChecked(nexusraft.RootZone)
	}
}

// TestFullDiskInASweep: while the leader's disk is full it takes no sweeps, and with room again the sweep ends.
func TestFullDiskInASweep(t *testing.T) {
	const txns = 60
	c := newKVCluster(t)
	leader := c.awaitSync()
	leader.raised(nexusraft.RootZone, kv.VersionLeases)
	hasHistory(t, leader.zone(), txns)
	leader = c.awaitSync()
	run(t, leader.zone(), kv.EncodeSweep(100))
	leader.setFree(1000)
	log := new(logLines)
	leader.compacts(compactor.Options{Period: -1, Logger: slog.New(slog.NewTextHandler(log, nil))})
	log.await(t, "history not compacted yet", "disk full")
	if s := leader.standing(nexusraft.RootZone); !s.Left() {
		t.Error("there is nothing left to sweep: the test shows nothing")
	}
	leader.setFree(roomy)
	leader.swept(nexusraft.RootZone)
	agree(t, nexusraft.RootZone, leader, c.other(leader))
	leader.kvChecked(nexusraft.RootZone)
}

// TestIdleZonesAreNotCompacted: zones without history cost the compactor nothing: it proposes nothing in them, and
// wakes none.
func TestIdleZonesAreNotCompacted(t *testing.T) {
	t.Parallel()
	zones := rounds(25, 200) // 1,000 keep other tests' nodes from their ticks
	config := func(name string) node.Config {
		c := testConfig(t, name)
		c.Machines = map[string]nexusraft.StateMachine{"kv": kv.StateMachine{}}
		return c
	}
	n1 := found(t, config("n1"))
	n2 := join(t, config("n2"), n1)
	runWitnessOf(t, n1)
	put, err := kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	var all []*node.Zone
	for i := range zones {
		z := n1.create(fmt.Sprintf("z%d", i), "kv")
		run(t, z, put)
		all = append(all, z)
	}
	for _, z := range all {
		n1.raised(z.ID(), kv.VersionLeases)
	}
	for _, m := range []*member{n1, n2} {
		m.compacts(compactor.Options{Period: time.Second})
	}
	for _, z := range all { // what was there when the version was raised is its history, or it is compacted
		eventually(t, "a zone is done with", func() error {
			if s := n1.standing(z.ID()); s.Left() || s.Compacted != s.Newest {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	awaitAsleep(t, n1, n2)
	before := lastOf(t, n1, all)
	quiet := 0 // looks in a row that found nobody awake, over several of the compactor's; a slow machine wakes zones, too
	eventually(t, "the zones sleep on", func() error {
		for _, m := range []*member{n1, n2} {
			if awake, err := m.node.Awake(t.Context()); awake > 0 || err != nil {
				quiet = 0
				return fmt.Errorf("%s: %d zones are awake, %v", m.config.Name, awake, err)
			}
		}
		if quiet++; quiet < 200 {
			return fmt.Errorf("for %d looks", quiet)
		}
		return nil
	})
	for i, now := range lastOf(t, n1, all) { // each election is an entry, too
		if was := before[i]; uint64(now.applied-was.applied) > uint64(now.term-was.term) {
			t.Errorf("zone %v went from %+v to %+v", all[i].ID(), was, now)
		}
	}
}

// place is where a zone's log is.
type place struct {
	applied nexusraft.Index
	term    nexusraft.Term
}

func lastOf(t *testing.T, m *member, zones []*node.Zone) (all []place) {
	t.Helper()
	for _, z := range zones {
		s, err := m.zoneOf(z.ID()).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, place{s.Applied, s.Term})
	}
	return all
}
