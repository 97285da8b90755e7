package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/witness"
)

// counter is a state machine that adds the number of bytes of each command.
type counter struct{}

// Alone implements nexusraft.Batched.
func (counter) Alone([]byte) bool { return false }

func (counter) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	old, _, err := tx.Get([]byte("n"))
	if err != nil {
		return nil, err
	}
	var n int
	if len(old) > 0 {
		if _, err := fmt.Sscan(string(old), &n); err != nil {
			return nil, err
		}
	}
	now := fmt.Append(nil, n+len(cmd.Data))
	return now, tx.Set([]byte("n"), now)
}

func zonesConfig(t *testing.T, name string) node.Config {
	c := testConfig(t, name)
	c.Machines = map[string]nexusraft.StateMachine{"words": words{}, "counter": counter{}}
	return c
}

// create makes a zone, on a cluster that may just be about to be able to.
func (m *member) create(name, machine string) (z *node.Zone) {
	m.t.Helper()
	eventually(m.t, "create zone "+name, func() (err error) {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		z, err = m.node.CreateZone(ctx, name, node.ZoneSpec{Machine: machine})
		return err
	})
	return z
}

// zoneOf returns a zone of a member once that has it.
func (m *member) zoneOf(id nexusraft.ZoneID) (z *node.Zone) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s has zone %v", m.config.Name, id), func() (err error) {
		z, err = m.node.Zone(id)
		return err
	})
	return z
}

// gone waits until a member has nothing of a zone.
func (m *member) gone(id nexusraft.ZoneID) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s drops zone %v", m.config.Name, id), func() error {
		if z, err := m.node.Zone(id); !errors.Is(err, nexusraft.ErrZoneNotFound) {
			return fmt.Errorf("got %v, %v", z, err)
		}
		return nil
	})
}

// proposed proposes until a command is accepted. Of one whose outcome is unknown only a pair may be proposed again.
func proposed(t *testing.T, z *node.Zone, command string) (data string) {
	t.Helper()
	eventually(t, "propose "+command, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := z.Propose(ctx, nexusraft.RequestID{}, []byte(command))
		if errors.Is(err, nexusraft.ErrUncertain) && !strings.Contains(command, "=") {
			t.Fatalf("propose %s: %v", command, err)
		}
		data = string(r.Data)
		return err
	})
	return data
}

// reads reads a key of a zone linearizably.
func reads(t *testing.T, z *node.Zone, key string) (value string) {
	t.Helper()
	eventually(t, "read "+key, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return z.Read(ctx, func(r nexusraft.Reader) error {
			b, _, err := r.Get([]byte(key))
			value = string(b)
			return err
		})
	})
	return value
}

// Zones of two kinds live beside the root zone, each with a state of its own, through a restart; one that
// is deleted is gone for good, and its name may be given again.
func TestZonesOfOneNode(t *testing.T) {
	t.Parallel()
	c := zonesConfig(t, "n1")
	m := found(t, c)
	a, b := m.create("a-words", "words"), m.create("a-counter", "counter")
	if a.ID() == b.ID() || a.ID() == nexusraft.RootZone {
		t.Errorf("zones %v and %v", a.ID(), b.ID())
	}
	m.put("k", "root")
	proposed(t, a, "k=words")
	proposed(t, b, "12345")
	if got := proposed(t, b, "678"); got != "8" {
		t.Errorf("counter: got %q, want 8", got)
	}
	if same := m.create("a-words", "words"); same.ID() != a.ID() {
		t.Errorf("the same once more: got zone %v, want %v", same.ID(), a.ID())
	}
	m.close()

	m = start(t, m.config)
	m.zone()
	a, b = m.zoneOf(a.ID()), m.zoneOf(b.ID())
	if got := reads(t, a, "k") + " " + reads(t, b, "n") + " " + m.get("k"); got != "words 8 root" {
		t.Errorf("after a restart: got %q", got)
	}
	if err := m.node.DeleteZone(t.Context(), a.ID(), "a-counter"); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("delete by another zone's name: got %v", err)
	}
	if err := m.node.DeleteZone(t.Context(), a.ID(), "a-words"); err != nil {
		t.Fatal(err)
	}
	m.gone(a.ID())
	if _, err := a.Propose(t.Context(), nexusraft.RequestID{}, []byte("k=v")); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("propose to a zone that was deleted: got %v", err)
	}
	next := m.create("a-words", "words")
	if next.ID() <= b.ID() {
		t.Errorf("zone %v has an ID that was used before", next.ID())
	}
	if got := reads(t, next, "k"); got != "" {
		t.Errorf("the new zone has %q of the old one", got)
	}
	m.close()
	m = start(t, m.config)
	m.zone()
	m.gone(a.ID())
	zones, err := m.node.Zones(t.Context())
	if err != nil || len(zones) != 2 || zones[0].Name != "a-counter" || zones[1].ID != next.ID() {
		t.Errorf("zones: %+v, %v", zones, err)
	}
}

// A bad request is refused with the reason, and nothing is made.
func TestZonesRefused(t *testing.T) {
	t.Parallel()
	m := found(t, zonesConfig(t, "n1"))
	m.create("taken", "words")
	for _, x := range []struct{ name, machine, says string }{
		{"", "words", "is empty"},
		{strings.Repeat("z", 1024), "words", "has 1024 bytes"},
		{"a\nb", "words", "lower-case"},
		{"../x", "words", "lower-case"},
		{"a/b", "words", "lower-case"},
		{"12", "words", "lower-case"},
		{"beef", "words", "could be a zone's ID"},
		{"root", "words", "root zone's"},
		{"оrders", "words", "lower-case"}, // Cyrillic
		{"taken", "counter", `there is a zone "taken" already`},
		{"fresh", "unheard-of", `no state machine "unheard-of"`},
		{"fresh", "", "no state machine"},
	} {
		_, err := m.node.CreateZone(t.Context(), x.name, node.ZoneSpec{Machine: x.machine})
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("create %.20q with %q: got %v, want it to say %q", x.name, x.machine, err, x.says)
		}
	}
	for id, says := range map[nexusraft.ZoneID]string{
		0: "there is no zone", nexusraft.RootZone: "root zone can't be deleted", 99: "there is no zone",
	} {
		if err := m.node.DeleteZone(t.Context(), id, "root"); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("delete zone %v: got %v, want it to say %q", id, err, says)
		}
	}
	if zones, err := m.node.Zones(t.Context()); err != nil || len(zones) != 1 {
		t.Errorf("zones: %+v, %v", zones, err)
	}
}

// Two nodes that make the same zone at the same time get one.
func TestZonesMadeTwice(t *testing.T) {
	t.Parallel()
	n1 := found(t, zonesConfig(t, "n1"))
	n2 := join(t, zonesConfig(t, "n2"), n1)
	n1.create("first", "words")
	for i := range 20 {
		name := fmt.Sprintf("twice-%d", i)
		var ids [2]nexusraft.ZoneID
		var wg sync.WaitGroup
		for k, m := range []*member{n1, n2} {
			wg.Go(func() { ids[k] = m.create(name, "words").ID() })
		}
		wg.Wait()
		if ids[0] != ids[1] || ids[0] == 0 {
			t.Errorf("%s: got %v", name, ids)
		}
	}
	if zones, err := n2.node.Zones(t.Context()); err != nil || len(zones) != 21 {
		t.Errorf("got %d zones, %v", len(zones), err)
	}
}

// A node that was away when zones were made and deleted makes and drops its replicas when it comes back.
func TestZonesWhileANodeIsAway(t *testing.T) {
	t.Parallel()
	n1 := found(t, zonesConfig(t, "n1"))
	n2 := join(t, zonesConfig(t, "n2"), n1)
	old, kept := n1.create("old", "words"), n1.create("kept", "words")
	proposed(t, n2.zoneOf(kept.ID()), "k=both")
	n2.zoneOf(old.ID())
	runWitnessOf(t, n1)
	n2.close()

	if err := retried(t, func(ctx context.Context) error { return n1.node.DeleteZone(ctx, old.ID(), "old") }); err != nil {
		t.Fatal(err)
	}
	made := n1.create("made", "counter")
	n1.gone(old.ID())

	n2 = start(t, n2.config)
	n2.zone()
	n2.gone(old.ID())
	proposed(t, n2.zoneOf(made.ID()), "123")
	if got := reads(t, n2.zoneOf(made.ID()), "n"); got != "3" {
		t.Errorf("got %q", got)
	}
	if got := reads(t, n2.zoneOf(kept.ID()), "k"); got != "both" {
		t.Errorf("got %q", got)
	}
}

// runWitnessOf runs a witness that joins the cluster of a member, until it votes.
func runWitnessOf(t *testing.T, m *member) {
	t.Helper()
	runWitness(t, witness.Config{Dir: t.TempDir(), Join: []string{m.config.Advertise}, TickInterval: node.TestTick})
}

// retried calls f until its outcome is certain.
func retried(t *testing.T, f func(context.Context) error) (err error) {
	t.Helper()
	eventually(t, "a certain outcome", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = f(ctx)
		if errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrNoQuorum) {
			return err
		}
		return nil
	})
	return err
}

// A zone whose node was the only one when it was made follows the cluster: the second member holds its
// data, and then the witness votes in it.
func TestZonesFollowTheCluster(t *testing.T) {
	t.Parallel()
	n1 := found(t, zonesConfig(t, "n1"))
	z := n1.create("early", "words")
	proposed(t, z, "k=v")
	n2 := join(t, zonesConfig(t, "n2"), n1)
	if got := reads(t, n2.zoneOf(z.ID()), "k"); got != "v" {
		t.Errorf("at the second member: got %q", got)
	}
	runWitnessOf(t, n1)
	eventually(t, "the zone is whole", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return n2.zoneOf(z.ID()).AwaitWhole(ctx)
	})
}

// A node that lacks a zone's state machine says so, serves the others, and goes on with the zone once
// its program has it.
func TestZonesWithoutTheirStateMachine(t *testing.T) {
	t.Parallel()
	m := found(t, zonesConfig(t, "n1"))
	z, other := m.create("counted", "counter"), m.create("worded", "words")
	proposed(t, z, "123")
	m.close()
	c := m.config
	c.Machines = map[string]nexusraft.StateMachine{"words": words{}}
	m = start(t, c)
	m.zone()
	proposed(t, m.zoneOf(other.ID()), "k=v")
	if _, err := m.node.Zone(z.ID()); !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), `"counter"`) {
		t.Errorf("got %v", err)
	}
	s, err := m.node.Status(t.Context())
	if err != nil || s.Healthy || !strings.Contains(s.Problem, `"counter"`) {
		t.Errorf("status: %+v, %v", s.Problem, err)
	}
	m.close()
	c.Machines = map[string]nexusraft.StateMachine{"words": words{}, "counter": counter{}}
	m = start(t, c)
	m.zone()
	if got := proposed(t, m.zoneOf(z.ID()), "45"); got != "5" {
		t.Errorf("got %q, want 5", got)
	}
}

// A node says the status of all its zones, or of one and of the root zone.
func TestStatusOfOneZone(t *testing.T) {
	t.Parallel()
	m := found(t, zonesConfig(t, "n1"))
	a, b := m.create("first", "words"), m.create("second", "words")
	all := []nexusraft.ZoneID{nexusraft.RootZone, a.ID(), b.ID()}
	for only, want := range map[nexusraft.ZoneID][]nexusraft.ZoneID{
		0: all, nexusraft.RootZone: all[:1], b.ID(): {nexusraft.RootZone, b.ID()}, 0x77: all[:1],
	} {
		s, err := m.node.Handler().Status(t.Context(), only)
		var got []nexusraft.ZoneID
		for _, z := range s.Zones {
			got = append(got, z.Zone)
		}
		if err != nil || !slices.Equal(got, want) || !s.Healthy {
			t.Errorf("zone %v: got %v, %v, want %v", only, got, err, want)
		}
	}
}

// A zone whose state machine panics, or whose log is damaged, stops alone: the root zone and the others go
// on, also after a restart, and the node says which zone and why.
func TestZoneInTroubleStopsAlone(t *testing.T) {
	t.Parallel()
	m := found(t, zonesConfig(t, "n1"))
	panics, damaged, other := m.create("panics", "words"), m.create("damaged", "counter"), m.create("other", "counter")
	proposed(t, panics, "k=v")
	proposed(t, damaged, "1")
	proposed(t, other, "12")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := panics.Propose(ctx, nexusraft.RequestID{}, []byte("panic")); !errors.Is(err, nexusraft.ErrUncertain) ||
		ctx.Err() != nil {
		t.Errorf("the command that panics: got %v", err)
	}
	stopped := func(id nexusraft.ZoneID, says string) {
		t.Helper()
		if _, err := m.node.Zone(id); !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), says) {
			t.Errorf("zone %v: got %v, want it to say %q", id, err, says)
		}
	}
	stopped(panics.ID(), "panicked")
	if got := proposed(t, other, "345"); got != "5" {
		t.Errorf("another zone: got %q, want 5", got)
	}
	m.put("k", "root")
	m.close()

	dir, err := datadir.Open(m.config.Dir, &storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hardState := append(binary.BigEndian.AppendUint64(nil, uint64(damaged.ID())), 2) // see internal/raftlog
	if err := errors.Join(dir.Raft.Delete(hardState, storage.Sync), dir.Close()); err != nil {
		t.Fatal(err)
	}
	m = start(t, m.config)
	m.zone()
	stopped(damaged.ID(), "hard state")
	if got := proposed(t, m.zoneOf(other.ID()), "6"); got != "6" {
		t.Errorf("another zone after a restart: got %q, want 6", got)
	}
	eventually(t, "the zone that panics stops again", func() error {
		if _, err := m.node.Zone(panics.ID()); !errors.Is(err, nexusraft.ErrClosed) {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	if got := m.get("k"); got != "root" {
		t.Errorf("the root zone: got %q", got)
	}
	if s, err := m.node.Status(t.Context()); err != nil || s.Healthy || !strings.Contains(s.Problem, "has stopped") {
		t.Errorf("status: healthy %t, %q, %v", s.Healthy, s.Problem, err)
	}
}
