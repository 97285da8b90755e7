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

// awaitAsleep waits until all zones of some members sleep.
func awaitAsleep(t *testing.T, members ...*member) {
	t.Helper()
	for _, m := range members {
		eventually(t, "the zones of "+m.config.Name+" sleep", func() error {
			awake, err := m.node.Awake(t.Context())
			if err == nil && awake > 0 {
				err = fmt.Errorf("%d are awake", awake)
			}
			return err
		})
	}
}

// TestZonesSleep: all zones sleep while they are idle, the root zone, too, and serve as before
// through any member. (A leader sleeps once all its replicas do, the witness, too.)
func TestZonesSleep(t *testing.T) {
	t.Parallel()
	n1 := found(t, zonesConfig(t, "n1"))
	n2 := join(t, zonesConfig(t, "n2"), n1)
	runWitnessOf(t, n1)
	a, b := n1.create("a-words", "words"), n1.create("a-counter", "counter")
	proposed(t, n2.zoneOf(a.ID()), "k=v")
	proposed(t, b, "123")
	awaitAsleep(t, n1, n2)

	for _, m := range []*member{n1, n2} {
		if got := reads(t, m.zoneOf(a.ID()), "k"); got != "v" {
			t.Errorf("asleep, %s reads %q", m.config.Name, got)
		}
		awaitAsleep(t, n1, n2)
	}
	if got := proposed(t, n2.zoneOf(b.ID()), "45"); got != "5" {
		t.Errorf("asleep, a proposal gives %q", got)
	}
	m := n1.create("made-later", "words") // the root zone slept, too
	proposed(t, n2.zoneOf(m.ID()), "k=w")
	awaitAsleep(t, n1, n2)
	for _, m := range []*member{n1, n2} {
		if got := m.node.EntriesInMemory(); got != 0 {
			t.Errorf("asleep, %s has %d bytes of log entries in memory", m.config.Name, got)
		}
	}
}

// TestSleepingZonesFailOver: the node that leads sleeping zones dies, and the other member takes
// over; the zones sleep without it, and again with it once it is back.
func TestSleepingZonesFailOver(t *testing.T) {
	c := newCluster(t, nil)
	first := c.awaitSync()
	other := c.other(first)
	first.put("k", "1")
	awaitAsleep(t, first, other)
	config := c.crash(first)
	c.leader(first)
	other.put("k", "2")
	awaitAsleep(t, other)
	if s := other.status(); s.Sync != nexusraft.Degraded {
		t.Errorf("asleep without a member it is %q", s.Sync)
	}
	back := c.start(config)
	c.awaitSync()
	if got := back.get("k"); got != "2" {
		t.Errorf("the member that is back reads %q", got)
	}
	awaitAsleep(t, back, other)
}

// failing is a state machine that stops its zone on the node that leads it, once fail is closed, and without
// a command.
type failing struct {
	words
	fail chan struct{}
}

func (f failing) Lead(ctx context.Context, _ nexusraft.Leadership) {
	select {
	case <-f.fail:
		panic("the test fails it")
	case <-ctx.Done():
	}
}

// TestSleepingZoneStopsAlone: a zone that stops on a node alone wakes what rests on that node, and
// moves.
func TestSleepingZoneStopsAlone(t *testing.T) {
	t.Parallel()
	fail := make(chan struct{})
	config := func(name string, fail chan struct{}) node.Config {
		c := zonesConfig(t, name)
		c.Machines["failing"] = failing{fail: fail}
		return c
	}
	n1 := found(t, config("n1", fail))
	n2 := join(t, config("n2", nil), n1)
	runWitnessOf(t, n1)
	z := n1.create("a-zone", "failing")
	proposed(t, z, "k=v")
	n1.leads(z.ID(), n2)
	awaitAsleep(t, n1, n2)
	before, err := n1.node.Changes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	close(fail)
	eventually(t, "the other member serves", func() error {
		s, err := n2.zoneOf(z.ID()).Status(t.Context())
		if err == nil && s.State != nexusraft.Leader {
			err = fmt.Errorf("it is a %s", s.State)
		}
		if err != nil {
			return err
		}
		after, err := n1.node.Changes(t.Context())
		if err == nil && after == before { // on a busy machine it may have led before, so that nothing has failed yet
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = n2.zoneOf(z.ID()).TransferLeader(ctx, n1.node.ID())
			err = errors.Join(errors.New("the node's signal has not changed"), err)
		}
		return err
	})
}
