package node_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

func TestInSync(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	leader.awaitCopies(2)
	follower.awaitCopies(2)

	s := leader.status()
	if s.SyncSince.IsZero() || s.SyncIndex == 0 || s.SyncIndex > s.LastIndex {
		t.Errorf("in sync since %v, index %d of %d: want a time and an index of the log", s.SyncSince, s.SyncIndex,
			s.LastIndex)
	}
	if len(s.Replicas) != 3 {
		t.Errorf("the leader sees %d replicas, want 3: %+v", len(s.Replicas), s.Replicas)
	}
	if got := follower.status(); got.Sync != nexusraft.SyncUnknown || len(got.Replicas) != 0 {
		t.Errorf("the follower says %q of %d replicas, which only a leader knows", got.Sync, len(got.Replicas))
	}
	eventually(t, "the witness follows the leader", func() error {
		w, err := c.watcher.Status(t.Context())
		if err != nil || len(w.Zones) != 1 || !w.Healthy || !w.Witness {
			t.Fatalf("status of the witness: %+v, %v", w, err)
		}
		z := w.Zones[0]
		if z.Role != nexusraft.RoleWitness || z.State != nexusraft.Follower || z.Leader != s.Replica {
			return fmt.Errorf("it is a %s and a %s of %v, want a follower of %v", z.Role, z.State, z.Leader, s.Replica)
		}
		return nil
	})
}

func TestFollowerCrashes(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(3)
	h.more(t, 50)
	leader := c.awaitSync()
	config := c.crash(c.other(leader))
	h.more(t, 50)

	leader = c.leader()
	if s := leader.status(); s.Sync != nexusraft.Degraded {
		t.Errorf("without the follower the leader is %q, want degraded", s.Sync)
	}
	if r := leader.put("alone", "1"); r.Copies != 1 {
		t.Errorf("without the follower a write is on %d copies, want 1", r.Copies)
	}
	c.start(config)
	leader = c.awaitSync()
	leader.awaitCopies(2)
	c.verify(h)
	if h.gap > 10*time.Second {
		t.Errorf("for %v nothing was acknowledged; a hold time is 60 ms", h.gap)
	}
}

func TestLeaderCrashes(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(3)
	for range 3 { // the second leader to crash is the one that came back
		h.more(t, 50)
		leader := c.awaitSync()
		config := c.crash(leader)
		c.leader(leader)
		h.more(t, 50)
		c.start(config)
	}
	c.awaitSync()
	c.verify(h)
}

func TestWitnessGone(t *testing.T) {
	c := newCluster(t, nil)
	c.awaitSync()
	watcher := c.crashWitness()
	c.named("n1").awaitCopies(2)
	c.named("n2").awaitCopies(2)
	leader := c.leader()
	if s := leader.status(); s.Sync != nexusraft.InSync {
		t.Errorf("without the witness the leader is %q, want in sync", s.Sync)
	}

	// One of three can't do anything.
	config := c.crash(c.other(leader))
	for i := range 3 {
		if r, err := leader.try(t.Context(), 200*time.Millisecond, fmt.Sprint("alone", i), "1"); err == nil {
			t.Fatalf("one of three acknowledged a write alone: %+v", r)
		}
	}
	c.start(config)
	c.named("n1").awaitCopies(2)
	c.named("n2").awaitCopies(2)

	c.startWitness(watcher)
	leader = c.awaitSync()
	c.crash(c.other(leader))
	leader.awaitCopies(1)
}

// TestDegradedLeaderDies: the witness knows that there is more than the other member has,
// and elects nobody who would forget it. The zone waits for the disk that has it.
func TestDegradedLeaderDies(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	h.more(t, 20) // the other member knows of the witness
	leader := c.awaitSync()
	behind := c.crash(c.other(leader))
	leader.awaitCopies(1)
	h.more(t, 20)
	ahead := c.crash(leader)
	c.startWitness(c.crashWitness())
	m := c.start(behind)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if s := m.status(); s.State == nexusraft.Leader {
			t.Fatalf("a member that lacks what was acknowledged leads: %+v", s)
		}
	}
	c.start(ahead)
	c.awaitSync()
	c.verify(h)
}

// TestHoldTime: a follower that vanishes is waited for, one that says goodbye is not.
func TestHoldTime(t *testing.T) {
	const long, hold = 10 * time.Second, time.Second // long is more than a busy machine takes
	c := newCluster(t, func(n *node.Config) { n.HoldTicks = int(long / n.TickInterval) })

	leader := c.awaitSync()
	follower := c.other(leader)
	follower.close()
	began := time.Now()
	leader.awaitCopies(1)
	if took := time.Since(began); took > long*3/4 {
		t.Errorf("after an orderly stop of the follower a write took %v, although nothing had to be held", took)
	}
	leader.close()
	for _, m := range []*member{leader, follower} {
		m.config.HoldTicks = int(hold / m.config.TickInterval)
		c.start(m.config)
	}

	leader = c.awaitSync()
	term := leader.status().Term
	c.crash(c.other(leader))
	began = time.Now()
	leader.awaitCopies(1)
	if took := time.Since(began); took < hold/2 && leader.status().Term == term {
		t.Errorf("after a crash of the follower a write took %v; the hold time is %v", took, hold)
	}
}

func TestLeaderStopsInOrder(t *testing.T) {
	const election = 4 * time.Second
	slow := func(n *node.Config) { n.ElectionTicks = int(election / n.TickInterval) }
	c := newCluster(t, func(n *node.Config) {
		if n.Name != "n1" { // the founder elects itself quickly
			slow(n)
		}
	})
	for range 2 {
		leader := c.awaitSync()
		heir := c.other(leader)
		leader.put("before", leader.config.Name)
		began := time.Now()
		leader.stop()
		eventually(t, "the other member leads", func() error {
			if s := heir.status(); s.State != nexusraft.Leader {
				return fmt.Errorf("%s is %s", heir.config.Name, s.State)
			}
			return nil
		})
		heir.put("after", heir.config.Name)
		if took := time.Since(began); took > election/2 {
			t.Errorf("a leader's orderly stop took the zone away for %v, as if it had crashed", took)
		}
		leader.close()
		if got := heir.get("before"); got != leader.config.Name {
			t.Errorf("the last write before the stop is %q, want %q", got, leader.config.Name)
		}
		slow(&leader.config)
		c.start(leader.config)
	}
}

func TestLeaderCutOff(t *testing.T) {
	for _, cutting := range []struct {
		name string
		off  func(*cluster, string)
	}{
		{"reset", func(c *cluster, name string) { c.isolate(name, broken) }},
		{"silent", func(c *cluster, name string) { c.isolate(name, silent) }},
		{"deaf", func(c *cluster, name string) { c.deafen(name, silent) }},
		{"mute", func(c *cluster, name string) { c.mute(name, silent) }},
	} {
		t.Run(cutting.name, func(t *testing.T) {
			c := newCluster(t, nil)
			h := c.write(3)
			h.more(t, 20)
			old := c.awaitSync()
			cutting.off(c, old.config.Name)
			if cutting.name == "reset" || cutting.name == "silent" {
				alone(t, c, old, h)
			} else {
				writes(t, c.leader(old), h, "w.heir")
			}
			c.heal()
			c.awaitSync()
			c.verify(h)
		})
	}
}

// writes waits until a member writes. Each try has a key of its own: one that was refused is to be on no disk.
func writes(t *testing.T, m *member, h *history, key string) {
	t.Helper()
	tries := 0
	eventually(t, "a write by the other", func() error {
		tries++
		key := fmt.Sprint(key, ".", tries)
		_, err := m.try(t.Context(), time.Second, key, "1")
		h.add(key, err)
		return err
	})
}

// alone checks a leader that reaches nobody any more: it acknowledges nothing and answers
// no read, while the other member goes on.
func alone(t *testing.T, c *cluster, old *member, h *history) {
	t.Helper()
	before := old.status().Applied
	heir := c.leader(old)
	for i := range 5 {
		key := fmt.Sprint("w.old", i)
		r, err := old.try(t.Context(), 100*time.Millisecond, key, "1")
		if err == nil {
			t.Errorf("a leader that reaches nobody acknowledged %s: %+v", key, r)
		}
		h.add(key, err)

		writes(t, heir, h, fmt.Sprint("w.heir", i))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		err = old.zone().Read(ctx, func(nexusraft.Reader) error { return nil })
		cancel()
		if !errors.Is(err, nexusraft.ErrNoQuorum) {
			t.Errorf("a leader that reaches nobody answers a read with %v, want ErrNoQuorum", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the read ended after %v, its deadline was 100 ms", took)
		}
	}
	if after := old.status().Applied; after < before {
		t.Errorf("applied went back from %d to %d", before, after)
	}
}

// TestFreshlyIsolatedLeaderReadsNothing: a leader knows nothing of its isolation at first.
func TestFreshlyIsolatedLeaderReadsNothing(t *testing.T) {
	c := newCluster(t, func(n *node.Config) { n.ElectionTicks = 20 })
	leader := c.awaitSync()
	leader.put("a", "old")
	c.isolate(leader.config.Name, silent)
	reads := 0
	eventually(t, "the other member writes", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		var got string
		err := leader.zone().Read(ctx, func(r nexusraft.Reader) error {
			b, _, err := r.Get([]byte("a"))
			got = string(b)
			return err
		})
		if err == nil {
			t.Fatalf("after %d reads that failed, an isolated leader reads %q", reads, got)
		}
		reads++
		_, err = c.other(leader).try(t.Context(), 20*time.Millisecond, "a", "new")
		return err
	})
	if reads < 2 {
		t.Errorf("the isolated leader was read %d times", reads)
	}
	c.heal()
	if got := leader.get("a"); got != "new" {
		t.Errorf("after healing a = %q, want new", got)
	}
}

func TestAbsentFollowerCatchesUpBySnapshot(t *testing.T) {
	c := newCluster(t, func(n *node.Config) { n.CompactEntries = 20 })
	h := c.write(3)
	h.more(t, 20)
	follower := c.other(c.awaitSync())
	c.isolate(follower.config.Name, broken)
	last := follower.status().LastIndex
	leader := c.leader(follower)
	for i := range 3 { // more than one chunk of state
		leader.put(fmt.Sprint("big", i), string(make([]byte, 200<<10)))
	}
	eventually(t, "the follower's place in the log is compacted away", func() error {
		if s := leader.status(); s.FirstIndex <= last+1 {
			return fmt.Errorf("the log begins at %d, the follower ends at %d", s.FirstIndex, last)
		}
		return nil
	})
	c.heal()
	c.awaitSync() // while the writers go on
	h.more(t, 20)
	c.verify(h)
	if s := follower.status(); s.FirstIndex <= last+1 {
		t.Errorf("the follower's log begins at %d and ended at %d: it has had no snapshot", s.FirstIndex, last)
	}
	if h.gap > 10*time.Second {
		t.Errorf("for %v nothing was acknowledged", h.gap)
	}
}

func TestAllCrashAtOnce(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(3)
	h.more(t, 50)
	c.isolate("n1", broken) // the others can't do anything together either
	c.isolate("n2", broken)
	configs := []node.Config{c.crash(c.named("n1")), c.crash(c.named("n2"))}
	watcher := c.crashWitness()
	c.startWitness(watcher)
	for _, config := range configs {
		c.start(config)
	}
	h.more(t, 20)
	c.awaitSync()
	c.verify(h)
}
