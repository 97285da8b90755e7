package driver

import (
	"errors"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Call is what waits for the end of a proposal.
type Call interface {
	// Answer is called once, by the group's goroutine. The data is the call's.
	Answer(nexusraft.Result, error)

	// Left reports whether nobody waits for the answer's data any more. It may be asked at any
	// time before Answer.
	Left() bool
}

// pending are the calls that wait, in the order of their sequences, which have no gaps: so a call
// is found by counting, and neither a map nor an allocation is needed for each command.
type pending struct {
	last  uint64 // sequence of the last proposal: of the last one in calls, if there is one
	calls []Call // nil: it has ended; the first one is not
	begin int    // where calls begins in its array: what is before it is free
}

// add takes a call in and returns its sequence, which no other proposal of this process has. call
// may be nil: nobody waits.
func (p *pending) add(call Call) (sequence uint64) {
	p.last++
	if call == nil && p.empty() {
		return p.last
	}
	p.calls = append(p.calls, call)
	return p.last
}

func (p *pending) empty() bool { return len(p.calls) == p.begin }

// at returns the place of a sequence, or -1.
func (p *pending) at(sequence uint64) int {
	back := p.last - sequence // wraps around for one that is still to come
	if sequence == 0 || back >= uint64(len(p.calls)-p.begin) {
		return -1
	}
	return len(p.calls) - 1 - int(back)
}

// take returns the call of a sequence, which waits no more; nil if there is none.
func (p *pending) take(sequence uint64) Call {
	i := p.at(sequence)
	if i < 0 {
		return nil
	}
	call := p.calls[i]
	p.calls[i] = nil
	for p.begin < len(p.calls) && p.calls[p.begin] == nil {
		p.begin++
	}
	if p.begin == len(p.calls) {
		p.calls, p.begin = p.calls[:0], 0
	} else if p.begin > len(p.calls)/2 { // each move is paid for by as many calls that have ended
		n := copy(p.calls, p.calls[p.begin:])
		clear(p.calls[n:])
		p.calls, p.begin = p.calls[:n], 0
	}
	return call
}

// wanted reports whether somebody waits for the data of an answer.
func (p *pending) wanted(sequence uint64) bool {
	i := p.at(sequence)
	return i >= 0 && p.calls[i] != nil && !p.calls[i].Left()
}

func (p *pending) all() iter.Seq[Call] {
	return func(yield func(Call) bool) {
		for _, call := range p.calls[p.begin:] {
			if call != nil && !yield(call) {
				return
			}
		}
	}
}

func (p *pending) valid() error {
	switch n := len(p.calls) - p.begin; {
	case n < 0 || uint64(n) > p.last:
		return fmt.Errorf("%d calls wait, and there were %d proposals", n, p.last)
	case n > 0 && p.calls[p.begin] == nil:
		return errors.New("the first of the waiting calls has ended")
	}
	return nil
}

// Propose hands commands to raft, all or none, and numbers them: it sets the Proposal of each
// envelope. calls[i] waits for the end of the i-th, and hears an error before anything is appended,
// too; see zone.Propose. Both lists are borrowed until Propose returns.
func Propose(g *Group, envelopes []zone.Envelope, calls []Call) {
	for i, call := range calls { // before raft has them, which may panic
		envelopes[i].Proposal = g.nextProposal(call)
	}
	err := zone.Propose(g.replica, envelopes)
	if err == nil {
		return
	}
	for _, e := range envelopes {
		if call := g.proposals.take(e.Proposal.Sequence); call != nil {
			call.Answer(nexusraft.Result{}, g.owner.Refusal(err))
		}
	}
}

// ProposeConfChange is Propose for one conf change. call may be nil: nobody waits. The error is the
// one that call hears.
func ProposeConfChange(g *Group, c zone.ConfChange, call Call) error {
	id := g.nextProposal(call)
	err := zone.ProposeConfChange(g.replica, id, c)
	if err == nil {
		return nil
	}
	err = g.owner.Refusal(err)
	if g.proposals.take(id.Sequence) != nil {
		call.Answer(nexusraft.Result{}, err)
	}
	return err
}

func (g *Group) nextProposal(call Call) zone.ProposalID {
	return zone.ProposalID{Replica: g.self, Incarnation: g.incarnation, Sequence: g.proposals.add(call)}
}
