package zone

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Outcome is the end of a proposal that will not show up in Work.Committed.
type Outcome struct {
	Proposal ProposalID
	Err      error // ErrNotLeader: it never commits. ErrUncertain: it may.
}

// proposals pairs this process's proposals with their entries (invariant I8). Those of one entry are
// kept together: the first one, and how many there are.
//
// A proposal is fresh from the moment raft takes it until its entry shows up in a Ready;
// from then on it is paired with (term, index). It ends when an entry of that index is
// applied: done if the term is the same, else its own entry can never commit.
//
// Losing the leadership does not end it at once: the next leader may have the entry and commit it,
// as after every orderly transfer. But the next leader may also lack the entry and write nothing, so
// that nothing is ever applied at that index; or this replica may be cut off. So a proposal of an
// ended leadership waits for one more election timeout.
type proposals struct {
	fresh  map[ProposalID]fresh
	counts []int     // how many proposals each of the entries has that are being proposed; kept for its memory
	paired []pairing // in the order in which they were appended, which mostly is that of their indexes
	mixed  bool      // it is not: a later leadership has appended where an earlier one had
	over   int       // ticks since some of them are of a leadership that is over
	ended  []Outcome // for the next Ready
}

// fresh is an entry that has not shown up yet.
type fresh struct {
	term  nexusraft.Term
	count int // of its proposals
}

type pairing struct {
	id    ProposalID // of the first one
	term  nexusraft.Term
	index nexusraft.Index
	count int
}

func newProposals() proposals {
	return proposals{fresh: make(map[ProposalID]fresh)}
}

// end appends an outcome for each proposal of an entry.
func end(out []Outcome, first ProposalID, count int, err error) []Outcome {
	for i := range count {
		out = append(out, Outcome{first.plus(i), err})
	}
	return out
}

// observe pairs fresh proposals with the entries that a Ready appends. What is still
// fresh afterwards was overwritten before it was stored; appends with it may have left.
func (p *proposals) observe(entries []*raftpb.Entry) []Outcome {
	if len(p.fresh) == 0 {
		return nil
	}
	for _, e := range entries {
		id, ok := proposalOf(e)
		if f, mine := p.fresh[id]; ok && mine && f.term == nexusraft.Term(e.GetTerm()) {
			index := nexusraft.Index(e.GetIndex())
			p.mixed = p.mixed || len(p.paired) > 0 && p.paired[len(p.paired)-1].index >= index
			p.paired = append(p.paired, pairing{id, f.term, index, f.count})
			delete(p.fresh, id)
		}
	}
	var out []Outcome
	for id, f := range p.fresh {
		out = end(out, id, f.count, nexusraft.ErrUncertain)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Proposal.Sequence < out[j].Proposal.Sequence })
	clear(p.fresh)
	return out
}

// tick ends the proposals whose leadership has been over for so many ticks. led is the term that
// this replica leads in, 0 if it does not lead.
func (p *proposals) tick(led nexusraft.Term, ticks int) {
	over := func(x pairing) bool { return x.term != led }
	if !slices.ContainsFunc(p.paired, over) {
		p.over = 0
		return
	}
	if p.over++; p.over < ticks {
		return
	}
	p.over = 0
	for _, x := range p.paired {
		if over(x) {
			p.ended = end(p.ended, x.id, x.count, nexusraft.ErrUncertain)
		}
	}
	p.paired = slices.DeleteFunc(p.paired, over)
}

// settle ends every pairing up to index, which is applied with an entry of term; done is the first of
// the proposals of that entry.
func (p *proposals) settle(index nexusraft.Index, term nexusraft.Term) (done ProposalID, ok bool, lost []Outcome) {
	for _, x := range p.upTo(index) {
		if x.index == index && x.term == term {
			done, ok = x.id, true
		} else {
			lost = end(lost, x.id, x.count, nexusraft.ErrNotLeader)
		}
	}
	return done, ok, lost
}

// upTo takes out every pairing up to index. What it returns is good until the next entries are observed.
func (p *proposals) upTo(index nexusraft.Index) (taken []pairing) {
	if p.mixed {
		slices.SortStableFunc(p.paired, func(a, b pairing) int { return cmp.Compare(a.index, b.index) })
		p.mixed = false
	}
	n := 0
	for n < len(p.paired) && p.paired[n].index <= index {
		n++
	}
	taken, p.paired = p.paired[:n:n], p.paired[n:]
	return taken
}

// skipTo ends every pairing that a snapshot at index skips: this replica did not see its outcome.
func (p *proposals) skipTo(index nexusraft.Index) (lost []Outcome) {
	for _, x := range p.upTo(index) {
		lost = end(lost, x.id, x.count, nexusraft.ErrUncertain)
	}
	return lost
}

// proposalOf returns the ID of the proposal behind an entry, if there is one; of several, the first one.
func proposalOf(e *raftpb.Entry) (ProposalID, bool) {
	if len(e.GetData()) == 0 {
		return ProposalID{}, false
	}
	if e.GetType() != raftpb.EntryNormal {
		c, err := decodeConfChange(e)
		return c.context.Proposal, err == nil
	}
	if len(e.GetData()) < proposalEnd {
		return ProposalID{}, false
	}
	return decodeProposal(e.GetData()), true
}

// Propose hands commands to raft, all or none, in few entries where they may share them. The caller
// numbers them: Proposal.Sequence must be new in this incarnation. Errors are returned before
// anything is appended: ErrNotLeader, ErrOverloaded, ErrTooLarge.
func Propose(r *Replica, envelopes []Envelope) error {
	if len(envelopes) == 0 {
		return nil // raft panics on an empty proposal
	}
	for i := range envelopes {
		if n := len(envelopes[i].Command); n > MaxCommandBytes {
			return fmt.Errorf("%w: command of %d bytes, limit %d", nexusraft.ErrTooLarge, n, MaxCommandBytes)
		}
	}
	counts := r.divide(envelopes)
	entries, left := make([]*raftpb.Entry, len(counts)), envelopes
	for i, n := range counts {
		entries[i] = &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Data: encodeEntry(left[:n])}
		left = left[n:]
	}
	term, err := r.propose(entries)
	if err != nil {
		return err
	}
	for _, n := range counts {
		r.proposals.fresh[envelopes[0].Proposal] = fresh{term, n}
		envelopes = envelopes[n:]
	}
	return nil
}

// divide returns how many of the envelopes, in their order, each entry is to carry.
func (r *Replica) divide(envelopes []Envelope) []int {
	counts, batches := r.proposals.counts[:0], len(envelopes) > 1 && r.cfg.Batches()
	for n := 1; len(envelopes) > 0; envelopes = envelopes[n:] {
		if batches {
			n = fitting(envelopes)
		}
		counts = append(counts, n)
	}
	r.proposals.counts = counts
	return counts
}

func (r *Replica) propose(entries []*raftpb.Entry) (nexusraft.Term, error) {
	st := r.rn.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return 0, nexusraft.ErrNotLeader
	}
	r.Stir()
	err := r.rn.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(r.cfg.Replica)), Entries: entries})
	switch {
	case errors.Is(err, raft.ErrProposalDropped) && st.LeadTransferee != 0:
		return 0, nexusraft.ErrNotLeader // the transferee will lead in a moment
	case errors.Is(err, raft.ErrProposalDropped):
		return 0, nexusraft.ErrOverloaded
	case err != nil:
		return 0, fmt.Errorf("propose: %w", err)
	}
	return nexusraft.Term(st.GetTerm()), nil
}
