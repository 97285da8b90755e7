package witness

import (
	"context"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// voteKey names the slot of a candidate; a newer request takes an older one's place.
type voteKey struct {
	from nexusraft.ReplicaID
	pre  bool
}

// voteSlot is a vote request that waits for the round that answers it to be on the disk.
type voteSlot struct {
	vote transport.Vote
	done chan transport.VoteResult // has room for the one answer
}

// answer is what all results say: who, and this replica's log and lease.
func (v *voteSlot) answer(h *hosted) transport.VoteResult {
	r := transport.VoteResult{Zone: v.vote.Zone, Pre: v.vote.Pre, From: v.vote.To, To: v.vote.From}
	if h != nil {
		record := h.log.record
		r.Term, r.LastTerm, r.LastIndex = record.Term, record.lastTerm(), record.Last
		r.LeaseTicksLeft = h.replica.LeaseTicksLeft()
	}
	return r
}

// ignore answers that raft has not. h is nil if there is no such zone.
func (v *voteSlot) ignore(h *hosted, why string) {
	r := v.answer(h)
	r.Outcome, r.Why = transport.VoteIgnored, why
	v.done <- r
}

// fillVote gives raft's answer to the call that waits for it. Term and reject travel
// verbatim.
func (h *hosted) fillVote(m *pb.Message) {
	key := voteKey{nexusraft.ReplicaID(m.GetTo()), m.GetType() == pb.MsgPreVoteResp}
	v := h.votes[key]
	if v == nil {
		return // its caller has been answered: a newer request took its place
	}
	delete(h.votes, key)
	r := v.answer(h)
	r.Term, r.Outcome = nexusraft.Term(m.GetTerm()), transport.VoteGranted
	if m.GetReject() {
		r.Outcome = transport.VoteRejected
	}
	v.done <- r
}

// endVotes answers the requests that raft has left unanswered.
func (h *hosted) endVotes() {
	for key, v := range h.votes {
		delete(h.votes, key)
		v.ignore(h, h.whyIgnored(v.vote))
	}
}

// whyIgnored says what made raft silent, as far as the replica's state tells.
func (h *hosted) whyIgnored(v transport.Vote) string {
	st := h.replica.Status()
	switch {
	case v.Term < st.Term:
		return fmt.Sprintf("term %d is over, this replica is at %d", v.Term, st.Term)
	case st.Leader != 0:
		return fmt.Sprintf("leader %v has been heard of within an election timeout", st.Leader)
	default:
		return "raft did not answer"
	}
}

// RequestVote implements transport.PeerHandler. A request that finds no room, or whose
// answer can't be stored, gets an error or no answer: never a vote.
func (h handler) RequestVote(ctx context.Context, from nexusraft.NodeID, votes []transport.Vote) ([]transport.VoteResult, error) {
	in := make([]inbound, len(votes))
	for i, v := range votes {
		slot := &voteSlot{vote: v, done: make(chan transport.VoteResult, 1)}
		in[i] = inbound{zone: v.Zone, from: from, message: voteMessage(v), size: len(v.Context), vote: slot}
	}
	taken := h.w.inbox.put(in)
	results := make([]transport.VoteResult, 0, taken)
	for _, m := range in[:taken] {
		select {
		case r := <-m.vote.done:
			results = append(results, r)
		case <-ctx.Done():
			return results, nil // what is missing counts as ignored
		case <-h.w.stopped:
			return nil, nexusraft.ErrClosed
		}
	}
	return results, nil
}

func voteMessage(v transport.Vote) *pb.Message {
	typ := pb.MsgVote
	if v.Pre {
		typ = pb.MsgPreVote
	}
	return &pb.Message{
		Type: typ.Enum(), From: new(uint64(v.From)), To: new(uint64(v.To)), Term: new(uint64(v.Term)),
		Index: new(uint64(v.LastIndex)), LogTerm: new(uint64(v.LastTerm)), Context: v.Context,
	}
}
