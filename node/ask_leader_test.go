package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
)

// namedAnswer has a node answer with its name and the question.
func namedAnswer(c *node.Config) {
	name := c.Name
	c.Answer = func(_ context.Context, _ nexusraft.ZoneID, question []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%s: %s", name, question), nil
	}
}

// Any member's question gets to the leader, and one that knows none says so.
func TestAskLeader(t *testing.T) {
	c := newCluster(t, namedAnswer)
	leader := c.awaitSync()
	for _, m := range c.running() {
		eventually(t, "the leader's answer", func() error {
			got, err := m.node.AskLeader(t.Context(), nexusraft.RootZone, []byte("who?"))
			if want := leader.config.Name + ": who?"; err == nil && string(got) != want {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return err
		})
	}
	ask := func(zone nexusraft.ZoneID, size int) error {
		_, err := leader.node.AskLeader(t.Context(), zone, make([]byte, size))
		return err
	}
	if err := ask(nexusraft.RootZone, transport.MaxQuestionBytes+1); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("a question over the limit: got %v", err)
	}
	if err := ask(nexusraft.RootZone, transport.MaxQuestionBytes); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("an answer over the limit: got %v", err) // it has the name, too
	}
	if err := ask(99, 1); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("of no zone: got %v", err)
	}
	other := c.other(leader)
	c.crash(leader)
	c.crashWitness()
	eventually(t, "no leader is known", func() error {
		_, err := other.node.AskLeader(t.Context(), nexusraft.RootZone, nil)
		if !errors.Is(err, nexusraft.ErrNotLeader) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
}

// A read in a term is one that a quorum has confirmed for this leader in that term; later it is none.
func TestReadInTerm(t *testing.T) {
	c := newCluster(t, namedAnswer)
	leader := c.awaitSync()
	led, _, err := leader.node.LedZones(t.Context(), 0)
	if err != nil || len(led) != 1 {
		t.Fatalf("got %v, %v", led, err)
	}
	read := func(within time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		var got string
		err := led[0].Read(ctx, func(r nexusraft.Reader) error {
			b, _, err := r.Get([]byte("k"))
			got = string(b)
			return err
		})
		return got, err
	}
	leader.put("k", "1")
	if got, err := read(patience); got != "1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	other := c.transfer(c.other(leader).config.Name)
	if got, err := read(patience); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("after the term: got %q, %v", got, err)
	}
	if c.transfer(leader.config.Name); other == leader {
		t.Fatal("it has not moved")
	}
	if got, err := read(patience); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("in a later term of its own: got %q, %v", got, err)
	}
	if err := leader.node.AwaitWorkers(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who has no copy of the zone's state asks its leader nothing. TestCallersOfEachMethod has those that show a wrong
// certificate, and a node that was removed.
func TestWhoMayAskLeader(t *testing.T) {
	c := captureWitness(t)
	for _, m := range []*member{c.leader, c.follower} {
		_, err := c.evil.AskLeader(t.Context(), m.node.ID(), transport.Question{Zone: nexusraft.RootZone})
		if err == nil || strings.Contains(err.Error(), "answers no questions") {
			t.Errorf("the witness asks %s: got %v", m.config.Name, err)
		}
	}
}

// Without TLS a node is whom it says it is; one that is not in the zone's records gets no answer.
func TestStrangerAsksLeader(t *testing.T) {
	c := newCluster(t, namedAnswer)
	leader := c.awaitSync()
	for _, id := range []nexusraft.NodeID{0x5e, witnessIn(leader.status().Membership)} {
		self := transport.Identity{
			Cluster: leader.node.Cluster(), Node: id, Incarnation: 1 << 20, Boot: 1, Address: "127.0.0.1:1",
		}
		options := transport.PeersOptions{VoteTimeout: 2 * time.Second}
		p := transport.NewPeers(func() transport.Identity { return self }, options)
		t.Cleanup(p.Close)
		p.SetAddress(leader.node.ID(), leader.config.Advertise)
		got, err := p.AskLeader(t.Context(), leader.node.ID(), transport.Question{Zone: nexusraft.RootZone})
		if err == nil {
			t.Errorf("node %v was answered %q", id, got)
		}
	}
}
