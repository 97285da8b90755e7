package zone_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// toWitness returns the appends and snapshots among msgs that go to replica 3.
func toWitness(msgs []*raftpb.Message) []*raftpb.Message {
	return slices.DeleteFunc(slices.Clone(msgs), func(m *raftpb.Message) bool {
		return m.GetTo() != 3 || m.GetType() != raftpb.MsgApp && m.GetType() != raftpb.MsgSnap
	})
}

// TestDeposedLeaderHoldsBack: what a leader in sync wanted to tell the witness when it was
// deposed must not leave: the follower may not have it, and payload it must never see.
func TestDeposedLeaderHoldsBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		depose func(*world, *node)
	}{
		{"by a newer leader", func(w *world, n *node) {
			m := from(2, 1, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = new(uint64(3)) })
			must(w.step(n, m))
		}},
		{"by a silent quorum", func(w *world, n *node) {
			for range 2 * electionTicks {
				n.group.Tick()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[1]
			if err := w.propose(n, "secret"); err != nil {
				t.Fatal(err)
			}
			w.queue = nil
			tt.depose(w, n)
			w.turn(n)
			if s := n.r.Status(); s.State == nexusraft.Leader {
				t.Fatal("it still leads: the test is void")
			}
			for _, m := range toWitness(w.queue) {
				t.Errorf("left for the witness: %s", w.message(m))
			}
		})
	}
}

// TestSyncOfADeposedLeader: only a leader knows the state of the gate.
func TestSyncOfADeposedLeader(t *testing.T) {
	r := ledZone(t).nodes[1].r
	if got, _ := r.Sync(); got != nexusraft.InSync {
		t.Fatalf("got %q at first, want in sync", got)
	}
	m := from(2, 1, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = new(uint64(3)) })
	if err := r.Step(nodeOf(2), m); err != nil {
		t.Fatal(err)
	}
	got, since := r.Sync()
	if got != nexusraft.SyncUnknown || since != 0 {
		t.Errorf("got %q since %d from a replica that does not lead, want unknown", got, since)
	}
}

func TestTransferLeader(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	n.r.SetMembership(n.r.Membership().With(record(4, nexusraft.RoleLearner)))
	for _, tt := range []struct {
		to   nexusraft.ReplicaID
		want string
	}{{3, "a witness never leads"}, {4, "only members lead"}, {8, "has no replica"}} {
		if err := zone.TransferLeader(n.r, tt.to); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), tt.want) {
			t.Errorf("transfer to %d: got error %v, want ErrRefused with %q", tt.to, err, tt.want)
		}
	}
	if err := zone.TransferLeader(w.nodes[2].r, 2); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("got error %v from a follower, want ErrNotLeader", err)
	}
	// Nothing refused may keep raft from taking proposals.
	if err := w.propose(n, "x"); err != nil {
		t.Errorf("propose after refused transfers: %v", err)
	}
}

// TestWitnessNeverLeads: whatever it is told and however long nobody is there.
func TestWitnessNeverLeads(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[3]
	w.stop(w.nodes[1])
	w.stop(w.nodes[2])
	w.queue = nil
	for i := range 1000 {
		n.r.Tick()
		if i%10 == 0 {
			m := from(uint64(1+i%20/10), 3, raftpb.MsgTimeoutNow, nil)
			if err := n.r.Step(nodeOf(m.GetFrom()), m); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.r.Campaign(); !errors.Is(err, nexusraft.ErrRefused) {
			t.Fatalf("campaign: got error %v, want ErrRefused", err)
		}
		w.run(n)
		if s := n.r.Status(); s.State != nexusraft.Follower || s.Term != 2 {
			t.Fatalf("after %d ticks it is %s at term %d", i, s.State, s.Term)
		}
	}
	if len(w.queue) != 0 {
		t.Errorf("it sent %d messages, the first %s", len(w.queue), w.message(w.queue[0]))
	}
}

// TestEarlyMessages: in every round of a random history SendNow is only what a leader may
// say before its write, and never in a round that changes term or vote (I3); see world.checkEarly.
func TestEarlyMessages(t *testing.T) {
	w := newWorld(t, 0)
	w.found([]uint64{1, 2}, []uint64{3})
	for round := range 40 {
		n := w.nodes[uint64(1+round%2)]
		_ = w.campaign(n) // refused if the other one leads
		w.stabilize()
		if id, self := n.r.Leader(); self {
			for i := range 3 {
				must(w.propose(n, fmt.Sprint(round, i)))
				w.tick(n)
				w.stabilize()
			}
			must(zone.TransferLeader(n.r, 3-id))
			w.run(n)
			w.stabilize()
		}
	}
	if s := w.nodes[1].r.Status(); s.Term < 20 {
		t.Errorf("got term %d: too few elections for the test to say anything", s.Term)
	}
	if out := w.told(); strings.Contains(out, "refuses") || !strings.Contains(out, "  now   1->2 App") {
		t.Errorf("a message was refused, or none left early:\n%s", out)
	}
}

// TestCorruptCommand: a committed entry that can't be read stops the zone and is named.
func TestCorruptCommand(t *testing.T) {
	r := ledZone(t).nodes[2].r
	e := entryAt(12, 2)
	e.Data = []byte("no envelope")
	m := from(1, 2, raftpb.MsgApp, appends(11, 2, e))
	m.Commit = new(uint64(12))
	if err := r.Step(nodeOf(1), m); err != nil {
		t.Fatal(err)
	}
	_, err := r.Ready()
	if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "entry 12") {
		t.Errorf("got error %v, want ErrCorrupt that names entry 12", err)
	}
}

// TestLogger: raft relies on Panic and Fatal not returning, and tells the rest one step
// lower than it does by itself.
func TestLogger(t *testing.T) {
	var out strings.Builder
	l := zone.NewLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})), 7)
	l.Info("a vote")
	l.Debugf("a %s", "step")
	l.Warningf("odd %d", 1)
	l.Error("bad")
	for _, want := range []string{`level=INFO msg=raft zone=7 detail="odd 1"`, "level=ERROR msg=raft zone=7 detail=bad"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got no %s in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "a vote") || strings.Contains(out.String(), "a step") {
		t.Errorf("told at more than debug level:\n%s", out.String())
	}
	for name, f := range map[string]func(){
		"Fatal": func() { l.Fatal("x") }, "Fatalf": func() { l.Fatalf("x") },
		"Panic": func() { l.Panic("x") }, "Panicf": func() { l.Panicf("x") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s returned", name)
				}
			}()
			f()
		}()
	}
}

func TestReadyTwice(t *testing.T) {
	r := ledZone(t).nodes[1].r
	r.Tick()
	if _, err := r.Ready(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Ready(); err == nil {
		t.Error("got no error from a second Ready without Advance")
	}
}

func TestNewRefuses(t *testing.T) {
	good := zone.Config{
		Replica: 1, Storage: newDisk(&raftpb.ConfState{Voters: []uint64{1}}, nexusraft.Membership{}),
		Applied: foundedIndex,
	}
	for _, tt := range []struct {
		name string
		edit func(*zone.Config)
		want string
	}{
		{"no storage", func(c *zone.Config) { c.Storage = nil }, "Storage is required"},
		{"no replica", func(c *zone.Config) { c.Replica = 0 }, "reserved"},
		{"raft's identity", func(c *zone.Config) { c.Replica = ^nexusraft.ReplicaID(0) }, "reserved"},
		{
			"elections as often as heartbeats", func(c *zone.Config) { c.ElectionTicks, c.HeartbeatTicks = 3, 3 },
			"ElectionTicks",
		},
		{"a huge election timeout", func(c *zone.Config) { c.ElectionTicks = 1 << 62 }, "ElectionTicks"},
		{"a negative hold time", func(c *zone.Config) { c.HoldTicks = -1 }, "HoldTicks"},
		{"a witness by its flag, a member by its record", func(c *zone.Config) {
			c.Witness = true
			c.Membership = nexusraft.Membership{}.With(nexusraft.Member{Replica: 1, Node: 1, Role: nexusraft.RoleMember})
		}, "is a member by its record"},
		{"a log that has lost its end", func(c *zone.Config) { c.Applied = 99 }, "corrupt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.edit(&c)
			r, err := zone.New(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
			if r != nil {
				t.Error("got a replica with the error")
			}
		})
	}
	if _, err := zone.New(good); err != nil {
		t.Errorf("the configuration that the others are made from: %v", err)
	}
}

// TestCopies counts disks that hold data: the witness's is none.
func TestCopies(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.nodes[2].slowAppend = true
	if err := w.propose(n, "x"); err != nil {
		t.Fatal(err)
	}
	w.run(n)
	w.stabilize()
	if got := n.r.Copies(12); got != 1 {
		t.Errorf("got %d copies while the follower's append is under way, want 1", got)
	}
	w.unblock(w.nodes[2])
	w.stabilize()
	w.tick(n)
	w.stabilize()
	if got := w.nodes[3].r.Status().LastIndex; got != 12 {
		t.Fatalf("the witness's log ends at %d, want 12", got)
	}
	if got := n.r.Copies(12); got != 2 {
		t.Errorf("got %d copies when all have it, want 2", got)
	}
	if got := w.nodes[2].r.Copies(12); got != 1 {
		t.Errorf("got %d copies on a follower, want its own", got)
	}
}

// TestTermApplied: a new leader has applied what was acknowledged before it only once an entry of
// its own term is applied; until then it can't tell what a client may still do.
func TestTermApplied(t *testing.T) {
	w := newWorld(t, 0)
	w.found([]uint64{1, 2, 3}, nil)
	n := w.nodes[1]
	if n.r.TermApplied() {
		t.Error("a follower: got true")
	}
	must(w.campaign(n))
	for range 2 { // pre-votes, then votes
		w.deliver(func(m *raftpb.Message) bool { return m.GetTo() != 1 })
		w.deliver(func(m *raftpb.Message) bool { return m.GetTo() == 1 })
	}
	if _, self := n.r.Leader(); !self || n.r.TermApplied() {
		t.Fatalf("elected, and nothing of its term is committed: leads %t, got %t", self, n.r.TermApplied())
	}
	w.stabilize()
	if !n.r.TermApplied() {
		t.Error("with its first entry applied: got false")
	}
	w.tick(n)
	if err := n.r.Step(nodeOf(2), from(2, 1, raftpb.MsgHeartbeat,
		func(m *raftpb.Message) { m.Term = new(uint64(9)) })); err != nil {
		t.Fatal(err)
	}
	if n.r.TermApplied() {
		t.Error("deposed: got true")
	}
}

// TestActiveAcrossQuorumChecks: raft forgets at each check of the quorum which replicas were active;
// a member that answers every heartbeat is active all the time.
func TestActiveAcrossQuorumChecks(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.tick(n)
	w.stabilize()
	for i := range 4 * electionTicks {
		w.tick(n) // and the answers are on their way
		if m, ok := zone.Transferee(n.r); !ok || m.Replica != 2 {
			t.Fatalf("after %d ticks the transferee is %v, want replica 2", i, m)
		}
		w.stabilize()
	}
	w.stop(w.nodes[2])
	w.queue = nil
	for range electionTicks + 1 {
		w.tick(n)
		w.stabilize()
	}
	if m, ok := zone.Transferee(n.r); ok {
		t.Errorf("%v is dead and the transferee", m)
	}
}
