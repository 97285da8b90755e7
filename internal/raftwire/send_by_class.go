package raftwire

import (
	"log/slog"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Network is where messages and vote requests leave the node: transport.Peers, or a test that looks
// at the disk in that moment (I3). Its methods don't block.
type Network interface {
	Send(to nexusraft.NodeID, class transport.Class, m transport.Message)
	RequestVote(to nexusraft.NodeID, votes []transport.Vote, done func([]transport.VoteResult, error))
}

// Outbox is a driver.Sender over a network. It is for the worker's goroutine.
type Outbox struct {
	Network Network
	Inbox   *driver.Inbox // takes the answers to vote requests
	Logger  *slog.Logger
}

// Send implements driver.Sender. It encodes at once: entries are shared with the leader's log.
func (o *Outbox) Send(g *driver.Group, to nexusraft.NodeID, m *raftpb.Message) {
	data, err := proto.Marshal(m)
	if err != nil {
		o.Logger.Error("raft message does not encode", "zone", g.Zone(), "type", m.GetType(), "err", err)
		return
	}
	o.Network.Send(to, classOf(m.GetType()), transport.Message{Zone: g.Zone(), Data: data})
}

// classOf returns the queue for messages of a type.
func classOf(typ raftpb.MessageType) transport.Class {
	switch typ {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return transport.Control
	}
	return transport.Append
}

// RequestVotes implements driver.Sender, by as many calls as the votes need. The answers come by the inbox,
// as messages.
func (o *Outbox) RequestVotes(to nexusraft.NodeID, requests []driver.VoteRequest) {
	for some := range slices.Chunk(requests, transport.MaxVotes) {
		votes := make([]transport.Vote, len(some))
		for i, r := range some {
			votes[i] = voteOf(r)
		}
		o.Network.RequestVote(to, votes, func(rs []transport.VoteResult, err error) { o.voted(to, rs, err) })
	}
}

// voted brings the answers of a vote call back to the worker. It may be called from any goroutine.
func (o *Outbox) voted(from nexusraft.NodeID, results []transport.VoteResult, err error) {
	if err != nil {
		o.Logger.Debug("vote call failed", "peer", from, "err", err)
		return
	}
	var in []driver.Inbound
	for _, r := range results {
		if r.Outcome == transport.VoteIgnored {
			o.Logger.Debug("vote ignored", "zone", r.Zone, "peer", from, "term", r.Term, "reason", r.Why)
			continue
		}
		in = append(in, driver.Inbound{Zone: r.Zone, From: from, Message: responseOf(r)})
	}
	o.Inbox.Put(in)
}
