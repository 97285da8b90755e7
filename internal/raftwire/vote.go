package raftwire

import (
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Waiter is a vote request that came in as a unary call. It waits until the round that steps it is
// on the disk; where raft says nothing the answer says why.
type Waiter struct {
	vote transport.Vote
	done chan transport.VoteResult // has room for the one answer
}

// NewWaiter returns the waiter of a request.
func NewWaiter(v transport.Vote) *Waiter {
	return &Waiter{vote: v, done: make(chan transport.VoteResult, 1)}
}

// Done returns the channel that the answer comes by, once.
func (v *Waiter) Done() <-chan transport.VoteResult { return v.done }

// Answer implements driver.VoteCall: the first answer counts, and it never blocks. All results say how this
// replica's log and lease are; of an answer of raft's, term and reject travel verbatim.
func (v *Waiter) Answer(a driver.VoteAnswer) {
	r := transport.VoteResult{
		Zone: v.vote.Zone, Pre: v.vote.Pre, From: v.vote.To, To: v.vote.From,
		Term: a.Term, LastTerm: a.LastTerm, LastIndex: a.LastIndex, LeaseTicksLeft: a.LeaseTicksLeft,
	}
	switch m := a.Response; {
	case m == nil:
		r.Outcome, r.Why = transport.VoteIgnored, a.Why
	case m.GetReject():
		r.Outcome, r.Term = transport.VoteRejected, nexusraft.Term(m.GetTerm())
	default:
		r.Outcome, r.Term = transport.VoteGranted, nexusraft.Term(m.GetTerm())
	}
	select {
	case v.done <- r:
	default:
	}
}

// Message returns the request as raft takes it. The context is shared.
func (v *Waiter) Message() *raftpb.Message {
	typ := raftpb.MsgVote
	if v.vote.Pre {
		typ = raftpb.MsgPreVote
	}
	return &raftpb.Message{
		Type: typ.Enum(), From: new(uint64(v.vote.From)), To: new(uint64(v.vote.To)), Term: new(uint64(v.vote.Term)),
		Index: new(uint64(v.vote.LastIndex)), LogTerm: new(uint64(v.vote.LastTerm)), Context: v.vote.Context,
	}
}

// voteOf returns a request of raft's as it leaves. The context is shared.
func voteOf(r driver.VoteRequest) transport.Vote {
	m := r.Message
	return transport.Vote{
		Zone: r.Zone, Pre: m.GetType() == raftpb.MsgPreVote,
		From: nexusraft.ReplicaID(m.GetFrom()), To: nexusraft.ReplicaID(m.GetTo()),
		Term: nexusraft.Term(m.GetTerm()), LastIndex: nexusraft.Index(m.GetIndex()),
		LastTerm: nexusraft.Term(m.GetLogTerm()), Context: m.GetContext(),
	}
}

// responseOf returns an answer of raft's as the candidate's raft takes it.
func responseOf(r transport.VoteResult) *raftpb.Message {
	typ := raftpb.MsgVoteResp
	if r.Pre {
		typ = raftpb.MsgPreVoteResp
	}
	return &raftpb.Message{
		Type: typ.Enum(), From: new(uint64(r.From)), To: new(uint64(r.To)), Term: new(uint64(r.Term)),
		Reject: new(r.Outcome == transport.VoteRejected),
	}
}
