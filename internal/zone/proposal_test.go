package zone_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

func TestProposeErrors(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	if err := w.propose(w.nodes[2], "x"); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("on a follower: got error %v, want ErrNotLeader", err)
	}
	if err := w.propose(n, "x", strings.Repeat("x", zone.MaxCommandBytes+1)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("too large: got error %v, want ErrTooLarge", err)
	}
	if err := w.propose(n); err != nil {
		t.Errorf("no commands at all: got error %v", err)
	}
	if n.r.HasWork() {
		t.Error("refused proposals left work")
	}
}

// TestOverload: beyond the limit of uncommitted bytes a batch is refused whole.
func TestOverload(t *testing.T) {
	w := newWorld(t, 0)
	w.uncommitted = 1 << 10
	w.found([]uint64{1, 2}, []uint64{3})
	elect(t, w, 1)
	n := w.nodes[1]
	w.cut[[2]uint64{1, 2}], w.cut[[2]uint64{1, 3}] = true, true
	command, refused := strings.Repeat("x", 300), nexusraft.ErrOverloaded.Error()
	for i := range 2 {
		if err := w.propose(n, command); err != nil {
			t.Fatalf("proposal %d: %v", i, err)
		}
	}
	if err := w.propose(n, "small", command, command); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("got error %v, want ErrOverloaded", err)
	}
	w.run(n)
	if got := n.r.Status().LastIndex; got != 13 {
		t.Errorf("got last index %d, want 13: what is refused is not appended", got)
	}
	clear(w.cut)
	for range 3 {
		w.tick(n)
		w.stabilize()
	}
	if err := w.propose(n, command); err != nil {
		t.Errorf("after the others have committed: %v", err)
	}
	w.run(n)
	out := w.told()
	for sequence, want := range map[int]string{1: "applied", 2: "applied", 3: refused, 4: refused, 5: refused} {
		if want := fmt.Sprintf("tells proposal %d: %s", sequence, want); !strings.Contains(out, want) {
			t.Errorf("got no %q in:\n%s", want, out)
		}
	}
}

// TestProposeDuringTransfer: the old leader takes no more proposals, and names the new one.
func TestProposeDuringTransfer(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.cut[[2]uint64{1, 2}] = true
	must(zone.TransferLeader(n.r, 2))
	w.run(n)
	if err := w.propose(n, "x"); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("got error %v, want ErrNotLeader", err)
	}
}

// TestOverwrittenProposals: a leader cut off from the others takes proposals that never
// commit; it learns their end from the entries in their place, or not at all.
func TestOverwrittenProposals(t *testing.T) {
	for _, tt := range []struct {
		name    string
		compact bool
		want    error
	}{
		{"by entries", false, nexusraft.ErrNotLeader},
		{"by a snapshot", true, nexusraft.ErrUncertain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[1]
			for _, id := range []uint64{2, 3} {
				w.cut[[2]uint64{1, id}], w.cut[[2]uint64{id, 1}] = true, true
			}
			must(w.propose(n, "never"))
			w.run(n)
			replaceLeader(t, w, tt.compact)
			outcomes := w.told()
			want := "1 tells proposal 1: " + tt.want.Error()
			if got := strings.Count(outcomes, want); got != 1 {
				t.Errorf("got %d times %q in:\n%s", got, want, outcomes)
			}
			if strings.Contains(outcomes, `1 applies 12/2 "never"`) {
				t.Error("the overwritten proposal was also applied")
			}
		})
	}
}

// replaceLeader makes 2 the leader in the place of 1, and brings 1 back under it.
func replaceLeader(t *testing.T, w *world, compact bool) {
	t.Helper()
	for range 2 * 6 {
		w.tick(w.nodes[1]) // nobody answers: it steps down
		w.tick(w.nodes[3]) // forgets its leader
	}
	for range 20 {
		w.tick(w.nodes[2])
		w.stabilize()
	}
	two := w.nodes[2]
	if two.r.Status().State != nexusraft.Leader {
		t.Fatal("nobody was elected")
	}
	must(w.propose(two, "a", "b"))
	w.run(two)
	w.stabilize()
	for range 10 {
		w.tick(two)
		w.stabilize()
	}
	if compact {
		must(two.disk.Compact(uint64(two.disk.applied)))
	}
	clear(w.cut)
	for range 5 {
		w.tick(two)
		w.stabilize()
	}
	if got, want := w.nodes[1].r.Status().Commit, two.r.Status().Commit; got != want {
		t.Fatalf("the old leader is at commit %d, the new one at %d", got, want)
	}
	one, err := w.nodes[1].disk.Term(12)
	if !compact && (err != nil || one == 2) {
		t.Fatalf("entry 12 of the old leader is still of term %d (%v)", one, err)
	}
}

// TestUncertainBeforeStored: proposed and deposed in one batch: the entry was never
// stored here, but others may have it.
func TestUncertainBeforeStored(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	must(w.propose(n, "x"))
	m := from(2, 1, raftpb.MsgApp, appends(11, 2, entryAt(12, 3), entryAt(13, 3)))
	m.Term = new(uint64(3))
	must(w.step(n, m))
	w.told()
	w.turn(n)
	if out := w.told(); !strings.Contains(out, "1 tells proposal 1: "+nexusraft.ErrUncertain.Error()) {
		t.Errorf("the proposal was not told in the next round:\n%s", out)
	}
}

// TestStepDownEndsNothing: a proposal of a leader that stepped down may still commit, and
// is then told to its proposer.
func TestStepDownEndsNothing(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	must(w.propose(n, "x"))
	w.run(n)
	w.deliver(func(m *raftpb.Message) bool { return m.GetTo() == 2 && m.GetType() == raftpb.MsgApp })
	w.drop(func(m *raftpb.Message) bool { return true })
	w.told()
	m := from(2, 1, raftpb.MsgVote, func(m *raftpb.Message) { // as of a transfer: it overrides the lease
		m.Term, m.Index, m.LogTerm, m.Context = new(uint64(3)), new(uint64(12)), new(uint64(2)), []byte("CampaignTransfer")
	})
	must(w.step(n, m))
	w.run(n)
	if out := w.told(); strings.Contains(out, "tells proposal") || n.r.Status().State == nexusraft.Leader {
		t.Fatalf("stepping down told:\n%s", out)
	}
	w.queue = nil
	for range 20 {
		if w.nodes[2].r.Status().State == nexusraft.Leader {
			break
		}
		w.tick(w.nodes[2])
		w.tick(w.nodes[3])
		w.stabilize()
	}
	for range 3 {
		w.tick(w.nodes[2])
		w.stabilize()
	}
	if out := w.told(); !strings.Contains(out, "1 tells proposal 1: applied at 12") {
		t.Errorf("the proposal was not told:\n%s", out)
	}
}
