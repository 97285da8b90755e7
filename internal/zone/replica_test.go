package zone

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// toWitness returns the appends and snapshots among msgs that go to replica 3.
func toWitness(msgs []*pb.Message) []*pb.Message {
	return slices.DeleteFunc(slices.Clone(msgs), func(m *pb.Message) bool {
		return m.GetTo() != 3 || m.GetType() != pb.MsgApp && m.GetType() != pb.MsgSnap
	})
}

// TestDeposedLeaderHoldsBack: what a leader in sync wanted to tell the witness when it was
// deposed must not leave: the follower may not have it, and payload it must never see.
func TestDeposedLeaderHoldsBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		depose func(*Replica)
	}{
		{"by a newer leader", func(r *Replica) {
			m := from(2, 1, pb.MsgHeartbeat, func(m *pb.Message) { m.Term = new(uint64(3)) })
			must(r.Step(nodeOf(2), m))
		}},
		{"by a silent quorum", func(r *Replica) {
			for range 2 * r.cfg.ElectionTicks {
				r.Tick()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[1]
			if _, err := w.propose(n, "secret"); err != nil {
				t.Fatal(err)
			}
			tt.depose(n.r)
			work, err := n.r.Ready()
			if err != nil {
				t.Fatal(err)
			}
			if s := n.r.Status(); s.State == nexusraft.Leader {
				t.Fatal("it still leads: the test is void")
			}
			checkEarly(t, w, n.disk.hard, work) // what it told the member waits for the new term's sync
			for _, m := range toWitness(slices.Concat(work.SendNow, work.AfterSync)) {
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
	m := from(2, 1, pb.MsgHeartbeat, func(m *pb.Message) { m.Term = new(uint64(3)) })
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
	n.r.members = n.r.members.With(record(4, nexusraft.RoleLearner))
	for _, tt := range []struct {
		to   nexusraft.ReplicaID
		want string
	}{{3, "a witness never leads"}, {4, "only members lead"}, {8, "has no replica"}} {
		if err := n.r.TransferLeader(tt.to); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("transfer to %d: got error %v, want ErrRefused with %q", tt.to, err, tt.want)
		}
	}
	if err := w.nodes[2].r.TransferLeader(2); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("got error %v from a follower, want ErrNotLeader", err)
	}
	// Nothing refused may keep raft from taking proposals.
	if _, err := w.propose(n, "x"); err != nil {
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
			m := from(uint64(1+i%20/10), 3, pb.MsgTimeoutNow, nil)
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
// say before its write, and never in a round that changes term or vote (I3).
func TestEarlyMessages(t *testing.T) {
	w := newWorld(t, 0)
	w.found([]uint64{1, 2}, []uint64{3})
	for round := range 40 {
		n := w.nodes[uint64(1+round%2)]
		must(n.r.Campaign())
		checkRounds(t, w)
		if id, self := n.r.Leader(); self {
			for i := range 3 {
				if _, err := w.propose(n, fmt.Sprint(round, i)); err != nil {
					t.Fatal(err)
				}
				n.r.Tick()
				checkRounds(t, w)
			}
			must(n.r.TransferLeader(3 - id))
			checkRounds(t, w)
		}
	}
	if s := w.nodes[1].r.Status(); s.Term < 20 {
		t.Errorf("got term %d: too few elections for the test to say anything", s.Term)
	}
}

// checkRounds does all rounds of all replicas until nothing is in flight.
func checkRounds(t *testing.T, w *world) {
	t.Helper()
	for busy := true; busy; {
		busy = false
		for _, n := range w.sorted() {
			for n.r.HasWork() {
				busy = true
				before := n.disk.hard
				work, err := n.r.Ready()
				if err != nil {
					t.Fatal(err)
				}
				checkEarly(t, w, before, work)
				w.send(n, "now", work.SendNow)
				w.finish(n, work)
			}
		}
		msgs := w.queue
		w.queue = nil
		for _, m := range msgs {
			if err := w.nodes[m.GetTo()].r.Step(nodeOf(m.GetFrom()), m); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkEarly(t *testing.T, w *world, before *pb.HardState, work Work) {
	t.Helper()
	steady := work.HardState == nil ||
		work.HardState.GetTerm() == before.GetTerm() && work.HardState.GetVote() == before.GetVote()
	for _, m := range work.SendNow {
		early := m.GetType() == pb.MsgApp || m.GetType() == pb.MsgHeartbeat || m.GetType() == pb.MsgSnap
		if !early || !steady {
			t.Errorf("left before the write, steady %v: %s", steady, w.message(m))
		}
	}
	if (len(work.Append) > 0 || !steady || work.Snapshot != nil) && !work.MustSync {
		t.Errorf("a round that must be synced is not: %s", w.writes(work))
	}
}

// TestCorruptCommand: a committed entry that can't be read stops the zone and is named.
func TestCorruptCommand(t *testing.T) {
	r := ledZone(t).nodes[2].r
	e := entryAt(12, 2)
	e.Data = []byte("no envelope")
	m := from(1, 2, pb.MsgApp, appends(11, 2, e))
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
	l := NewLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})), 7)
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
	good := Config{Replica: 1, Storage: newDisk(&pb.ConfState{Voters: []uint64{1}}, nexusraft.Membership{}), Applied: foundedIndex}
	for _, tt := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"no storage", func(c *Config) { c.Storage = nil }, "Storage is required"},
		{"no replica", func(c *Config) { c.Replica = 0 }, "reserved"},
		{"raft's identity", func(c *Config) { c.Replica = ^nexusraft.ReplicaID(0) }, "reserved"},
		{"elections as often as heartbeats", func(c *Config) { c.ElectionTicks, c.HeartbeatTicks = 3, 3 }, "ElectionTicks"},
		{"a huge election timeout", func(c *Config) { c.ElectionTicks = 1 << 62 }, "ElectionTicks"},
		{"a negative hold time", func(c *Config) { c.HoldTicks = -1 }, "HoldTicks"},
		{"a witness by its flag, a member by its record", func(c *Config) {
			c.Witness = true
			c.Membership = nexusraft.Membership{}.With(nexusraft.Member{Replica: 1, Node: 1, Role: nexusraft.RoleMember})
		}, "is a member by its record"},
		{"a log that has lost its end", func(c *Config) { c.Applied = 99 }, "corrupt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.edit(&c)
			r, err := New(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
			if r != nil {
				t.Error("got a replica with the error")
			}
		})
	}
	if _, err := New(good); err != nil {
		t.Errorf("the configuration that the others are made from: %v", err)
	}
}

// TestCopies counts disks that hold data: the witness's is none.
func TestCopies(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.nodes[2].slowAppend = true
	if _, err := w.propose(n, "x"); err != nil {
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
