package driver

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// VoteCall is a vote request's caller, which waits for the round that answers it to be on the disk.
type VoteCall interface {
	// Answer is called once: by the group's goroutine, or, if there is no room for the request, by that of
	// Inbox.Put.
	Answer(VoteAnswer)
}

// VoteAnswer is what raft has answered to a vote request, or why it has not.
type VoteAnswer struct {
	// Response is the MsgVoteResp or MsgPreVoteResp, to be passed on verbatim; nil: raft has
	// ignored the request.
	Response *raftpb.Message
	Why      string // it has

	// Of this replica; zero if it was stopped.
	Term           nexusraft.Term
	LastTerm       nexusraft.Term
	LastIndex      nexusraft.Index
	LeaseTicksLeft int
}

// voteSlot is a vote request that raft has taken. A newer request of the same candidate and kind
// takes its place, and an answer to the older one, which is of another term, doesn't fill it.
type voteSlot struct {
	from nexusraft.ReplicaID
	pre  bool
	term nexusraft.Term
	call VoteCall
}

// await gives a request that raft has taken its slot: one that was refused takes nobody's place.
func (g *Group) await(m *raftpb.Message, call VoteCall) {
	v := voteSlot{
		from: nexusraft.ReplicaID(m.GetFrom()), pre: m.GetType() == raftpb.MsgPreVote,
		term: nexusraft.Term(m.GetTerm()), call: call,
	}
	if i := g.slot(v.from, v.pre); i >= 0 {
		g.votes[i].call.Answer(g.ignored("a newer request has come"))
		g.votes[i] = v
		return
	}
	g.votes = append(g.votes, v)
}

// slot returns the place of a candidate's request, or -1.
func (g *Group) slot(from nexusraft.ReplicaID, pre bool) int {
	for i := range g.votes {
		if g.votes[i].from == from && g.votes[i].pre == pre {
			return i
		}
	}
	return -1
}

// answeredBy reports whether a response of raft's is to this request. All but the rejection of a
// pre-vote, which has the voter's own term, are of the request's term.
func (v *voteSlot) answeredBy(m *raftpb.Message) bool {
	rejectedPre := m.GetType() == raftpb.MsgPreVoteResp && m.GetReject()
	return rejectedPre || nexusraft.Term(m.GetTerm()) == v.term
}

// answerVote gives a vote response to the call that waits for it, if one does.
func (g *Group) answerVote(m *raftpb.Message) {
	i := g.slot(nexusraft.ReplicaID(m.GetTo()), m.GetType() == raftpb.MsgPreVoteResp)
	if i < 0 || !g.votes[i].answeredBy(m) {
		return // its caller has been answered: a newer request took its place
	}
	a := g.ignored("") // before the call leaves its slot: should raft panic, Stop answers it
	a.Response = m
	call, last := g.votes[i].call, len(g.votes)-1
	g.votes[i], g.votes[last] = g.votes[last], voteSlot{}
	g.votes = g.votes[:last]
	call.Answer(a)
}

// ignored is the answer to a request that raft leaves unanswered.
func (g *Group) ignored(why string) VoteAnswer {
	st := g.replica.Status()
	a := VoteAnswer{
		Why: why, Term: st.Term, LastIndex: st.LastIndex, LeaseTicksLeft: g.replica.LeaseTicksLeft(),
	}
	if term, err := g.log.Term(uint64(st.LastIndex)); err == nil {
		a.LastTerm = nexusraft.Term(term)
	}
	return a
}

// ignoreVotes answers the requests that raft has left unanswered in the round after it has taken
// them: it answers at once or never.
func (g *Group) ignoreVotes() {
	for len(g.votes) > 0 { // one after the other, so that Stop finds those that are left
		v := g.votes[0]
		answer := g.ignored(g.whyIgnored(v.term))
		g.votes = slices.Delete(g.votes, 0, 1)
		v.call.Answer(answer)
	}
}

// whyIgnored says what made raft silent, as far as its state tells.
func (g *Group) whyIgnored(term nexusraft.Term) string {
	leader, _ := g.replica.Leader()
	switch now := g.replica.Term(); {
	case term < now:
		return fmt.Sprintf("term %d is over, this replica is at %d", term, now)
	case leader != 0:
		return fmt.Sprintf("leader %v has been heard of within an election timeout", leader)
	case g.replica.LeaseTicksLeft() > 0:
		return "a leader may have been heard of within an election timeout"
	default:
		return "raft did not answer"
	}
}
