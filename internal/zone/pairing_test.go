package zone

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func proposal(sequence uint64) ProposalID { return ProposalID{1, 1, sequence} }

func carrying(index, term uint64, id ProposalID) *raftpb.Entry {
	return &raftpb.Entry{
		Type: raftpb.EntryNormal.Enum(), Index: new(index), Term: new(term), Data: Envelope{Proposal: id}.Encode(),
	}
}

func TestProposalsPairing(t *testing.T) {
	p := newProposals()
	p.fresh[proposal(1)], p.fresh[proposal(2)], p.fresh[proposal(3)] = fresh{2, 1}, fresh{2, 1}, fresh{2, 1}
	other := ProposalID{2, 1, 2} // of another process, the same sequence
	lost := p.observe([]*raftpb.Entry{carrying(11, 2, proposal(1)), carrying(12, 2, other), carrying(13, 2, proposal(2))})
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

// TestProposalsOverEarlierOnes: a replica that leads again may append where it appended when it led before. Each
// proposal ends by its own entry, in whichever order the two were appended.
func TestProposalsOverEarlierOnes(t *testing.T) {
	p := newProposals()
	for _, x := range []struct{ sequence, index, term uint64 }{{1, 20, 2}, {2, 15, 4}, {3, 16, 4}, {4, 20, 4}} {
		p.fresh[proposal(x.sequence)] = fresh{nexusraft.Term(x.term), 1}
		p.observe([]*raftpb.Entry{carrying(x.index, x.term, proposal(x.sequence))})
	}
	p.tick(4, 6)
	if lost := p.skipTo(14); len(lost) != 0 {
		t.Errorf("a snapshot before all of them ends %v", lost)
	}
	for _, want := range []struct {
		index, sequence uint64
		lost            []Outcome
	}{{15, 2, nil}, {16, 3, nil}, {20, 4, []Outcome{{proposal(1), nexusraft.ErrNotLeader}}}} {
		done, ok, lost := p.settle(nexusraft.Index(want.index), 4)
		if diff := cmp.Diff(want.lost, lost, cmpopts.EquateErrors()); !ok || done != proposal(want.sequence) || diff != "" {
			t.Errorf("entry %d: got %v %v, want the end of proposal %d; others (-want +got):\n%s", want.index, done, ok,
				want.sequence, diff)
		}
	}
}

// TestProposalOfAnEarlierTerm: an entry with a proposal's ID and another term is not its
// entry (a predecessor with the same identity can't be, but a forged one could).
func TestProposalOfAnEarlierTerm(t *testing.T) {
	p := newProposals()
	p.fresh[proposal(1)] = fresh{3, 1}
	lost := p.observe([]*raftpb.Entry{carrying(11, 2, proposal(1))})
	if len(p.paired) != 0 || len(lost) != 1 {
		t.Errorf("got %v paired and outcomes %v, want nothing paired and one outcome", p.paired, lost)
	}
}

func TestProposalsUnderASnapshot(t *testing.T) {
	p := newProposals()
	for i := range uint64(3) {
		p.fresh[proposal(i)] = fresh{2, 1}
	}
	p.observe([]*raftpb.Entry{carrying(11, 2, proposal(0)), carrying(12, 2, proposal(1)), carrying(13, 2, proposal(2))})
	want := []Outcome{{proposal(0), nexusraft.ErrUncertain}, {proposal(1), nexusraft.ErrUncertain}}
	if diff := cmp.Diff(want, p.skipTo(12), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if done, ok, _ := p.settle(13, 2); !ok || done != proposal(2) {
		t.Errorf("got %v %v, want the end of the proposal behind the snapshot", done, ok)
	}
}

// TestProposalsOfAnEndedLeadership wait for so many ticks, in which their entries may still be
// committed by another leader; those of the present leadership wait for as long as it lasts.
func TestProposalsOfAnEndedLeadership(t *testing.T) {
	const ticks = 6
	p := newProposals()
	p.paired = []pairing{
		{ProposalID{Sequence: 1}, 2, 11, 1},
		{ProposalID{Sequence: 2}, 2, 12, 1},
		{ProposalID{Sequence: 3}, 5, 13, 1},
	}
	for range 3 * ticks {
		p.tick(2, 100*ticks)
	}
	if p.tick(5, 1); len(p.ended) != 2 {
		t.Fatalf("got %v ended, want those of term 2 alone", p.ended)
	}
	p.ended, p.over = nil, 0
	p.paired = append(p.paired, pairing{ProposalID{Sequence: 4}, 4, 14, 1})
	for range ticks - 1 {
		p.tick(0, ticks)
	}
	if len(p.ended) != 0 {
		t.Fatalf("got %v ended before the time is over", p.ended)
	}
	if id, ok, _ := p.settle(13, 5); !ok || id.Sequence != 3 {
		t.Errorf("an entry that was committed meanwhile is the end of proposal %d, %v; want 3", id.Sequence, ok)
	}
	p.tick(0, ticks)
	if want := []Outcome{{ProposalID{Sequence: 4}, nexusraft.ErrUncertain}}; !slices.Equal(p.ended, want) {
		t.Errorf("got %v, want %v", p.ended, want)
	}
	if len(p.paired) != 0 {
		t.Errorf("%v still wait", p.paired)
	}
}

// TestProposalsOfOneEntry end together: each by the entry, or each as lost.
func TestProposalsOfOneEntry(t *testing.T) {
	three := func(err error) []Outcome {
		return []Outcome{{proposal(5), err}, {proposal(6), err}, {proposal(7), err}}
	}
	entry := func(index uint64) []*raftpb.Entry {
		e := carrying(index, 2, proposal(5))
		e.Data = encodeEntry([]Envelope{{Proposal: proposal(5)}, {Proposal: proposal(6)}, {Proposal: proposal(7)}})
		return []*raftpb.Entry{e}
	}
	same := func(what string, want, got []Outcome) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	begin := func() *proposals {
		p := newProposals()
		p.fresh[proposal(5)] = fresh{2, 3}
		return &p
	}

	same("never seen", three(nexusraft.ErrUncertain), begin().observe(nil))
	p := begin()
	same("seen", nil, p.observe(entry(11)))
	done, ok, lost := p.settle(11, 2)
	if same("applied", nil, lost); !ok || done != proposal(5) {
		t.Errorf("got %v %v, want the end of proposal 5 and those after it", done, ok)
	}
	p = begin()
	p.observe(entry(11))
	_, ok, lost = p.settle(11, 3)
	if same("overwritten", three(nexusraft.ErrNotLeader), lost); ok {
		t.Error("another term's entry is the end of a proposal")
	}
	p = begin()
	p.observe(entry(11))
	same("under a snapshot", three(nexusraft.ErrUncertain), p.skipTo(11))
	p = begin()
	p.observe(entry(11))
	p.tick(0, 1)
	same("of a leadership that is over", three(nexusraft.ErrUncertain), p.ended)
}
