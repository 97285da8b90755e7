package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// named is a state machine that does what none may: it writes on which node it runs, with the command that
// says so.
type named struct{ name string }

func (n named) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	value := cmd.Data
	if string(cmd.Data) == "name" {
		value = []byte(n.name)
	}
	return nil, tx.Set([]byte("k"), value)
}

func namedConfig(t *testing.T, name string) node.Config {
	c := zonesConfig(t, name)
	c.Machines["named"] = named{name}
	return c
}

// atOnce calls f for so many commands, some at a time.
func atOnce(n int, f func(command string)) {
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := i; k < n; k += 16 {
				f(fmt.Sprint("k=v", k))
			}
		})
	}
	all.Wait()
}

// taken proposes so many commands, some at a time, each to one of the members that serve a zone, until it is
// taken. What comes of it may be uncertain, as members stop and leaders change.
func taken(t *testing.T, id nexusraft.ZoneID, n int, members ...*member) {
	t.Helper()
	atOnce(n, func(command string) { takenByAny(t, id, command, members...) })
}

// takenByAny proposes a command as taken does.
func takenByAny(t *testing.T, id nexusraft.ZoneID, command string, members ...*member) {
	t.Helper()
	eventually(t, "propose "+command, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, m := range members {
			z, again := m.node.Zone(id)
			if again == nil {
				_, again = z.Propose(ctx, nexusraft.RequestID{}, []byte(command))
			}
			if again == nil || errors.Is(again, nexusraft.ErrUncertain) {
				return nil
			}
			err = errors.Join(err, again)
		}
		return err
	})
}

// differs returns an error unless a zone has stopped on a node because its state differs from the leader's.
func (m *member) differs(id nexusraft.ZoneID) error {
	_, err := m.node.Zone(id)
	if !errors.Is(err, nexusraft.ErrClosed) || !errors.Is(err, nexusraft.ErrCorrupt) ||
		!strings.Contains(err.Error(), "join as a new node") {
		return fmt.Errorf("zone %v of %s: got %v", id, m.config.Name, err)
	}
	return nil
}

// A state machine that is not the same function on both members is found out within 1,000 commands. The
// member that follows stops that zone alone, says so by its status and an event, and does not serve it
// after a restart either; the zone goes on, degraded, and all others as before.
func TestMemberThatDiffersStopsTheZone(t *testing.T) {
	t.Parallel()
	n1 := found(t, namedConfig(t, "n1"))
	n2 := join(t, namedConfig(t, "n2"), n1)
	runWitnessOf(t, n1)
	z, other := n1.create("differs", "named"), n1.create("other", "words")
	eventually(t, "the zone is whole", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return n2.zoneOf(z.ID()).AwaitWhole(ctx)
	})
	taken(t, z.ID(), 300, n1, n2)
	for _, m := range []*member{n1, n2} {
		if _, err := m.node.Zone(z.ID()); err != nil {
			t.Fatalf("%s, before there is a difference: %v", m.config.Name, err)
		}
	}
	takenByAny(t, z.ID(), "name", n1, n2)
	taken(t, z.ID(), 600, n1, n2)
	leader, follower := n1, n2
	eventually(t, "one of the members stops the zone", func() error {
		err := follower.differs(z.ID())
		if err != nil {
			leader, follower = follower, leader
		}
		return err
	})

	s, err := follower.node.Status(t.Context())
	if err != nil || s.Healthy || !strings.Contains(s.Problem, "differs from the leader's") {
		t.Errorf("status: healthy %t, %q, %v", s.Healthy, s.Problem, err)
	}
	var told bool
	health := nexusraft.Subscription{From: 1, Topics: []string{"health"}}
	for batch, err := range follower.node.Subscribe(within(t), health) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			told = told || e.Type == "zone-stopped" && e.Zone == z.ID() && strings.Contains(string(e.Payload), "differs")
		}
		if told {
			break
		}
	}
	taken(t, z.ID(), 600, leader) // the leader and the witness are a quorum, and pass the checks that follow
	stored(t, follower.zoneOf(other.ID()), "k=v")
	follower.put("k", "root")

	follower.close()
	follower = start(t, follower.config)
	follower.zone()
	if err := follower.differs(z.ID()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	takenByAny(t, z.ID(), "after", leader)
	if got := reads(t, follower.zoneOf(other.ID()), "k"); got != "v" {
		t.Errorf("another zone after a restart: got %q", got)
	}
}

// A root zone that differs from the leader's stops on that member alone, and a restart changes nothing about that: the
// member's other zones run, before and after, and take writes through it.
func TestRootZoneThatDiffersLeavesTheOthers(t *testing.T) {
	t.Parallel()
	config := func(name string) node.Config {
		c := zonesConfig(t, name)
		c.StateMachine = named{name}
		return c
	}
	n1 := found(t, config("n1"))
	n2 := join(t, config("n2"), n1)
	runWitnessOf(t, n1)
	other := n1.create("other", "words")
	for _, z := range []*node.Zone{n1.zone(), n1.zoneOf(other.ID())} {
		eventually(t, "a zone is whole", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return z.AwaitWhole(ctx)
		})
	}
	root := nexusraft.RootZone
	takenByAny(t, root, "name", n1, n2)
	taken(t, root, 600, n1, n2)
	leader, follower := n1, n2
	eventually(t, "one of the members stops the root zone", func() error {
		err := follower.differs(root)
		if err != nil {
			leader, follower = follower, leader
		}
		return err
	})
	stored(t, follower.zoneOf(other.ID()), "k=before")
	follower.close()
	follower = start(t, follower.config)
	if err := follower.node.AwaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := reads(t, follower.zoneOf(other.ID()), "k"); got != "before" {
		t.Errorf("another zone after a restart: got %q", got)
	}
	if err := follower.differs(root); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	stored(t, follower.zoneOf(other.ID()), "k=after")
	taken(t, root, 300, leader) // and through the next checks
	if got := reads(t, leader.zoneOf(other.ID()), "k"); got != "after" {
		t.Errorf("at the leader: got %q", got)
	}
	if s, err := follower.node.Status(t.Context()); err != nil || s.Healthy || !strings.Contains(s.Problem, "differs") {
		t.Errorf("status after a restart: healthy %t, %q, %v", s.Healthy, s.Problem, err)
	}
}

// Members whose state machine is one function pass every check: through restarts, another leader, a
// member that joins by a snapshot, a zone that is made meanwhile, in the root zone and in others.
func TestMembersThatAgreePassEveryCheck(t *testing.T) {
	t.Parallel()
	c := zonesConfig(t, "n1")
	c.CompactEntries = 100
	n1 := found(t, c)
	root, z := nexusraft.RootZone, n1.create("words", "words").ID()
	taken(t, z, 400, n1)
	taken(t, root, 400, n1)
	n2 := join(t, zonesConfig(t, "n2"), n1)
	n2.zoneOf(z)
	taken(t, z, 700, n1, n2)
	runWitnessOf(t, n1)
	late := n2.create("late", "counter").ID()
	for range 2 {
		for _, id := range []nexusraft.ZoneID{root, z, late} {
			taken(t, id, 400, n1, n2)
		}
		n1.close()
		n1 = start(t, n1.config)
		n1.zone()
		n1, n2 = n2, n1
	}
	for _, m := range []*member{n1, n2} {
		for _, id := range []nexusraft.ZoneID{root, z, late} {
			reads(t, m.zoneOf(id), "k")
		}
		if s, err := m.node.Status(t.Context()); err != nil || !s.Healthy {
			t.Errorf("%s: %q, %v", m.config.Name, s.Problem, err)
		}
	}
	ctx := within(t)
	for _, id := range []nexusraft.ZoneID{root, z, late} {
		eventually(t, "the members have one state", func() error {
			a, err := n1.zoneOf(id).Checksum(ctx)
			b, again := n2.zoneOf(id).Checksum(ctx)
			if err = errors.Join(err, again); err == nil && !bytes.Equal(a.Sum, b.Sum) {
				err = fmt.Errorf("zone %v: %+v and %+v", id, a, b)
			}
			return err
		})
	}
}
