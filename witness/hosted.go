package witness

import (
	"errors"
	"fmt"
	"log/slog"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// hosted is one zone on the worker, which alone touches it.
type hosted struct {
	id      nexusraft.ZoneID
	log     *Log
	replica *zone.Replica
	logger  *slog.Logger
	send    func(to nexusraft.NodeID, class transport.Class, m transport.Message)
	connect func(nexusraft.Membership)

	errRemoved func(nexusraft.ZoneID) error // why this witness ends once it was removed

	votes map[voteKey]*voteSlot

	// from is who spoke for a replica that no record names yet: a witness that has been
	// away may meet a leader that was admitted meanwhile.
	from map[nexusraft.ReplicaID]nexusraft.NodeID
}

func newHosted(log *Log, incarnation nexusraft.Incarnation, c Config, p *transport.Peers, connect func(nexusraft.Membership), errRemoved func(nexusraft.ZoneID) error) (*hosted, error) {
	o := log.Origin()
	replica, err := zone.New(zone.Config{
		Zone: o.Zone, Replica: o.Replica, Incarnation: incarnation, Witness: true,
		Storage: log, Applied: log.Applied(), Membership: log.Membership(),
		ElectionTicks: c.ElectionTicks, Logger: zone.NewLogger(c.Logger, o.Zone),
	})
	if err != nil {
		return nil, err
	}
	connect(log.Membership())
	return &hosted{
		id: o.Zone, log: log, replica: replica, logger: c.Logger.With("zone", o.Zone),
		send: p.Send, connect: connect, errRemoved: errRemoved,
		votes: make(map[voteKey]*voteSlot),
		from:  make(map[nexusraft.ReplicaID]nexusraft.NodeID),
	}, nil
}

// step gives one message to raft.
func (h *hosted) step(m inbound) {
	if m.vote != nil {
		key := voteKey{nexusraft.ReplicaID(m.message.GetFrom()), m.vote.vote.Pre}
		if old := h.votes[key]; old != nil {
			old.ignore(h, "a newer request has come")
		}
		h.votes[key] = m.vote
	}
	sender := nexusraft.ReplicaID(m.message.GetFrom())
	if err := h.replica.Step(m.from, m.message); err != nil {
		h.refused(m, err)
		return
	}
	if _, known := h.replica.Membership().Replica(sender); !known {
		if len(h.from) >= nexusraft.MaxMembers {
			clear(h.from) // the true leader speaks again in a moment
		}
		h.from[sender] = m.from
	}
}

func (h *hosted) refused(m inbound, err error) {
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

// round is one turn of the replica. Nothing leaves that promises what is not on the disk
// (I3): after an error nothing may leave any more.
func (h *hosted) round() error {
	work, err := h.replica.Ready()
	if err != nil {
		return err
	}
	h.sendAll(work.SendNow)
	update, err := h.update(work)
	if err != nil {
		return err
	}
	if !work.Empty() {
		// Commit positions alone wait in memory for the next write that must be synced.
		if err := h.log.Write(update, work.MustSync); err != nil {
			return err
		}
	}
	if work.Snapshot != nil || update.Membership != nil {
		h.connect(h.log.Membership())
	}
	h.sendAll(work.AfterSync)
	h.replica.Advance()
	if h.log.Membership().IsRemoved(h.log.Origin().Replica) {
		return h.errRemoved(h.id)
	}
	return nil
}

// update applies what is committed, of which only conf changes mean something here, and
// returns what is to be stored.
func (h *hosted) update(work zone.Work) (Update, error) {
	u := Update{Snapshot: work.Snapshot, Append: work.Append, HardState: work.HardState}
	for _, c := range work.Committed {
		u.Applied = c.Index
		if c.ConfChange == nil {
			continue
		}
		cs, members, err := h.replica.ApplyConfChange(c.ConfChange)
		if err != nil {
			return Update{}, fmt.Errorf("zone %v: apply the conf change at %d: %w", h.id, c.Index, err)
		}
		u.ConfState, u.Membership = cs, &members
	}
	return u, nil
}

func (h *hosted) sendAll(ms []*pb.Message) {
	for _, m := range ms {
		switch m.GetType() {
		case pb.MsgVoteResp, pb.MsgPreVoteResp:
			h.fillVote(m)
		default:
			h.sendMessage(m)
		}
	}
}

func (h *hosted) sendMessage(m *pb.Message) {
	to, ok := h.nodeOf(nexusraft.ReplicaID(m.GetTo()))
	if !ok {
		return // raft's answer to a replica that nobody knows; if it lives it speaks again
	}
	data, err := proto.Marshal(m)
	if err != nil {
		h.logger.Error("raft message does not encode", "type", m.GetType(), "err", err)
		return
	}
	class := transport.Append
	if m.GetType() == pb.MsgHeartbeatResp {
		class = transport.Control
	}
	h.send(to, class, transport.Message{Zone: h.id, Data: data})
}

// nodeOf returns the node of a replica: by its record, or by who spoke for it.
func (h *hosted) nodeOf(id nexusraft.ReplicaID) (nexusraft.NodeID, bool) {
	if m, ok := h.replica.Membership().Replica(id); ok {
		return m.Node, true
	}
	node, ok := h.from[id]
	return node, ok
}

func (h *hosted) status() nexusraft.ZoneStatus {
	st := h.replica.Status()
	st.FirstIndex = h.log.record.Applied + 1
	return st
}
