package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

// founded returns a cluster whose only member is n1.
func founded(t *testing.T, tune func(*node.Config)) *cluster {
	t.Helper()
	c := emptyCluster(t, tune)
	config := c.memberConfig("n1")
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	c.start(config)
	c.leader()
	return c
}

// refusedJoin runs a node behind a door, which must not be let in, and returns the error
// of its Run. It must come sooner than unreachable addresses are given up.
func (c *cluster) refusedJoin(door string, config node.Config) error {
	c.t.Helper()
	lis := listen(c.t, "")
	config.Advertise = c.door(door).address
	c.lead(door, lis.Addr().String())
	n, err := node.Open(config)
	if err != nil {
		c.t.Fatalf("open %s: %v", config.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(c.t.Context(), lis, nil) }()
	select {
	case err := <-ended:
		return err
	case <-n.Ready():
		c.t.Errorf("%s was let in", config.Name)
		c.t.Cleanup(func() { awaitEnd(c.t, config.Name, ended) })
		return nil
	case <-time.After(15 * time.Second):
		c.t.Errorf("%s is neither let in nor refused", config.Name)
		c.t.Cleanup(func() { awaitEnd(c.t, config.Name, ended) })
		return nil
	}
}

// deadAddress is a loopback address where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func TestJoinRefused(t *testing.T) {
	// A node whose name a silent one has is let in, and one is silent that was not heard of for an election timeout: on
	// a busy machine that may come after a short one.
	c := newCluster(t, func(n *node.Config) { n.ElectionTicks = 50 })
	n1 := c.door("n1").address

	t.Run("own address", func(t *testing.T) {
		config := c.memberConfig("own")
		own := c.door("own").address
		config.Join = []string{own}
		err := c.refusedJoin("own", config)
		mentions(t, err, own, "own")

		config.Join = []string{n1, own}
		err = c.refusedJoin("own", config)
		mentions(t, err, own, "own")
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}

		_, port, _ := net.SplitHostPort(own)
		config.Join = []string{"localhost:" + port} // the same in other words
		if err := c.refusedJoin("own", config); err == nil {
			t.Error("a node joined itself")
		}
	})
	t.Run("duplicate name", func(t *testing.T) {
		config := c.memberConfig("n2")
		config.Join = []string{n1}
		err := c.refusedJoin("twin", config)
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		mentions(t, err, `"n2"`)
	})
	t.Run("nobody there", func(t *testing.T) {
		config := c.memberConfig("lost")
		dead := deadAddress(t)
		config.Join, config.JoinTimeout = []string{dead}, 300*time.Millisecond
		began := time.Now()
		err := c.refusedJoin("lost", config)
		mentions(t, err, dead, "300ms")
		if took := time.Since(began); took < config.JoinTimeout {
			t.Errorf("gave up after %v, want %v", took, config.JoinTimeout)
		}
	})
	t.Run("second witness", func(t *testing.T) {
		w := c.runWitness(c.witnessConfig("w2", "n1"))
		var err error
		select {
		case <-w.Ready():
			t.Fatal("a second witness was let in")
		case err = <-w.ended:
			w.ended <- err
		case <-time.After(patience):
			t.Fatal("a second witness is neither let in nor refused")
		}
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
	})

	s := c.awaitSync().status()
	if len(s.Membership.Members) != 3 || len(s.Membership.Removed) != 0 {
		t.Errorf("after joins that were refused the zone has %+v", s.Membership)
	}
}

// TestJoinOneOfMany: addresses where nobody listens don't keep a node from the one that
// is right, and a follower sends it on to the leader.
func TestJoinOneOfMany(t *testing.T) {
	c := newCluster(t, nil)
	follower := c.other(c.awaitSync())
	config := c.memberConfig("n3")
	config.Join = []string{deadAddress(t), c.door(follower.config.Name).address}
	n3 := c.start(config)
	waitRole(t, n3, nexusraft.RoleLearner)
	if n3.node.Cluster() != follower.node.Cluster() {
		t.Errorf("n3 is in cluster %v, want %v", n3.node.Cluster(), follower.node.Cluster())
	}
}

// TestJoinWaitsForALeader: JoinTimeout is for addresses that do not answer; a member without a
// leader answers "not yet", however long that takes.
func TestJoinWaitsForALeader(t *testing.T) {
	c := newCluster(t, nil)
	c.crashWitness()
	alone := c.awaitSync()
	gone := c.crash(c.other(alone))
	eventually(t, "nobody leads", func() error {
		if s := alone.status(); s.State == nexusraft.Leader {
			return errors.New("it leads alone")
		}
		return nil
	})
	config := c.memberConfig("n3")
	config.Advertise, config.JoinTimeout = c.door("n3").address, 10*time.Millisecond
	config.Join = []string{deadAddress(t), c.door(alone.config.Name).address}
	lis := listen(t, "")
	c.lead("n3", lis.Addr().String())
	n3, err := node.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n3.Run(t.Context(), lis, nil) }()
	t.Cleanup(func() { awaitEnd(t, "n3", ended) })
	select {
	case err := <-ended:
		ended <- nil
		t.Fatalf("it gave up, though a member answers: %v", err)
	case <-time.After(100 * config.JoinTimeout):
	}
	c.start(gone)
	select {
	case <-n3.Ready():
	case err := <-ended:
		ended <- nil
		t.Errorf("with a leader again: %v", err)
	case <-time.After(patience):
		t.Error("with a leader again it is not let in")
	}
}

// TestJoinAllAtOnce: one change of the replicas at a time is raft's rule, not a reason to
// turn a node away.
func TestJoinAllAtOnce(t *testing.T) {
	c := founded(t, nil)
	c.join("n2", "n1")
	c.join("n3", "n1")
	c.startWitness(c.witnessConfig("w", "n1"))
	c.awaitSync()
	eventually(t, "the third is a learner", func() error {
		s := c.leader().status()
		if s.Membership.Count(nexusraft.RoleLearner) != 1 || s.Membership.Count(nexusraft.RoleMember) != 2 {
			return fmt.Errorf("members %+v", s.Membership.Members)
		}
		return nil
	})
}

// TestWitnessWaitsForSecondMember: with one member it would be half of the voters.
func TestWitnessWaitsForSecondMember(t *testing.T) {
	c := founded(t, nil)
	w := c.runWitness(c.witnessConfig("w", "n1"))
	for i := range 20 {
		c.named("n1").put(fmt.Sprint("k", i), "x")
	}
	select {
	case <-w.Ready():
		t.Fatal("a witness was admitted to a single member")
	case err := <-w.ended:
		w.ended <- err
		t.Fatalf("the witness has ended: %v", err)
	default:
	}
	c.join("n2", "n1")
	c.awaitSync()
}

// TestWipedMember: it comes back as a stranger, and must not fill the quorum with its dead
// predecessor.
func TestWipedMember(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	gone := c.other(leader).config.Name
	c.crash(c.other(leader))
	leader.awaitCopies(1)

	n3 := c.join("n3", leader.config.Name)
	leader.put("after", "1")
	eventually(t, "the learner has what was written", func() error {
		var got string
		err := n3.zone().ReadLocal(t.Context(), func(r nexusraft.Reader) error {
			b, _, err := r.Get([]byte("after"))
			got = string(b)
			return err
		})
		if err == nil && got != "1" {
			err = fmt.Errorf("after = %q", got)
		}
		return err
	})
	if r := leader.put("k", "1"); r.Copies > 2 {
		t.Errorf("a write is on %d copies, there are 2", r.Copies)
	}
	s := leader.status()
	if got := s.Membership.Count(nexusraft.RoleMember); got != 2 {
		t.Errorf("%d members, want 2: %s's place is not free", got, gone)
	}
	waitRole(t, n3, nexusraft.RoleLearner)
	if s.Sync == nexusraft.InSync {
		t.Error("in sync with a member that is gone")
	}
	if got := n3.get("k"); got != "1" {
		t.Errorf("a linearizable read by a learner is %q, want 1", got)
	}

	_, err := leader.zone().TransferLeader(t.Context(), n3.node.ID())
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("transfer to a learner: %v, want ErrRefused", err)
	}
	if _, err := leader.try(t.Context(), time.Second, "k", "2"); err != nil {
		t.Errorf("a write after a refused transfer: %v", err)
	}
}

func TestTransferRefused(t *testing.T) {
	const election = 4 * time.Second
	c := newCluster(t, func(n *node.Config) {
		if n.Name != "n1" { // the founder elects itself quickly
			n.ElectionTicks = int(election / n.TickInterval)
		}
	})
	transfer := func(m *member, to nexusraft.NodeID) error {
		_, err := m.zone().TransferLeader(t.Context(), to)
		return err
	}
	leader := c.transfer("n2")
	follower := c.named("n1")
	leader.put("a", "1")

	if err := transfer(leader, leader.record("w").Node); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("transfer to the witness: %v, want ErrRefused", err)
	}
	if err := transfer(leader, 12345); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("transfer to an unknown node: %v, want ErrRefused", err)
	}
	if err := transfer(follower, follower.node.ID()); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("transfer asked of a follower: %v, want ErrNotLeader", err)
	}
	began := time.Now()
	leader.put("a", "2")
	if took := time.Since(began); took > election/2 {
		t.Errorf("a write after transfers that were refused took %v: raft was asked, and waited for them", took)
	}
}

// TestReadsByFollowers: what is acknowledged by one member is seen at once by the other,
// while the zone changes hands.
func TestReadsByFollowers(t *testing.T) {
	const rounds, perTransfer = 120, 10
	c := newCluster(t, nil)
	turn := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range turn {
			handOver(t.Context(), c.running())
		}
	}()
	members := c.running()
	leaders := make(map[nexusraft.ReplicaID]bool)
	began := time.Now()
	for i := 0; i < rounds || len(leaders) < 2; i++ {
		if time.Since(began) > patience {
			t.Errorf("after %d rounds only %v have led, want both members", i, leaders)
			break
		}
		if i%perTransfer == 0 {
			select {
			case turn <- struct{}{}:
			default: // it is still at the last one
			}
		}
		value := fmt.Sprint(i)
		members[i%2].put("a", value)
		for _, m := range members {
			var got string
			m.read(func(r nexusraft.Reader) error {
				b, _, err := r.Get([]byte("a"))
				got = string(b)
				return err
			})
			if got != value {
				t.Errorf("%s reads %q after %q was acknowledged by %s", m.config.Name, got, value, members[i%2].config.Name)
			}
		}
		if leader := members[0].status().Leader; leader != 0 {
			leaders[leader] = true
		}
	}
	close(turn)
	<-done
}

// handOver makes whichever of two members leads hand over to the other. That may fail: the
// zone is changing hands.
func handOver(ctx context.Context, members []*member) {
	for _, m := range members {
		z, err := m.node.Zone(nexusraft.RootZone)
		if err != nil {
			continue
		}
		for _, to := range members {
			if to == m {
				continue
			}
			if _, err := z.TransferLeader(ctx, to.node.ID()); err == nil {
				return
			}
		}
	}
}

// TestOtherJoinChangesNothing: on a directory that belongs to a cluster --join is a hint.
func TestOtherJoinChangesNothing(t *testing.T) {
	c := newCluster(t, nil)
	stranger := found(t, testConfig(t, "stranger"))
	follower := c.other(c.awaitSync())
	config := c.crash(follower)
	config.Join = []string{stranger.config.Advertise, deadAddress(t)}
	again := c.start(config)
	c.awaitSync()
	again.awaitCopies(2)
	if again.node.Cluster() != follower.node.Cluster() || again.node.ID() != follower.node.ID() {
		t.Errorf("it is node %v of %v, was %v of %v", again.node.ID(), again.node.Cluster(), follower.node.ID(),
			follower.node.Cluster())
	}
	if s := stranger.status(); len(s.Membership.Members) != 1 {
		t.Errorf("the other cluster has %+v", s.Membership.Members)
	}
}

// TestMembersMove: both members are restarted at other addresses, and one hint is right.
// The witness stays where it was.
func TestMembersMove(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	leader.put("a", "1")
	hinting, hinted := c.crash(leader), c.crash(c.other(leader))
	c.move("n1")
	c.move("n2")
	hinting.Join = []string{deadAddress(t), c.door(hinted.Name).address}
	hinted.Join = nil
	c.start(hinting)
	c.start(hinted)
	c.moved("n1", "n2")
}

// TestAllMove: so is the witness, with the same hint.
func TestAllMove(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	leader.put("a", "1")
	hinting, hinted := c.crash(leader), c.crash(c.other(leader))
	watcher := c.crashWitness()
	c.move("n1")
	c.move("n2")
	c.move("w")
	hints := []string{deadAddress(t), c.door(hinted.Name).address}
	hinting.Join, hinted.Join, watcher.Join = hints, nil, hints
	c.start(hinting)
	c.start(hinted)
	c.startWitness(watcher)
	c.moved("n1", "n2", "w")
}

// moved checks that a cluster that was restarted at other addresses is whole again.
func (c *cluster) moved(names ...string) {
	c.t.Helper()
	leader := c.awaitSync()
	leader.awaitCopies(2)
	if got := c.other(leader).get("a"); got != "1" {
		c.t.Errorf("after the move a = %q, want 1", got)
	}
	eventually(c.t, "the zone's records have the new addresses", func() error {
		for _, m := range c.leader().status().Membership.Members {
			if want := c.door(m.Name).address; m.Address != want {
				return fmt.Errorf("%s is at %s, want %s", m.Name, m.Address, want)
			}
		}
		return nil
	})
	leader = c.awaitSync()
	c.crash(c.other(leader)) // the witness is truly there
	leader.awaitCopies(1)
}

// rollBack crashes the follower, and brings it back twice, so that its peers have seen a
// newer incarnation than a copy of its disk can come as. It returns the configurations of
// the member and of the copy, neither of which runs.
func (c *cluster) rollBack() (config, copied node.Config) {
	c.t.Helper()
	follower := c.other(c.awaitSync())
	name := follower.config.Name
	config = c.crash(follower)
	copied = config
	copied.Storage.FS = config.Storage.FS.(*storage.MemFS).CrashClone(nil, 0)
	for range 2 {
		m := c.start(config)
		c.awaitSync()
		m.put("seen", "1")
		m.get("seen") // so the leader has seen this incarnation
		c.other(m).get("seen")
		config = c.crash(c.named(name))
	}
	return config, copied
}

// fenced waits until the node has ended because a peer refuses it for good.
func (m *member) fenced(why string) {
	m.t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- nil // for the cleanup
		if !errors.Is(err, nexusraft.ErrFenced) {
			m.t.Errorf("%s ended with %v, want ErrFenced", m.config.Name, err)
			return
		}
		mentions(m.t, err, why, m.config.Dir)
	case <-time.After(patience):
		m.t.Fatalf("%s goes on, want it fenced", m.config.Name)
	}
}

// reopen opens a node's directory so many times, each of which counts, because the node's own
// events are read.
func (c *cluster) reopen(config node.Config, times int) {
	c.t.Helper()
	for range times {
		n, err := node.Open(config)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, err = range n.Subscribe(c.t.Context(), nexusraft.Subscription{}) {
			break
		}
		if err := errors.Join(err, n.Close()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestClonedDisk: a copy of a member's disk that is older than what its peers have seen of
// the member is no member, at the same address or at another one.
func TestClonedDisk(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprintf("elsewhere %v", elsewhere), func(t *testing.T) {
			c := newCluster(t, nil)
			h := c.write(2)
			config, copied := c.rollBack()
			if elsewhere {
				c.move(config.Name)
			}
			clone := c.start(copied)
			h.more(t, 20)
			clone.fenced("copied or rolled back")
			c.reopen(copied, 5) // its incarnation is the highest of all now
			c.start(copied).fenced("knows nothing of its incarnation")
			c.start(config)
			c.awaitSync()
			c.verify(h)
		})
	}
}

// TestDiskSetBack: a follower whose disk is set back to an earlier moment of the same run remembers
// its openings, but not all that it has acknowledged. It ends as soon as the leader speaks to it.
func TestDiskSetBack(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	leader := c.awaitSync()
	follower := c.other(leader)
	earlier := follower.config.Storage.FS.(*storage.MemFS).CrashClone(nil, 0)
	h.more(t, 20)
	c.awaitSync()
	config := c.crash(follower)
	config.Storage.FS = earlier
	back := c.start(config)
	select {
	case err := <-back.ended:
		back.ended <- nil // for the cleanup
		if !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Fatalf("%s ended with %v, want ErrCorrupt", config.Name, err)
		}
		mentions(t, err, "its disk was set back", "join as a new node")
	case <-time.After(patience):
		t.Fatalf("%s goes on: %+v", config.Name, back.status())
	}
	h.end()
	h.verify(t, leader)
}

// TestClonedDiskHasNoVote: nor does a member that was restarted take the clone's vote.
func TestClonedDiskHasNoVote(t *testing.T) {
	c := newCluster(t, nil)
	config, copied := c.rollBack()
	other := c.named("n1")
	if config.Name == "n1" {
		other = c.named("n2")
	}
	restarted := c.crash(other)
	watcher := c.crashWitness()
	m := c.start(restarted)
	clone := c.start(copied)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if s := m.status(); s.State == nexusraft.Leader {
			t.Fatalf("%s was elected by a clone's vote: %+v", m.config.Name, s)
		}
	}
	// A clone that knows of two voters only ends with the first refusal.
	if s, err := clone.zone().Status(t.Context()); err == nil && s.State == nexusraft.Leader {
		t.Errorf("the clone leads: %+v", s)
	}
	c.startWitness(watcher) // with its refusal no quorum is left
	clone.fenced("copied or rolled back")
	c.start(config)
	c.awaitSync()
}
