package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/witness"
)

// TestWitnessThatCannotCallTheLeader: a firewall forgets one direction, and in sync nobody needs
// it. Then the leader's link to the follower breaks. Follower and witness see each other, so
// writes must go on: the leader may not make the witness a judge of what it can't hear back.
func TestWitnessThatCannotCallTheLeader(t *testing.T) {
	for _, mute := range []bool{true, false} {
		t.Run(fmt.Sprintf("leader can't call the witness either: %v", mute), func(t *testing.T) {
			c := newCluster(t, nil)
			h := c.write(4)
			eventually(t, "the link alone changes nothing", func() error { // a busy machine may, once
				c.heal()
				leader := c.transfer("n1")
				c.awaitSync()
				h.more(t, 50)
				c.awaitSync()
				c.cut(way{"w", "n1"}, broken)
				h.more(t, 50)
				if s := leader.status(); s.Sync != nexusraft.InSync || s.State != nexusraft.Leader {
					return fmt.Errorf("n1 is %v, %q", s.State, s.Sync)
				}
				return nil
			})
			if mute {
				c.cut(way{"n1", "w"}, broken)
			}
			c.cut(way{"n1", "n2"}, broken)
			c.cut(way{"n2", "n1"}, broken)
			before := h.count()
			eventually(t, "writes go on through n2", func() error {
				s, err := rootStatus(t.Context(), c.named("n2"))
				if err != nil || s.State != nexusraft.Leader || h.count() <= before+10 {
					return fmt.Errorf("n2 is %s, %d writes since the cut (%v)", s.State, h.count()-before, err)
				}
				return nil
			})
			c.heal()
			c.awaitSync()
			c.verify(h)
		})
	}
}

// TestStatusShowsLinks: a link that works one way only is shown as that by both of its ends, a dead
// node's as down.
func TestStatusShowsLinks(t *testing.T) {
	c := newCluster(t, nil)
	whole := func() {
		t.Helper()
		for _, from := range []string{"n1", "n2", "w"} {
			for _, to := range []string{"n1", "n2", "w"} {
				if from != to {
					c.awaitLink(from, to, true, true)
				}
			}
		}
	}
	whole()
	c.cut(way{"w", "n1"}, broken)
	if l := c.awaitLink("w", "n1", false, true); l.Address != c.door("n1").address || !l.OneWay() {
		t.Errorf("the witness's view of n1, which it can't call, is %+v", l)
	}
	if l := c.awaitLink("n1", "w", true, false); l.Error != "" || l.HeardAt.IsZero() || !l.OneWay() {
		t.Errorf("n1's view of the witness, which it does not hear, is %+v", l)
	}
	c.awaitLink("n2", "w", true, true)
	c.heal()
	whole()
	c.cut(way{"n2", "w"}, broken)
	c.cut(way{"w", "n2"}, broken)
	c.awaitLink("n2", "w", false, false)
	c.awaitLink("w", "n2", false, false)
	c.heal()
	whole()
	c.isolate("w", silent) // its streams outlive it for a while, which must not look like a link that works one way
	witness := c.named("n1").record("w").Node
	eventually(t, "n1 does not reach the witness", func() error {
		s, err := c.nodeStatus("n1")
		if err != nil {
			return err
		}
		for _, l := range s.Peers {
			if l.Node == witness && !l.Reached && l.Heard {
				t.Errorf("n1's view of the witness, which is cut off, is %+v", l)
			}
			if l.Node == witness && !l.Reached {
				return nil
			}
		}
		return fmt.Errorf("it says %+v", s.Peers)
	})
	c.heal()
	whole()
	c.crashWitness()
	if l := c.awaitLink("n1", "w", false, false); l.OneWay() {
		t.Errorf("n1's view of the witness, which is dead, is %+v", l)
	}
}

// awaitLink waits until a node says of its link to another one what is wanted, and why if it does not
// reach it.
func (c *cluster) awaitLink(from, to string, reached, heard bool) (link nexusraft.PeerStatus) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%s says of %s: reached %t, heard %t", from, to, reached, heard), func() error {
		s, err := c.nodeStatus(from)
		if err != nil {
			return err
		}
		id := c.named("n1").record("w").Node
		if to != "w" {
			id = c.named(to).node.ID()
		}
		for _, link = range s.Peers {
			if link.Node == id && link.Reached == reached && link.Heard == heard && (reached || link.Error != "") {
				return nil
			}
		}
		return fmt.Errorf("it says %+v", s.Peers)
	})
	return link
}

// nodeStatus is what a node says of itself.
func (c *cluster) nodeStatus(name string) (nexusraft.NodeStatus, error) {
	if name == "w" {
		return c.watcher.Status(c.t.Context())
	}
	return c.named(name).node.Status(c.t.Context())
}

// TestIdleZoneWithoutItsFollower: nobody writes, and the follower dies. The zone is not in sync
// any more, and the next write waits for no hold time.
func TestIdleZoneWithoutItsFollower(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	var before nexusraft.ZoneStatus
	eventually(t, "nobody writes", func() error {
		last := before.LastIndex
		if before = leader.status(); before.LastIndex == last {
			return nil
		}
		time.Sleep(2 * time.Duration(leader.config.ElectionTicks) * leader.config.TickInterval)
		return fmt.Errorf("the log has grown from %d to %d", last, before.LastIndex)
	})
	config := c.crash(follower)
	eventually(t, "the zone is degraded", func() error {
		if s := leader.status(); s.Sync != nexusraft.Degraded {
			return fmt.Errorf("it is %q", s.Sync)
		}
		return nil
	})
	after := leader.status() // an election on a slow machine has an entry of its own
	if after.Term == before.Term && after.LastIndex != before.LastIndex {
		t.Errorf("the log has grown from %d to %d: the zone was not idle", before.LastIndex, after.LastIndex)
	}
	c.start(config)
	c.awaitSync()
}

// TestCallsOfALostLeaderEnd: a leader is cut off in a zone that nobody else writes to. Whoever
// waits for what it took, or for what was passed on to it, hears that the outcome is unknown, and
// does not wait until the end of the call's own time.
func TestCallsOfALostLeaderEnd(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	watcher := leader.record("w").Node
	c.isolate(leader.config.Name, silent)
	type result struct {
		name      string
		want, err error
	}
	ended := make(chan result, 4)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call := func(name string, want error, f func() error) {
		go func() { ended <- result{name, want, f()} }()
	}
	call("a write", nexusraft.ErrUncertain, func() error {
		_, err := leader.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte("a=1"))
		return err
	})
	call("a write that was passed on", nexusraft.ErrUncertain, func() error {
		_, err := follower.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte("b=1"))
		return err
	})
	call("a change of the members", nexusraft.ErrUncertain, func() error {
		_, err := leader.zone().ChangeMembership(ctx, nexusraft.MembershipChange{Remove: watcher})
		return err
	})
	call("a read", nexusraft.ErrNoQuorum, func() error {
		return leader.zone().Read(ctx, func(nexusraft.Reader) error { return nil })
	})
	for range cap(ended) {
		select {
		case r := <-ended:
			if !errors.Is(r.err, r.want) || errors.Is(r.err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want %v before its time is over", r.name, r.err, r.want)
			}
		case <-ctx.Done():
			t.Fatal("calls wait until their deadlines")
		}
	}
}

// TestTransferToAMemberThatJustDied: the leader waits for it for one election timeout and takes
// writes again.
func TestTransferToAMemberThatJustDied(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	election := time.Duration(leader.config.ElectionTicks) * leader.config.TickInterval
	heir := c.other(leader)
	c.isolate(heir.config.Name, silent)
	asked := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := leader.zone().TransferLeader(t.Context(), heir.node.ID())
		asked <- err
	}()
	select {
	case err := <-asked:
		if !errors.Is(err, nexusraft.ErrRefused) && !errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("got %v, want ErrRefused", err)
		}
	case <-time.After(patience):
		t.Fatal("the transfer does not end")
	}
	leader.awaitCopies(1)
	if took := time.Since(began); took > 15*election && took > transferPatience {
		t.Errorf("writes stood still for %v, %.1f election timeouts", took, float64(took)/float64(election))
	}
}

// transferPatience is less than what a transfer took before, two seconds beyond an election
// timeout.
const transferPatience = 1900 * time.Millisecond

// TestVoteThatTakesLongerThanAnElectionTimeout: the witness's disk takes 1.3 of them for a sync. A
// candidate waits for up to two, so the vote counts.
func TestVoteThatTakesLongerThanAnElectionTimeout(t *testing.T) {
	c := newCluster(t, nil)
	var slow atomic.Bool
	watcher := c.crashWitness()
	timeout := time.Duration(watcher.ElectionTicks) * watcher.TickInterval
	watcher.FS.(*witness.MemFS).Before = func(step, _ string) error {
		if step == "sync" && slow.Load() {
			time.Sleep(timeout * 13 / 10)
		}
		return nil
	}
	c.startWitness(watcher)
	leader := c.transfer("n1")
	c.awaitSync()
	slow.Store(true)
	defer slow.Store(false)
	c.crash(leader)
	c.leader(leader)
}
