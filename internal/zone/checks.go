package zone

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// mayCome lists the messages that another replica may send. Local messages, proposals and
// requests to transfer or to forget a leader never come from outside (I6).
var mayCome = map[pb.MessageType]bool{
	pb.MsgApp: true, pb.MsgAppResp: true,
	pb.MsgHeartbeat: true, pb.MsgHeartbeatResp: true,
	pb.MsgVote: true, pb.MsgVoteResp: true,
	pb.MsgPreVote: true, pb.MsgPreVoteResp: true,
	pb.MsgSnap: true, pb.MsgTimeoutNow: true,
	pb.MsgReadIndex: true, pb.MsgReadIndexResp: true,
}

var isAnswer = map[pb.MessageType]bool{
	pb.MsgAppResp: true, pb.MsgHeartbeatResp: true, pb.MsgVoteResp: true, pb.MsgPreVoteResp: true,
}

// maxPosition bounds the terms and indexes of messages: raft adds to them without a check.
const maxPosition = 1 << 62

// Step takes a message that came from a node. The message belongs to raft from then on.
//
// raft trusts its user with both ends, with the type and with the shape of a message, and
// panics on much of what it can't use. Step refuses all of that with ErrRefused, saying
// what was wrong (I6); a message that raft may ignore is no error. ErrCorrupt is the end of the
// replica, see Ready.
func (r *Replica) Step(from nexusraft.NodeID, m *pb.Message) error {
	if err := r.checkMessage(from, m); err != nil {
		return fmt.Errorf("%w: %v from node %v to replica %v of zone %v: %w",
			nexusraft.ErrRefused, m.GetType(), from, nexusraft.ReplicaID(m.GetTo()), r.cfg.Zone, err)
	}
	if err := r.checkMemory(m); err != nil {
		return err
	}
	if r.cfg.Witness && !r.witnessTakes(m) {
		return nil
	}
	if m.GetType() == pb.MsgReadIndex && (!r.leads() || r.readsTooEarly()) {
		return nil // raft would pass it on in the sender's name; the sender asks again
	}
	if m.GetType() == pb.MsgAppResp || m.GetType() == pb.MsgHeartbeatResp {
		r.gate.heardOf(nexusraft.ReplicaID(m.GetFrom()))
		r.unchecked = true
	}
	r.noteReach(m)
	err := r.rn.Step(m)
	if err == raft.ErrStepPeerNotFound {
		return nil // an answer from a replica that was removed meanwhile
	}
	return err
}

func (r *Replica) checkMessage(from nexusraft.NodeID, m *pb.Message) error {
	sender := nexusraft.ReplicaID(m.GetFrom())
	if !mayCome[m.GetType()] {
		return fmt.Errorf("messages of this type never come from outside")
	}
	if nexusraft.ReplicaID(m.GetTo()) != r.cfg.Replica {
		return fmt.Errorf("this replica is %v", r.cfg.Replica)
	}
	if sender == 0 || sender == r.cfg.Replica || sender >= ^nexusraft.ReplicaID(0)-1 {
		return fmt.Errorf("sender %v can't be", sender)
	}
	// A replica that has been away for long may not know its leader's record yet. What
	// it must not do is to accept a sender that the records give to another node.
	if rec, ok := r.members.Replica(sender); ok && rec.Node != from {
		return fmt.Errorf("sender %v belongs to node %v", sender, rec.Node)
	}
	// Its answers to what it was sent before are late, and raft ignores them.
	if r.members.IsRemoved(sender) && !isAnswer[m.GetType()] {
		return fmt.Errorf("sender %v was removed from the zone", sender)
	}
	if m.GetTerm() == 0 && m.GetType() != pb.MsgReadIndex {
		return fmt.Errorf("term is 0")
	}
	snapshot := m.GetSnapshot().GetMetadata()
	if max(m.GetTerm(), m.GetIndex(), snapshot.GetIndex()) > maxPosition {
		return fmt.Errorf("term %d, index %d or snapshot index %d is beyond %d", m.GetTerm(), m.GetIndex(), snapshot.GetIndex(), uint64(maxPosition))
	}
	return r.checkContent(m)
}

// noteReach follows how far the log is sure to reach after this message: an append or a
// snapshot may cut it, and raft panics on a heartbeat that commits more. What such a
// heartbeat commits beyond is left to the next one.
func (r *Replica) noteReach(m *pb.Message) {
	switch m.GetType() {
	case pb.MsgApp:
		r.reach = min(r.reach, nexusraft.Index(m.GetIndex())+nexusraft.Index(len(m.GetEntries())))
	case pb.MsgSnap:
		r.reach = min(r.reach, nexusraft.Index(m.GetSnapshot().GetMetadata().GetIndex()))
	case pb.MsgHeartbeat:
		m.Commit = new(min(m.GetCommit(), uint64(r.reach)))
	}
}

// checkMemory returns ErrCorrupt if the leader counts on entries that this log does not have.
// A leader names no commit beyond what this replica has acknowledged, and what was
// acknowledged was in a Ready before: less log than that is loss, by a disk that was set back or
// that lied about its syncs. A replica that has lost entries, and perhaps a vote, must take no part
// any more: HasWork and Ready say so from then on, if the sender is a replica of the zone.
func (r *Replica) checkMemory(m *pb.Message) error {
	current := m.GetTerm() >= uint64(r.hard.term)
	if m.GetType() != pb.MsgHeartbeat || !current || nexusraft.Index(m.GetCommit()) <= r.last {
		return nil
	}
	sender := nexusraft.ReplicaID(m.GetFrom())
	err := fmt.Errorf("%w: zone %v: leader %v knows that replica %v has entry %d, but its log ends at %d: its disk was set back, or has lost what was synced; clear the data directory and join as a new node",
		nexusraft.ErrCorrupt, r.cfg.Zone, sender, r.cfg.Replica, m.GetCommit(), r.last)
	if _, known := r.members.Replica(sender); !known {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	r.lost = err
	return err
}

// checkContent refuses what would make raft panic, or believe what can't be.
func (r *Replica) checkContent(m *pb.Message) error {
	switch m.GetType() {
	case pb.MsgApp:
		return checkAppend(m)
	case pb.MsgSnap:
		return checkSnapshot(r.cfg.Replica, m)
	case pb.MsgAppResp:
		if r.answersMe(m) && !m.GetReject() && nexusraft.Index(m.GetIndex()) > r.last {
			return fmt.Errorf("it acknowledges index %d, this log ends at %d", m.GetIndex(), r.last)
		}
	case pb.MsgHeartbeatResp:
		return r.checkReads(m)
	case pb.MsgReadIndex, pb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 {
			return fmt.Errorf("%d contexts, one expected", len(m.GetEntries()))
		}
	}
	return nil
}

// answersMe reports whether raft will believe an answer. A leader that has crashed may have
// sent what it had not stored yet, so that after its restart the answers of its term speak
// of more than it knows: it leads no more, and raft ignores them.
func (r *Replica) answersMe(m *pb.Message) bool {
	return r.rn.BasicStatus().RaftState == raft.StateLeader && m.GetTerm() == uint64(r.hard.term)
}

// checkReads refuses an answer to a read that was never asked. The context is raft's count
// of the reads that the heartbeat confirms.
func (r *Replica) checkReads(m *pb.Message) error {
	switch n := len(m.GetContext()); {
	case n == 0:
		return nil
	case n != 8:
		return fmt.Errorf("context of %d bytes", n)
	}
	read := binary.LittleEndian.Uint64(m.GetContext())
	if r.answersMe(m) && read > r.asked {
		return fmt.Errorf("it confirms read %d, the last one asked is %d", read, r.asked)
	}
	return nil
}

func checkAppend(m *pb.Message) error {
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if want := m.GetIndex() + 1 + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("entry %d where %d is expected", e.GetIndex(), want)
		}
		if e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("entry %d has term %d between %d and %d", e.GetIndex(), e.GetTerm(), term, m.GetTerm())
		}
		if t := e.GetType(); t != pb.EntryNormal && t != pb.EntryConfChangeV2 {
			return fmt.Errorf("entry %d has type %v", e.GetIndex(), t)
		}
		term = e.GetTerm()
	}
	return nil
}
