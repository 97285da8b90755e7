package node

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Receive implements transport.PeerHandler: it decodes and hands over.
func (n *Node) Receive(from nexusraft.NodeID, msgs []transport.Message) {
	in := make([]inbound, 0, len(msgs))
	for _, m := range msgs {
		message := &raftpb.Message{}
		if err := proto.Unmarshal(m.Data, message); err != nil {
			n.logger.Warn("peer sent a message that can't be read", "zone", m.Zone, "peer", from, "err", err)
			continue
		}
		if typ := message.GetType(); typ == raftpb.MsgSnap || typ == raftpb.MsgVote || typ == raftpb.MsgPreVote {
			n.logger.Warn("peer sent a message the wrong way", "zone", m.Zone, "peer", from, "type", typ)
			continue // a snapshot comes with its state, a vote as a call
		}
		in = append(in, inbound{zone: m.Zone, from: from, message: message, size: len(m.Data)})
	}
	if taken := n.worker.inbox.putMessages(in); taken < len(in) && !n.worker.inbox.isClosed() {
		n.logger.Warn("inbox full, raft messages dropped", "peer", from, "count", len(in)-taken)
	}
}

// step gives one message to raft.
func (h *hosted) step(m inbound) {
	sender := nexusraft.ReplicaID(m.message.GetFrom())
	if m.vote != nil {
		key := voteKey{sender, m.vote.vote.Pre}
		if old := h.votes[key]; old != nil {
			old.ignore(h, "a newer request has come")
		}
		h.votes[key] = m.vote
	}
	if m.staged != nil {
		h.staged = append(h.staged, m.staged)
	}
	if h.w.full != nil && m.message.GetType() == raftpb.MsgApp && len(m.message.GetEntries()) > 0 {
		return // as if it was lost: heartbeats and votes go on
	}
	if err := h.replica.Step(m.from, m.message); err != nil {
		h.refused(m, err)
		return
	}
	if _, known := h.replica.Membership().Replica(sender); !known {
		if len(h.from) >= nexusraft.MaxMembers {
			clear(h.from) // whoever matters speaks again in a moment
		}
		h.from[sender] = m.from
	}
}

func (h *hosted) refused(m inbound, err error) {
	if m.staged != nil {
		h.staged = h.staged[:len(h.staged)-1]
		m.staged.end(err)
	}
	if m.vote != nil {
		delete(h.votes, voteKey{nexusraft.ReplicaID(m.message.GetFrom()), m.vote.vote.Pre})
		m.vote.ignore(h, err.Error())
	}
	if errors.Is(err, nexusraft.ErrRefused) {
		h.logger.Warn("message refused", "peer", m.from, "type", m.message.GetType(), "term", m.message.GetTerm(), "err", err)
		return
	}
	h.logger.Debug("raft did not take a message", "peer", m.from, "type", m.message.GetType(), "err", err)
}

// nodeOf returns the node of a replica: by its record, or by who spoke for it.
func (h *hosted) nodeOf(id nexusraft.ReplicaID) (nexusraft.NodeID, bool) {
	if m, ok := h.replica.Membership().Replica(id); ok {
		return m.Node, true
	}
	node, ok := h.from[id]
	return node, ok
}

// send sends raft's messages, each by its way.
func (h *hosted) send(ms []*raftpb.Message) {
	for _, m := range ms {
		switch m.GetType() {
		case raftpb.MsgVote, raftpb.MsgPreVote:
			h.askVote(m)
		case raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
			h.fillVote(m)
		case raftpb.MsgSnap:
			h.sendSnapshot(m)
		default:
			h.sendMessage(m)
		}
	}
}

func (h *hosted) sendMessage(m *raftpb.Message) {
	to, ok := h.nodeOf(nexusraft.ReplicaID(m.GetTo()))
	if !ok {
		return
	}
	// Encoded here and now: the entries are shared with the leader's log.
	data, err := proto.Marshal(m)
	if err != nil {
		h.logger.Error("raft message does not encode", "type", m.GetType(), "err", err)
		return
	}
	class := transport.Append
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		class = transport.Control
	}
	h.w.node.peers.Send(to, class, transport.Message{Zone: h.id, Data: data})
}

// unreachable tells every zone that messages to a node were lost.
func (n *Node) unreachable(node nexusraft.NodeID) {
	n.worker.inbox.putEvent(func() {
		for _, h := range n.worker.zones {
			if m, ok := h.replica.Membership().Node(node); ok && m.Replica != h.self {
				h.replica.ReportUnreachable(m.Replica)
			}
		}
	})
}

// Leaving implements transport.PeerHandler: the peer shuts down in order, so nothing is
// held back for it.
func (n *Node) Leaving(node nexusraft.NodeID) {
	n.worker.inbox.putEvent(func() {
		for _, h := range n.worker.zones {
			if m, ok := h.replica.Membership().Node(node); ok && m.Replica != h.self {
				h.replica.ReportLeaving(m.Replica)
			}
		}
	})
}
