package node_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// memberChange is a change of three nodes (the leader, a follower, a learner), and how the members
// are then.
type memberChange struct {
	name string
	of   func(follower, learner nexusraft.NodeID) nexusraft.MembershipChange
	done func(m nexusraft.Membership, follower, learner nexusraft.NodeID) bool
	gone string // who has been removed: "follower", "learner" or ""
}

var memberChanges = []memberChange{
	{
		"promote", func(_, learner nexusraft.NodeID) nexusraft.MembershipChange {
			return nexusraft.MembershipChange{Promote: learner}
		}, func(m nexusraft.Membership, _, learner nexusraft.NodeID) bool {
			x, ok := m.Node(learner)
			return ok && x.Role == nexusraft.RoleMember
		}, "",
	},
	{
		"replace", func(follower, learner nexusraft.NodeID) nexusraft.MembershipChange {
			return nexusraft.MembershipChange{Replace: follower, With: learner}
		}, func(m nexusraft.Membership, follower, learner nexusraft.NodeID) bool {
			x, ok := m.Node(learner)
			return ok && x.Role == nexusraft.RoleMember && m.IsRemovedNode(follower)
		}, "follower",
	},
	{
		"remove", func(_, learner nexusraft.NodeID) nexusraft.MembershipChange {
			return nexusraft.MembershipChange{Remove: learner}
		}, func(m nexusraft.Membership, _, learner nexusraft.NodeID) bool {
			return m.IsRemovedNode(learner)
		}, "learner",
	},
}

// TestLeaderCrashesInAChange: the leader crashes as it is asked for a change of the members, or
// once the follower has seen a step of it. Whoever leads then makes the change when it is asked
// again, and no write is lost. In each round that each node writes: TestMembershipCrashes of the
// simulation.
func TestLeaderCrashesInAChange(t *testing.T) {
	for _, change := range memberChanges {
		for _, when := range []string{"at once", "in the middle"} {
			t.Run(change.name+" "+when, func(t *testing.T) {
				crashInChange(t, change, when == "in the middle")
			})
		}
	}
}

func crashInChange(t *testing.T, change memberChange, late bool) {
	c := newCluster(t, nil)
	h := c.write(1)
	leader := c.awaitSync()
	follower := c.other(leader)
	learner := c.join("n3", leader.config.Name)
	waitRole(t, learner, nexusraft.RoleLearner)
	ch := change.of(follower.node.ID(), learner.node.ID())
	before := follower.status().Membership

	ask := func() error { // whoever leads
		for _, m := range c.running() {
			if s, err := rootStatus(t.Context(), m); err == nil && s.State == nexusraft.Leader {
				return c.ask(m, ch)
			}
		}
		return errors.New("nobody leads")
	}
	crashed, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asked)
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for ask() != nil { // it may be too early for the learner
			select {
			case <-crashed:
				return
			case <-again.C:
			}
		}
	}()
	if late {
		eventually(t, "a step of the change", func() error {
			s, err := rootStatus(t.Context(), follower)
			if err == nil && cmp.Equal(s.Membership, before) {
				return errors.New("none yet")
			}
			return nil // an error is that of a node that was removed
		})
	}
	config := c.crash(leader)
	close(crashed)
	<-asked
	c.start(config)
	eventually(t, "the change is made", func() error {
		s, err := rootStatus(t.Context(), c.leader())
		if err != nil || change.done(s.Membership, follower.node.ID(), learner.node.ID()) {
			return err
		}
		if err = ask(); err == nil {
			err = errors.New("it is under way")
		}
		return err
	})
	if gone := map[string]*member{"follower": follower, "learner": learner}[change.gone]; gone != nil {
		c.ended(gone)
	}
	h.more(t, 20)
	h.end()
	h.verify(t, c.leader())
}

// ask asks a member, which may end meanwhile, for a change, and for another leader if it is to go
// itself.
func (c *cluster) ask(m *member, ch nexusraft.MembershipChange) error {
	z, err := m.node.Zone(nexusraft.RootZone)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, err = z.ChangeMembership(ctx, ch)
	if errors.Is(err, nexusraft.ErrRefused) && strings.Contains(err.Error(), "leads the zone") {
		_, err = z.TransferLeader(ctx, 0)
		return errors.Join(errors.New("another leader first"), err)
	}
	return err
}

// ended waits until a member that was removed has ended, and forgets it.
func (c *cluster) ended(m *member) {
	c.t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- nil
		if !errors.Is(err, nexusraft.ErrFenced) {
			c.t.Errorf("the removed node ended with %v, want ErrFenced", err)
		}
	case <-time.After(patience):
		c.t.Error("the removed node goes on")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, m.config.Name)
}
