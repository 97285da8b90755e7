package node_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

const roomy = 1 << 40

// setFree says how much of the member's disk is free, and waits until the node has noticed.
func (m *member) setFree(bytes int64) {
	m.t.Helper()
	m.config.Storage.FS.(*storage.MemFS).SetDiskFree(bytes)
	eventually(m.t, fmt.Sprintf("%s notices %d free bytes", m.config.Name, bytes), func() error {
		if full := errors.Is(m.node.Room(), nexusraft.ErrDiskFull); full == (bytes == roomy) {
			return fmt.Errorf("full: %v", full)
		}
		return nil
	})
}

// wantFull checks that writes by m, and by who forwards to it, are refused as not written.
func wantFull(t *testing.T, by ...*member) {
	t.Helper()
	for _, m := range by {
		eventually(t, "a write by "+m.config.Name+" is refused", func() error {
			if _, err := m.try(t.Context(), time.Second, "refused", "x"); !errors.Is(err, nexusraft.ErrDiskFull) {
				return fmt.Errorf("got %v, want ErrDiskFull", err)
			}
			return nil
		})
	}
}

func wantProblem(t *testing.T, m *member, full bool) {
	t.Helper()
	s, err := m.node.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Contains(s.Problem, "disk full"); got != full || s.Healthy == full {
		t.Errorf("%s: got healthy %v, problem %q, want a full disk: %v", m.config.Name, s.Healthy, s.Problem, full)
	}
}

func TestFullFollower(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	h := c.write(3)
	h.more(t, 50)
	follower.setFree(1000)
	leader.awaitCopies(1)
	h.more(t, 50)
	wantProblem(t, follower, true)
	wantProblem(t, leader, false)
	if s, err := follower.node.Status(t.Context()); err != nil || s.DiskFree != 1000 {
		t.Errorf("the follower's status: got %d bytes free, %v, want 1000", s.DiskFree, err)
	}
	leader.put("fresh", "yes")
	stopped := follower.status().LastIndex
	h.more(t, 50)
	if got := follower.status().LastIndex; got != stopped {
		t.Errorf("the full follower's log grows from %d to %d", stopped, got)
	}
	err := follower.zone().Read(t.Context(), func(nexusraft.Reader) error { return nil })
	hint, ok := errors.AsType[*nexusraft.NotLeaderError](err)
	if !ok || hint.Leader != leader.node.ID() {
		t.Errorf("a read by the full follower: got %v, want who leads", err)
	}
	if got := leader.get("fresh"); got != "yes" {
		t.Errorf("a read by the leader: got %q", got)
	}

	term := leader.status().Term
	follower.setFree(roomy)
	c.awaitSync()
	leader.awaitCopies(2)
	wantProblem(t, follower, false)
	if got := leader.status().Term; got != term {
		t.Errorf("a full follower has cost the leader its term: %d, then %d", term, got)
	}
	c.verify(h)
}

// A follower whose disk was full for so long that it needs a snapshot takes it when it can.
func TestFullFollowerNeedsSnapshot(t *testing.T) {
	c := newCluster(t, func(n *node.Config) { n.CompactEntries = 20 })
	leader := c.awaitSync()
	follower := c.other(leader)
	follower.setFree(0)
	leader.awaitCopies(1)
	h := c.write(3)
	stopped := follower.status().LastIndex
	eventually(t, "the log is compacted beyond the follower", func() error {
		if s := leader.status(); s.FirstIndex <= stopped+1 {
			return fmt.Errorf("it begins at %d, the follower's ends at %d", s.FirstIndex, stopped)
		}
		return nil
	})
	h.more(t, 50)
	if got := follower.status().LastIndex; got != stopped {
		t.Errorf("the full follower went from %d to %d", stopped, got)
	}
	follower.setFree(roomy)
	c.awaitSync()
	c.verify(h)
}

func TestFullLeader(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	h := c.write(3)
	h.more(t, 50)
	leader.put("fresh", "yes")
	leader.setFree(0)
	wantFull(t, leader, c.other(leader))
	last := leader.status().LastIndex
	wantFull(t, leader, c.other(leader))
	if got := leader.status(); got.LastIndex != last || got.State != nexusraft.Leader {
		t.Errorf("the full leader's log ended at %d, now at %d, as %s", last, got.LastIndex, got.State)
	}
	for _, m := range c.running() {
		if got := m.get("fresh"); got != "yes" {
			t.Errorf("a read by %s: got %q", m.config.Name, got)
		}
	}
	wantProblem(t, leader, true)
	eventually(t, "a change of the replicas is refused", func() error { // once the follower is not behind
		_, err := leader.zone().ChangeMembership(t.Context(), nexusraft.MembershipChange{Remove: leader.record("w").Node})
		if err == nil {
			t.Fatal("a change of the replicas is made, want ErrDiskFull")
		}
		if !errors.Is(err, nexusraft.ErrDiskFull) {
			return err
		}
		return nil
	})

	heir := c.transfer(c.other(leader).config.Name)
	heir.awaitCopies(1)
	h.more(t, 50)
	leader.setFree(roomy)
	c.awaitSync()
	heir.awaitCopies(2)
	c.verify(h)
}

// With both disks full, writes are refused, a leader can still be elected and a node still
// be restarted; what was acknowledged before is there.
func TestBothFull(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	h := c.write(3)
	h.more(t, 50)
	follower.setFree(0)
	leader.setFree(0)
	wantFull(t, leader, follower)

	config := c.crash(follower)
	fs := config.Storage.FS.(*storage.MemFS)
	fs.SetDiskFree(0)
	follower = c.start(config)
	follower.zone()
	wantFull(t, leader)

	leader.setFree(roomy)
	leader.awaitCopies(1)
	follower.setFree(roomy)
	leader = c.awaitSync()
	leader.awaitCopies(2)
	c.transfer(c.other(leader).config.Name)
	c.verify(h)
}

// A leader is elected, and commits what opens its term, though no disk has room.
func TestElectionOnFullDisks(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	heir := c.other(leader)
	h := c.write(3)
	h.more(t, 50)
	leader.put("fresh", "yes")
	leader.setFree(0)
	wantFull(t, leader)
	eventually(t, "the follower has all", func() error {
		if got, want := heir.status().LastIndex, leader.status().LastIndex; got != want {
			return fmt.Errorf("its log ends at %d, the leader's at %d", got, want)
		}
		return nil
	})
	heir.setFree(0)
	c.transfer(heir.config.Name)
	wantFull(t, heir)
	if got := heir.get("fresh"); got != "yes" {
		t.Errorf("a read by the new leader: got %q", got)
	}
	leader.setFree(roomy)
	heir.setFree(roomy)
	c.awaitSync()
	c.verify(h)
}
