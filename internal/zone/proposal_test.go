package zone

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func proposal(sequence uint64) ProposalID { return ProposalID{1, 1, sequence} }

func carrying(index, term uint64, id ProposalID) *pb.Entry {
	e := entryAt(index, term)
	e.Data = Envelope{Proposal: id}.Encode()
	return e
}

func TestProposalsPairing(t *testing.T) {
	p := newProposals()
	p.fresh[proposal(1)], p.fresh[proposal(2)], p.fresh[proposal(3)] = 2, 2, 2
	other := ProposalID{2, 1, 2} // of another process, the same sequence
	lost := p.observe([]*pb.Entry{carrying(11, 2, proposal(1)), carrying(12, 2, other), carrying(13, 2, proposal(2))})
	want := []Outcome{{proposal(3), nexusraft.ErrUncertain}} // overwritten before it was stored; appends may have left
	if diff := cmp.Diff(want, lost, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes of what did not show up (-want +got):\n%s", diff)
	}

	if done, ok, lost := p.settle(11, 2); !ok || done != proposal(1) || len(lost) != 0 {
		t.Errorf("got %v %v %v, want the end of proposal 1", done, ok, lost)
	}
	if done, ok, lost := p.settle(12, 2); ok || len(lost) != 0 {
		t.Errorf("got %v %v %v, want nothing: it belongs to another process", done, ok, lost)
	}
	done, ok, lost := p.settle(13, 3) // another leader's entry at that index
	if ok {
		t.Errorf("got %v done by another term's entry", done)
	}
	if diff := cmp.Diff([]Outcome{{proposal(2), nexusraft.ErrNotLeader}}, lost, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes of an overwritten proposal (-want +got):\n%s", diff)
	}
	if len(p.paired) != 0 || len(p.fresh) != 0 {
		t.Errorf("got %d paired and %d fresh left, want none", len(p.paired), len(p.fresh))
	}
}

// TestProposalOfAnEarlierTerm: an entry with a proposal's ID and another term is not its
// entry (a predecessor with the same identity can't be, but a forged one could).
func TestProposalOfAnEarlierTerm(t *testing.T) {
	p := newProposals()
	p.fresh[proposal(1)] = 3
	lost := p.observe([]*pb.Entry{carrying(11, 2, proposal(1))})
	if len(p.paired) != 0 || len(lost) != 1 {
		t.Errorf("got %v paired and outcomes %v, want nothing paired and one outcome", p.paired, lost)
	}
}

func TestProposalsUnderASnapshot(t *testing.T) {
	p := newProposals()
	for i := range uint64(3) {
		p.fresh[proposal(i)] = 2
	}
	p.observe([]*pb.Entry{carrying(11, 2, proposal(0)), carrying(12, 2, proposal(1)), carrying(13, 2, proposal(2))})
	want := []Outcome{{proposal(0), nexusraft.ErrUncertain}, {proposal(1), nexusraft.ErrUncertain}}
	if diff := cmp.Diff(want, p.skipTo(12), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if done, ok, _ := p.settle(13, 2); !ok || done != proposal(2) {
		t.Errorf("got %v %v, want the end of the proposal behind the snapshot", done, ok)
	}
}

func TestProposeErrors(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	if _, err := w.propose(w.nodes[2], "x"); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("on a follower: got error %v, want ErrNotLeader", err)
	}
	if _, err := w.propose(n, "x", strings.Repeat("x", MaxCommandBytes+1)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("too large: got error %v, want ErrTooLarge", err)
	}
	if err := n.r.Propose(nil); err != nil {
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
	command := strings.Repeat("x", 300)
	for i := range 2 {
		if _, err := w.propose(n, command); err != nil {
			t.Fatalf("proposal %d: %v", i, err)
		}
	}
	if _, err := w.propose(n, "small", command, command); !errors.Is(err, nexusraft.ErrOverloaded) {
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
	if _, err := w.propose(n, command); err != nil {
		t.Errorf("after the others have committed: %v", err)
	}
	w.run(n)
	if out := w.told(); strings.Contains(out, "tells proposal") {
		t.Errorf("a refused proposal was told an end:\n%s", out)
	}
}

// TestProposeDuringTransfer: the old leader takes nothing any more, and says who to ask.
func TestProposeDuringTransfer(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.cut[[2]uint64{1, 2}] = true
	must(n.r.TransferLeader(2))
	w.run(n)
	if _, err := w.propose(n, "x"); !errors.Is(err, nexusraft.ErrNotLeader) {
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
			ids, err := w.propose(n, "never")
			must(err)
			w.run(n)
			replaceLeader(t, w, tt.compact)
			outcomes := w.told()
			want := "1 tells proposal 1: " + tt.want.Error()
			if got := strings.Count(outcomes, want); got != 1 {
				t.Errorf("got %d times %q for proposal %v in:\n%s", got, want, ids[0], outcomes)
			}
			if strings.Contains(outcomes, "the end of proposal 1 on") && strings.Contains(outcomes, `1 applies 12/2 "never"`) {
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
	_, err := w.propose(two, "a", "b")
	must(err)
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
	ids, err := w.propose(n, "x")
	must(err)
	m := from(2, 1, pb.MsgApp, appends(11, 2, entryAt(12, 3), entryAt(13, 3)))
	m.Term = new(uint64(3))
	must(n.r.Step(nodeOf(2), m))
	work, err := n.r.Ready()
	must(err)
	want := []Outcome{{ids[0], nexusraft.ErrUncertain}}
	if diff := cmp.Diff(want, work.Outcomes, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// TestStepDownEndsNothing: a proposal of a leader that stepped down may still commit, and
// is then told to its proposer.
func TestStepDownEndsNothing(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	_, err := w.propose(n, "x")
	must(err)
	w.run(n)
	w.deliver(func(m *pb.Message) bool { return m.GetTo() == 2 && m.GetType() == pb.MsgApp })
	w.drop(func(m *pb.Message) bool { return true })
	w.told()
	m := from(2, 1, pb.MsgVote, func(m *pb.Message) { // as of a transfer: it overrides the lease
		m.Term, m.Index, m.LogTerm, m.Context = new(uint64(3)), new(uint64(12)), new(uint64(2)), []byte("CampaignTransfer")
	})
	must(n.r.Step(nodeOf(2), m))
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
	if out := w.told(); !strings.Contains(out, `1 applies 12/2 "x", the end of proposal 1`) {
		t.Errorf("the proposal was not told:\n%s", out)
	}
}
