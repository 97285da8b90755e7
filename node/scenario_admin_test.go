package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// change makes a change of the root zone's replicas, asked of whoever leads, and again while
// it is too early.
func (c *cluster) change(ch nexusraft.MembershipChange) (members nexusraft.Membership) {
	c.t.Helper()
	tried := false
	eventually(c.t, ch.String(), func() (err error) {
		members, err = c.tryChange(c.leader(), ch)
		if tried && ch.Remove != 0 && err != nil && strings.Contains(err.Error(), "was removed from the zone for good") {
			members = c.leader().status().Membership // an earlier try, whose outcome was unknown, has done it
			return nil
		}
		tried = true
		// on a busy machine a member may be silent, or all others, for a moment
		busy := err != nil && (strings.Contains(err.Error(), "is silent") || strings.Contains(err.Error(), "has no quorum"))
		if errors.Is(err, nexusraft.ErrRefused) && !busy {
			c.t.Fatalf("%v: %v", ch, err)
		}
		return err
	})
	return members
}

func (c *cluster) tryChange(m *member, ch nexusraft.MembershipChange) (nexusraft.Membership, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return m.zone().ChangeMembership(ctx, ch)
}

// wipe crashes a member and starts it with its old command line on an empty disk.
func (c *cluster) wipe(m *member, join string) *member {
	c.t.Helper()
	name := m.config.Name
	c.crash(m)
	return c.join(name, join)
}

// TestReplaceLostNodes is an operator's bad week, under load: a member's disk is lost, then
// the witness's, and the leadership moves to and fro.
func TestReplaceLostNodes(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	h.more(t, 50)
	leader := c.awaitSync()
	old := c.other(leader)
	fresh := c.wipe(old, leader.config.Name)
	waitRole(t, fresh, nexusraft.RoleLearner)
	h.more(t, 50)

	members := c.change(nexusraft.MembershipChange{Replace: old.node.ID(), With: fresh.node.ID()})
	if m, ok := members.Node(fresh.node.ID()); !ok || m.Role != nexusraft.RoleMember {
		t.Errorf("the new node is %+v", m)
	}
	if !members.IsRemovedNode(old.node.ID()) || members.Count(nexusraft.RoleMember) != 2 {
		t.Errorf("after the replacement the zone has %+v", members)
	}
	leader = c.awaitSync()
	h.more(t, 50)

	lost := leader.record("w").Node
	c.crashWitness()
	if got := c.change(nexusraft.MembershipChange{Remove: lost}); got.Count(nexusraft.RoleWitness) != 0 {
		t.Errorf("after the witness was removed the zone has %+v", got)
	}
	c.startWitness(c.witnessConfig("w", leader.config.Name))
	c.awaitSync()
	for range 2 {
		for _, name := range []string{"n1", "n2"} {
			if got := c.transfer(name).status(); got.State != nexusraft.Leader {
				t.Errorf("%s is %s after the transfer", name, got.State)
			}
			h.more(t, 20)
		}
	}
	c.awaitSync()
	c.verify(h)
	c.awaitChecksums()
}

// awaitChecksums waits until both members' copies of the root zone have the same digest.
func (c *cluster) awaitChecksums() {
	c.t.Helper()
	eventually(c.t, "equal checksums", func() error {
		a, err := c.named("n1").node.Handler().Checksum(c.t.Context(), nexusraft.RootZone)
		if err != nil {
			return err
		}
		b, err := c.named("n2").node.Handler().Checksum(c.t.Context(), nexusraft.RootZone)
		if err == nil && (a.Applied != b.Applied || !bytes.Equal(a.Sum, b.Sum)) {
			err = fmt.Errorf("%+v and %+v", a, b)
		}
		return err
	})
}

// TestWipedWitness: with its old command line it is told what to do, and does it.
func TestWipedWitness(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	lost := leader.record("w").Node
	c.crashWitness()
	w := c.runWitness(c.witnessConfig("w", leader.config.Name))
	err := awaitEnd(t, "w", w.ended)
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a second witness ended with %v, want ErrRefused", err)
	}
	mentions(t, err, "nexus-raft member remove "+lost.String())
	c.change(nexusraft.MembershipChange{Remove: lost})
	c.startWitness(c.witnessConfig("w", leader.config.Name))
	c.awaitSync()
}

// TestThirdMember is promoted beyond the zone's shape and removed again. It hears of it.
func TestThirdMember(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	leader := c.awaitSync()
	n3 := c.join("n3", leader.config.Name)
	waitRole(t, n3, nexusraft.RoleLearner)
	id := n3.node.ID()
	c.change(nexusraft.MembershipChange{Promote: id})
	waitRole(t, n3, nexusraft.RoleMember)
	h.more(t, 50)
	eventually(t, "n3 does not lead", func() error {
		leader := c.leader()
		if leader != n3 {
			return nil
		}
		_, err := leader.zone().TransferLeader(t.Context(), 0)
		return err
	})
	got := c.change(nexusraft.MembershipChange{Remove: id})
	if _, there := got.Node(id); there || !got.IsRemovedNode(id) {
		t.Errorf("after the removal the zone has %+v", got)
	}
	select {
	case err := <-n3.ended:
		n3.ended <- nil
		if !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("the removed node ended with %v, want ErrFenced", err)
		}
	case <-time.After(patience):
		t.Error("the removed node goes on")
	}
	c.mu.Lock()
	delete(c.nodes, "n3")
	c.mu.Unlock()
	c.awaitSync()
	c.verify(h)
}

// TestChangeRefused: each refusal says why, and what to do.
func TestChangeRefused(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	follower := c.other(leader)
	n3 := c.join("n3", leader.config.Name)
	waitRole(t, n3, nexusraft.RoleLearner)
	lead, follow, learner, watcher := leader.node.ID(), follower.node.ID(), n3.node.ID(), leader.record("w").Node
	type change = nexusraft.MembershipChange
	check := func(t *testing.T, ch change, want ...string) {
		t.Helper()
		_, err := c.tryChange(leader, ch)
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%v: %v, want ErrRefused", ch, err)
		}
		mentions(t, err, want...)
	}
	check(t, change{}, "one of remove, promote and replace")
	check(t, change{Remove: 0x77}, "0000000000000077", "member list")
	check(t, change{Remove: follow}, follower.config.Name, "member replace")
	check(t, change{Remove: lead}, leader.config.Name, "member replace")
	check(t, change{Promote: follow}, follower.config.Name, "already")
	check(t, change{Promote: watcher}, "witness")
	check(t, change{Replace: watcher, With: learner}, "member remove "+watcher.String(), "--join")
	check(t, change{Replace: learner, With: follow}, "learner")
	check(t, change{Replace: lead, With: learner}, "nexus-raft transfer "+follow.String())
	check(t, change{Replace: follow, With: lead}, "already")
	if _, err := c.tryChange(follower, change{Remove: learner}); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("a change asked of a follower: %v, want ErrNotLeader", err)
	}

	transfer := func(to nexusraft.NodeID, want ...string) {
		t.Helper()
		_, err := leader.zone().TransferLeader(t.Context(), to)
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("transfer to %v: %v, want ErrRefused", to, err)
		}
		mentions(t, err, want...)
	}
	transfer(watcher, "witness")
	transfer(learner, "learner")
	transfer(0x77, "member list")
	if got, err := leader.zone().TransferLeader(t.Context(), lead); got != lead || err != nil {
		t.Errorf("transfer to the leader: %v, %v", got, err)
	}

	c.crash(follower)
	eventually(t, "the follower is missed", func() error {
		_, err := leader.zone().TransferLeader(t.Context(), 0)
		if err == nil || !strings.Contains(err.Error(), "no other member is active") {
			return fmt.Errorf("transfer to anybody: %w", err)
		}
		return nil
	})
	transfer(follow, follower.config.Name)
	transfer(0, "no other member is active")
	check(t, change{Promote: learner}, "member replace "+follow.String()+" "+learner.String())
	check(t, change{Remove: watcher}, "quorum", follower.config.Name)
	check(t, change{Replace: lead, With: learner}, "no other member is active")
	if s := leader.status(); len(s.Membership.Removed) != 0 || len(s.Membership.Members) != 4 {
		t.Errorf("after refusals the zone has %+v", s.Membership)
	}
	leader.put("after", "1")
}

// TestLastMember can't be removed.
func TestLastMember(t *testing.T) {
	c := founded(t, nil)
	leader := c.leader()
	_, err := c.tryChange(leader, nexusraft.MembershipChange{Remove: leader.node.ID()})
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	mentions(t, err, "last member")
}

// TestNoWitnessForThreeMembers: a fourth voter would make each write need one more of them, and let
// the zone lose no more.
func TestNoWitnessForThreeMembers(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	n3 := c.join("n3", leader.config.Name)
	waitRole(t, n3, nexusraft.RoleLearner)
	c.change(nexusraft.MembershipChange{Promote: n3.node.ID()})
	members := leader.status().Membership.Members
	i := slices.IndexFunc(members, func(m nexusraft.Member) bool { return m.Role == nexusraft.RoleWitness })
	c.change(nexusraft.MembershipChange{Remove: members[i].Node})
	again := c.runWitness(c.witnessConfig("w2", leader.config.Name))
	select {
	case <-again.Ready():
		t.Fatal("a witness was let in beside three members")
	case err := <-again.ended:
		again.ended <- err
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got %v, want ErrRefused", err)
		}
		mentions(t, err, "3 members")
	case <-time.After(patience):
		t.Fatal("a witness beside three members is neither let in nor refused")
	}
}

// TestChangeWithoutQuorum ends with its context, and the caller knows that it knows nothing.
func TestChangeWithoutQuorum(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	n3 := c.join("n3", leader.config.Name)
	waitRole(t, n3, nexusraft.RoleLearner)
	err := nexusraft.ErrNotLeader
	for tries := 0; errors.Is(err, nexusraft.ErrNotLeader) && tries < 5; tries++ { // a slow machine elects anew
		leader = c.awaitSync()
		leader.awaitCopies(3)
		c.isolate(leader.config.Name, silent)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond) // before anybody is missed
		_, err = leader.zone().ChangeMembership(ctx, nexusraft.MembershipChange{Promote: n3.node.ID()})
		cancel()
		c.isolate(leader.config.Name, open)
	}
	if !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want ErrUncertain", err)
	}
}
