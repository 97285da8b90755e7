package worker

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/leading"
)

// lead calls Lead if it is due: this node leads, in a term for which that has not returned, and no
// earlier call goes on. Only the worker calls it, between two rounds or at the end of one.
func (g *group) lead() {
	if g.leads == nil || g.led != nil || !g.replica.TermApplied() || g.replica.Term() == g.ledTerm {
		return
	}
	g.machine.Heard = true
	g.led = g.w.o.Leads.Start(g.leads, g.id, g.replica.Term(), func(l *leading.Lead, panicked any) {
		g.w.inbox.Post(func() { g.leadReturned(l, panicked) })
	})
}

// leadReturned is the worker's.
func (g *group) leadReturned(l *leading.Lead, panicked any) {
	if l.End(fmt.Errorf("%w: Lead has returned", nexusraft.ErrClosed)) {
		g.ledTerm = l.Term() // by itself
	}
	g.led, g.machine.Heard = nil, false
	if g.w.zones[g.id] != g {
		return // stopped or deleted
	}
	if panicked != nil {
		g.w.fail(g, fmt.Errorf("%w: its Lead panicked: %v", errMachine, panicked))
		return
	}
	g.lead()
}

// endLead ends the call of Lead, if there is one.
func (g *group) endLead(why error) {
	if g.led != nil {
		g.led.End(why)
		g.machine.Heard = false
	}
}

// noLongerLeads ends the call of Lead if its term is over.
func (g *group) noLongerLeads(self bool) {
	if g.led != nil && (!self || g.replica.Term() != g.led.Term()) {
		g.endLead(g.hint())
	}
}

// hear keeps the notes of a command until they are written.
func (g *group) hear(index nexusraft.Index, notes []any) {
	if len(g.unwritten.notes) > leading.MaxNotes/2 {
		return // the call of Lead is told that it has missed some
	}
	for _, v := range notes {
		g.unwritten.notes = append(g.unwritten.notes, nexusraft.Note{Index: index, Value: v})
	}
}

// tellNotes gives the notes of what is written to the call of Lead.
func (g *group) tellNotes() {
	if notes := g.unwritten.notes; len(notes) > 0 && g.led != nil && !g.led.Put(notes) {
		g.endLead(fmt.Errorf("%w: Lead has not taken its notes in time", nexusraft.ErrOverloaded))
	}
}
