package node

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Votes travel as unary calls. On the way in, a request waits in a slot until the round
// that stepped it is synced; raft's answer fills the slot, and where raft says nothing the
// slot says why.

// voteKey names the slot of a candidate; a newer request takes an older one's place.
type voteKey struct {
	from nexusraft.ReplicaID
	pre  bool
}

type voteSlot struct {
	vote transport.Vote
	done chan transport.VoteResult // has room for the one answer
}

func (v *voteSlot) result() transport.VoteResult {
	return transport.VoteResult{Zone: v.vote.Zone, Pre: v.vote.Pre, From: v.vote.To, To: v.vote.From}
}

// fill answers with what raft said.
func (v *voteSlot) fill(m *raftpb.Message) {
	r := v.result()
	r.Term, r.Outcome = nexusraft.Term(m.GetTerm()), transport.VoteGranted
	if m.GetReject() {
		r.Outcome = transport.VoteRejected
	}
	v.done <- r
}

// ignore answers that raft has not. h is nil if there is no such zone.
func (v *voteSlot) ignore(h *hosted, why string) {
	r := v.result()
	r.Outcome, r.Why = transport.VoteIgnored, why
	if h != nil {
		st := h.replica.Status()
		r.Term, r.LastIndex = st.Term, st.LastIndex
		if term, err := h.log.Term(uint64(st.LastIndex)); err == nil {
			r.LastTerm = nexusraft.Term(term)
		}
		if why == "" {
			r.Why = whyIgnored(v.vote, st)
		}
	}
	v.done <- r
}

// whyIgnored says what made raft silent, as far as its state tells.
func whyIgnored(v transport.Vote, st nexusraft.ZoneStatus) string {
	switch {
	case v.Term < st.Term:
		return fmt.Sprintf("term %d is over, this replica is at %d", v.Term, st.Term)
	case st.Leader != 0:
		return fmt.Sprintf("leader %v has been heard of within an election timeout", st.Leader)
	default:
		return "raft did not answer"
	}
}

// RequestVote implements transport.PeerHandler.
func (n *Node) RequestVote(ctx context.Context, from nexusraft.NodeID, votes []transport.Vote) ([]transport.VoteResult, error) {
	slots := make([]*voteSlot, len(votes))
	in := make([]inbound, len(votes))
	for i, v := range votes {
		slots[i] = &voteSlot{vote: v, done: make(chan transport.VoteResult, 1)}
		in[i] = inbound{zone: v.Zone, from: from, message: voteMessage(v), vote: slots[i]}
	}
	taken := n.worker.inbox.putMessages(in)
	results := make([]transport.VoteResult, 0, taken)
	for _, s := range slots[:taken] {
		select {
		case r := <-s.done:
			results = append(results, r)
		case <-ctx.Done():
			return results, nil // what is missing counts as ignored
		}
	}
	return results, nil
}

func voteMessage(v transport.Vote) *raftpb.Message {
	typ := raftpb.MsgVote
	if v.Pre {
		typ = raftpb.MsgPreVote
	}
	return &raftpb.Message{
		Type: typ.Enum(), From: new(uint64(v.From)), To: new(uint64(v.To)), Term: new(uint64(v.Term)),
		Index: new(uint64(v.LastIndex)), LogTerm: new(uint64(v.LastTerm)), Context: v.Context,
	}
}

// fillVote gives a vote response to the call that waits for it, if one does.
func (h *hosted) fillVote(m *raftpb.Message) {
	key := voteKey{nexusraft.ReplicaID(m.GetTo()), m.GetType() == raftpb.MsgPreVoteResp}
	if v := h.votes[key]; v != nil {
		delete(h.votes, key)
		v.fill(m)
	}
}

// askVote puts a vote request into the round's list for the voter's node.
func (h *hosted) askVote(m *raftpb.Message) {
	to, ok := h.nodeOf(nexusraft.ReplicaID(m.GetTo()))
	if !ok {
		return
	}
	h.w.asks[to] = append(h.w.asks[to], transport.Vote{
		Zone: h.id, Pre: m.GetType() == raftpb.MsgPreVote,
		From: nexusraft.ReplicaID(m.GetFrom()), To: nexusraft.ReplicaID(m.GetTo()),
		Term: nexusraft.Term(m.GetTerm()), LastIndex: nexusraft.Index(m.GetIndex()),
		LastTerm: nexusraft.Term(m.GetLogTerm()), Context: m.GetContext(),
	})
}

// askVotes sends the round's vote requests, one call for each node however many zones.
func (w *worker) askVotes() {
	for to, votes := range w.asks {
		w.node.peers.RequestVote(to, votes, func(rs []transport.VoteResult, err error) { w.node.voted(to, rs, err) })
	}
	clear(w.asks)
}

// voted brings the answers of a vote call back to the worker.
func (n *Node) voted(from nexusraft.NodeID, results []transport.VoteResult, err error) {
	if err != nil {
		n.logger.Debug("vote call failed", "peer", from, "err", err)
		return
	}
	var in []inbound
	for _, r := range results {
		if r.Outcome == transport.VoteIgnored {
			n.logger.Debug("vote ignored", "zone", r.Zone, "peer", from, "term", r.Term, "reason", r.Why)
			continue
		}
		typ := raftpb.MsgVoteResp
		if r.Pre {
			typ = raftpb.MsgPreVoteResp
		}
		in = append(in, inbound{zone: r.Zone, from: from, message: &raftpb.Message{
			Type: typ.Enum(), From: new(uint64(r.From)), To: new(uint64(r.To)), Term: new(uint64(r.Term)),
			Reject: new(r.Outcome == transport.VoteRejected),
		}})
	}
	n.worker.inbox.putMessages(in)
}
