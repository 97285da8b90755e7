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

// A proposal waits while no node leads, and is written once when one does. ProposeOnce does not wait.
func TestProposeWaitsForALeader(t *testing.T) {
	t.Parallel()
	n1, n2 := twoMembers(t)
	for _, m := range []*member{n1, n2} {
		if !m.zone().HasLeader() {
			t.Errorf("%s knows no leader", m.config.Name)
		}
	}
	n2.close()
	awaitLeaderless(t, n1)
	if n1.zone().HasLeader() {
		t.Error("a member alone knows a leader")
	}
	if _, err := n1.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("a=0")); !errors.Is(err,
		nexusraft.ErrNotLeader) {
		t.Errorf("propose once without a leader: %v, want ErrNotLeader", err)
	}
	eventually(t, "what ends says that there was no leader", func() error {
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := n1.zone().Propose(short, nexusraft.RequestID{}, []byte("a=0"))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nexusraft.ErrUncertain) {
			t.Fatalf("propose without a leader: %v, want the context's error, and that nothing was written", err)
		}
		if !errors.Is(err, nexusraft.ErrNotLeader) {
			return err // the context has ended just when it was asked once more
		}
		return nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := n1.zone().Propose(t.Context(), nexusraft.RequestID{}, []byte("a=1"))
		done <- err
	}()
	start(t, n2.config)
	if err := outcome(t, done); err != nil {
		t.Errorf("propose before there is a leader: %v", err)
	}
	if got := n1.get("a"); got != "1" {
		t.Errorf("a = %q, want what was proposed at last", got)
	}
}

// A proposal that waits for a leader ends with its node.
func TestProposeEndsWithItsNode(t *testing.T) {
	t.Parallel()
	n1, n2 := twoMembers(t)
	n2.close()
	awaitLeaderless(t, n1)
	z, done := n1.zone(), make(chan error, 1)
	go func() {
		_, err := z.Propose(context.Background(), nexusraft.RequestID{}, []byte("a=1"))
		done <- err
	}()
	n1.close()
	if err := outcome(t, done); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("propose at a node that stops: %v, want ErrClosed", err)
	}
}

func TestAwaitReady(t *testing.T) {
	t.Parallel()
	lost := listen(t, "")
	lost.Close()
	config := testConfig(t, "n1")
	config.Join, config.JoinTimeout = []string{lost.Addr().String()}, 200*time.Millisecond
	n, err := node.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.AwaitReady(over); !errors.Is(err, context.Canceled) {
		t.Errorf("wait for a node that does not run: %v, want the context's error", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- n.AwaitReady(context.Background()) }()
	ended := n.Run(t.Context(), listen(t, ""), nil)
	if err := outcome(t, waited); err == nil || !errors.Is(err, ended) {
		t.Errorf("wait for a node that can't join: %v, want Run's error: %v", err, ended)
	}

	m := found(t, testConfig(t, "n2"))
	if err := m.node.AwaitReady(t.Context()); err != nil {
		t.Errorf("wait for a node that runs: %v", err)
	}
}

// Each member says when the zone can lose any one node, and what it lacks until then.
func TestAwaitWhole(t *testing.T) {
	c := newCluster(t, nil)
	for name, m := range c.nodes {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := m.zone().AwaitWhole(ctx); err != nil {
			t.Errorf("%s waits: %v", name, err)
		}
		cancel()
	}
	c.crashWitness()
	leader := c.leader()
	lacks := func(says string, m *member) {
		t.Helper()
		eventually(t, says, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err := m.zone().AwaitWhole(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("without the witness: %w, want the context's error", err)
			}
			return nil
		})
	}
	lacks("the leader misses the witness", leader)
	lacks("the follower misses the witness", c.other(leader))

	waited, z := make(chan error, 1), leader.zone()
	go func() { waited <- z.AwaitWhole(context.Background()) }()
	leader.close()
	if err := outcome(t, waited); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("wait at a node that stops: %v, want ErrClosed", err)
	}
}

// twoMembers are members of a zone without a witness: either of them gone, no node leads.
func twoMembers(t *testing.T) (n1, n2 *member) {
	t.Helper()
	n1 = found(t, testConfig(t, "n1"))
	c := testConfig(t, "n2")
	c.Join = []string{n1.config.Advertise}
	n2 = start(t, c)
	waitRole(t, n2, nexusraft.RoleMember)
	return n1, n2
}

func awaitLeaderless(t *testing.T, m *member) {
	t.Helper()
	eventually(t, "no leader", func() error {
		if s := m.status(); s.Leader != 0 {
			return fmt.Errorf("replica %v leads", s.Leader)
		}
		return nil
	})
}

// outcome returns what comes, which it waits for.
func outcome(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("it waits on")
		return nil
	}
}
