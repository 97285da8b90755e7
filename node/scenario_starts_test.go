package node_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

// manyStarts is more than a peer's memory of a node reaches back.
const manyStarts = 300

// failToStart is a supervisor that restarts a member with a certificate that is not the node's.
func failToStart(t *testing.T, config node.Config) {
	t.Helper()
	config.TLS = mtls.NewTLS(func() (mtls.Certificates, error) { return mtls.Certificates{}, nil })
	config.Advertise = "127.0.0.1:1"
	for range manyStarts {
		n, err := node.Open(config)
		if err == nil {
			n.Close()
			t.Fatal("opened with a certificate that is not the node's")
		}
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Fatal(err)
		}
	}
}

// TestFailedStartsAreNotCounted: both members fail to start hundreds of times, and a witness is
// opened as often. None of these openings has spoken to anybody, so all are taken back.
func TestFailedStartsAreNotCounted(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	leader := c.awaitSync()
	h.more(t, 20)
	h.end()
	watcher := c.crashWitness()
	a, b := c.crash(c.other(leader)), c.crash(leader)
	failToStart(t, a)
	failToStart(t, b)
	for range manyStarts {
		w, err := witness.Open(watcher)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.start(a)
	c.start(b)
	c.startWitness(watcher)
	c.awaitSync()
	c.verify(h)
}

// TestRunsThatMeetNobodyAreNotCounted: while all others are down, a supervisor may restart a node
// as often as it likes. Its first meeting counts.
func TestRunsThatMeetNobodyAreNotCounted(t *testing.T) {
	c := newCluster(t, nil)
	leader := c.awaitSync()
	watcher := c.crashWitness()
	a, b := c.crash(c.other(leader)), c.crash(leader)
	was := make(map[string]nexusraft.Incarnation)
	for range 3 {
		m := c.start(a)
		eventually(t, "it has tried to call the others", func() error {
			s, err := m.node.Status(t.Context())
			if err != nil || len(s.Peers) != 2 {
				return fmt.Errorf("it knows %d peers: %w", len(s.Peers), err)
			}
			for _, p := range s.Peers {
				if p.Reached || p.Error == "" {
					return fmt.Errorf("its link to %v: reached %t, %q", p.Node, p.Reached, p.Error)
				}
			}
			return nil
		})
		unchanged(t, was, a.Name, m.node.Status)
		a = c.crash(m)

		w := c.runWitness(watcher)
		unchanged(t, was, watcher.Name, w.Status)
		c.watcher = w
		watcher = c.crashWitness()
	}
	c.start(b)
	m, w := c.start(a), c.startWitness(watcher)
	c.awaitSync()
	unchanged(t, was, a.Name, m.node.Status)
	unchanged(t, was, watcher.Name, w.Status)
	for name := range was {
		was[name]++
	}
	watcher, a = c.crashWitness(), c.crash(m)
	m, w = c.start(a), c.startWitness(watcher)
	c.awaitSync()
	unchanged(t, was, a.Name, m.node.Status)
	unchanged(t, was, watcher.Name, w.Status)
}

// unchanged compares a node's incarnation with what it was, if that is known.
func unchanged(
	t *testing.T, was map[string]nexusraft.Incarnation, name string,
	ask func(context.Context) (nexusraft.NodeStatus, error),
) {
	t.Helper()
	s, err := ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before, ok := was[name]; ok && s.Incarnation != before {
		t.Errorf("%s is incarnation %d, and was %d", name, s.Incarnation, before)
	}
	was[name] = s.Incarnation
}
