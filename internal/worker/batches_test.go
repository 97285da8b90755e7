package worker

import (
	"errors"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// batching has a node's workers put several commands into one entry, as in a cluster of the version that has them.
func (w *idleWorker) batching() {
	for _, x := range w.ask.workers {
		x.version = system.BatchVersion
	}
}

// calls are proposals of a zone.
func calls(g *group, commands ...string) (ps []*propose.Call) {
	for _, c := range commands {
		p := propose.New(g.id)
		p.Command = []byte(c)
		ps = append(ps, p)
	}
	return ps
}

// TestWhatBecomesOneEntry: the commands of clients that wait together, in a cluster of the version that has such
// entries, each with its own answer. What its caller has given up, what is refused and what a machine wants to be
// alone is not in it.
func TestWhatBecomesOneEntry(t *testing.T) {
	for version, want := range map[uint32][]nexusraft.Index{ // where a, b, alone and c are
		system.BatchVersion - 1: {0, 1, 2, 3}, system.BatchVersion: {0, 0, 1, 2}, system.BatchVersion + 1: {0, 0, 1, 2},
	} {
		w := newIdleWorker(t, false)
		g := host(t, w)
		w.version, g.machine.StateMachine = version, &echo{}
		if err := g.replica.Campaign(); err != nil {
			t.Fatal(err)
		}
		w.turns(t)
		ps := calls(g, "a", "b", "alone", "c", "given up", "wrong term")
		_, _ = ps[4].Wait(ended(t))
		ps[1].Term, ps[5].Term = g.replica.Term(), g.replica.Term()+1
		first := g.replica.Applied() + 1
		g.propose([]*propose.Call{ps[0], ps[4], ps[1], ps[5], ps[2], ps[3]})
		w.turns(t)
		for i, p := range ps[:4] {
			a := answerOf(t, "proposal", p)
			if a.err != nil || a.result.Index != first+want[i] || string(a.result.Data) != string(p.Command) {
				t.Errorf("version %d: %q: got %q at %d, %v, want index %d", version, p.Command, a.result.Data, a.result.Index,
					a.err, first+want[i])
			}
		}
		if a := answerOf(t, "proposal", ps[5]); !errors.Is(a.err, nexusraft.ErrNotLeader) {
			t.Errorf("a command was proposed in another term than its own: %v", a.err)
		}
		if got := g.replica.Applied(); got != first+want[3] {
			t.Errorf("version %d: the log ends at %d, want %d", version, got, first+want[3])
		}
	}
}

// echo answers with its commands, and wants some to be alone.
type echo struct{ orders []uint64 }

func (e *echo) Apply(_ nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	e.orders = append(e.orders, cmd.Order())
	return cmd.Data, nil
}

func (e *echo) Alone(command []byte) bool {
	if string(command) == "panic" {
		panic("asked to")
	}
	return string(command) == "alone"
}

// TestBatchesAreForNodesThatReadThem: a leader makes none while a node with a copy of the zone's state has said
// that it speaks less than the cluster's version, as where an earlier program was put back.
func TestBatchesAreForNodesThatReadThem(t *testing.T) {
	w, g := admittedWorker(t)
	boot := nexusraft.Boot(0)
	says := func(minor uint32) {
		t.Helper()
		boot++
		self := w.o.Peering.Self()
		err := w.o.Peering.Hello(transport.Identity{
			Cluster: self.Cluster, Node: leaderNode, Incarnation: nexusraft.Incarnation(boot), Boot: boot, Name: "x",
			Address: "127.0.0.1:1", Minor: minor,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(want bool) {
		t.Helper()
		if got := g.batches(); got != want {
			t.Errorf("got %t, want %t", got, want)
		}
	}
	want(false)
	w.version = system.ZonesVersion
	want(false)
	w.batching()
	want(true) // all have said so, once
	says(system.BatchVersion - 1)
	want(false)
}

// TestVersionIsKnown: the workers know the cluster's version once the root zone's records were looked at, after a
// start, too; and a batch is made then.
func TestVersionIsKnown(t *testing.T) {
	w := newIdleWorker(t, false)
	if err := w.openAll(); err != nil {
		t.Fatal(err)
	}
	g := w.zones[nexusraft.RootZone]
	e := new(echo)
	g.machine.StateMachine = e
	if err := g.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	if w.version != system.NewestVersion {
		t.Fatalf("it knows version %d, want %d", w.version, system.NewestVersion)
	}
	first := g.replica.Applied() + 1
	g.propose(calls(g, "a", "b", "panic", "c"))
	w.turns(t)
	one := nexusraft.Command{Index: first}.Order()
	const entry = nexusraft.MaxEntryCommands
	if got, want := fmt.Sprint(e.orders), fmt.Sprint([]uint64{one, one + 1, one + entry, one + 2*entry}); got != want {
		t.Errorf("orders %v, want %v", got, want)
	}
}
