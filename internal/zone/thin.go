package zone

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// acked is the last acknowledgement of entries that has left this replica.
type acked struct {
	to    nexusraft.ReplicaID
	term  uint64
	index uint64
	ticks int // since then
}

// thin takes those messages out of a round that say nothing beside the others; raft takes the loss of any message. It changes
// msgs.
//
//   - A heartbeat beside an append for the same replica, which says that the leader lives, has the commit index and is
//     answered, too. Not so one that asks something: it confirms a read, or is to put the zone to sleep.
//   - An acknowledgement beside one of more, and one that repeats the last, as the answer to an append does that tells of
//     a commit alone. A leader that probes waits for an answer though it is a repetition: it asks again in the next
//     heartbeat interval, and so the same is told once in each tick.
func (r *Replica) thin(msgs []*raftpb.Message) []*raftpb.Message {
	if r.cfg.Signals == nil {
		return msgs
	}
	var few [8]uint64
	appends, most := few[:0], uint64(0)
	for _, m := range msgs {
		switch {
		case m.GetType() == raftpb.MsgApp:
			appends = append(appends, m.GetTo())
		case r.acknowledges(m):
			most = max(most, m.GetIndex())
		}
	}
	left := msgs[:0]
	for _, m := range msgs {
		switch {
		case m.GetType() == raftpb.MsgHeartbeat && len(m.GetContext()) == 0 && !r.sleep.asking && slices.Contains(appends, m.GetTo()):
			continue
		case r.acknowledges(m) && (m.GetIndex() < most || r.acked.repeats(m)):
			continue
		case r.acknowledges(m):
			r.acked = acked{nexusraft.ReplicaID(m.GetTo()), m.GetTerm(), m.GetIndex(), 0}
		}
		left = append(left, m)
	}
	clear(msgs[len(left):])
	return left
}

// acknowledges reports whether a message tells the leader up to where this log is that of the leader. (To one that leads no
// more, raft answers that there is a later term, without an index.)
func (r *Replica) acknowledges(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgAppResp && !m.GetReject() && m.GetIndex() > 0 && m.GetTo() == uint64(r.lead)
}

// repeats reports whether a message says what was said in this tick.
func (a acked) repeats(m *raftpb.Message) bool {
	return a.ticks == 0 && a == acked{nexusraft.ReplicaID(m.GetTo()), m.GetTerm(), m.GetIndex(), 0}
}
