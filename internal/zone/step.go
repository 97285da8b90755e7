package zone

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// mayCome lists the messages that another replica may send. Local messages, proposals and
// requests to transfer or to forget a leader never come from outside (I6).
var mayCome = map[raftpb.MessageType]bool{
	raftpb.MsgApp: true, raftpb.MsgAppResp: true,
	raftpb.MsgHeartbeat: true, raftpb.MsgHeartbeatResp: true,
	raftpb.MsgVote: true, raftpb.MsgVoteResp: true,
	raftpb.MsgPreVote: true, raftpb.MsgPreVoteResp: true,
	raftpb.MsgSnap: true, raftpb.MsgTimeoutNow: true,
	raftpb.MsgReadIndex: true, raftpb.MsgReadIndexResp: true,
}

var isAnswer = map[raftpb.MessageType]bool{
	raftpb.MsgAppResp: true, raftpb.MsgHeartbeatResp: true, raftpb.MsgVoteResp: true, raftpb.MsgPreVoteResp: true,
}

// IsAnswer reports whether a message answers another one: any replica of a zone may send such.
func IsAnswer(m *raftpb.Message) bool { return isAnswer[m.GetType()] }

// maxPosition bounds the terms and indexes of messages: raft adds to them without a check.
const maxPosition = 1 << 62

// The senders of messages (I13). Answers may come from any replica: a voter's answers are its vote,
// and raft ignores answers of replicas outside its configuration. All other messages are those of a
// leader or a candidate, or about read indexes, and come from full replicas only: a member, or a
// replica that is a learner by its record here, which may have been promoted and elected since. A
// witness, a removed replica and a removed node send nothing but answers.
//
// A replica that was away may have no record of the zone's leader, which was admitted meanwhile. It
// must follow that leader all the same, or it would never learn of the change. So a sender without
// a record is believed if its node proves otherwise that it holds data (Config.Vouched): by a
// certificate that says so, signed by the cluster's authority, whose key the full replicas of the
// root zone hold and witnesses do not. Records come first, and a node has at most one replica here.
//
// In a zone other than the root zone a node may have left and come back, as another replica, while this one was away:
// the record, or the tombstone, of its earlier one then says nothing but that the node held data.

// returns reports whether a node that has left the zone may come back to it.
func (r *Replica) returns() bool { return r.cfg.Zone != nexusraft.RootZone }

// checkSender refuses a message that its sender may not send.
func (r *Replica) checkSender(from nexusraft.NodeID, m *raftpb.Message) error {
	sender := nexusraft.ReplicaID(m.GetFrom())
	if sender == 0 || sender == r.cfg.Replica || sender >= ^nexusraft.ReplicaID(0)-1 {
		return fmt.Errorf("sender %v can't be", sender)
	}
	rec, known := r.members.Replica(sender)
	if known && rec.Node != from {
		return fmt.Errorf("sender %v belongs to node %v", sender, rec.Node)
	}
	if isAnswer[m.GetType()] {
		return nil
	}
	other, second := r.members.Node(from)
	switch {
	case known && rec.Role.Full():
		return nil
	case known:
		return fmt.Errorf("sender %v is a %s, and those only answer", sender, rec.Role)
	case r.members.IsRemoved(sender) || r.members.IsRemovedNode(from) && !r.returns():
		return fmt.Errorf("sender %v was removed from the zone", sender)
	case second && r.returns() && other.Role.Full():
		return nil
	case second:
		return fmt.Errorf("sender %v is not known here, and replica %v of its node is", sender, other.Replica)
	case !r.cfg.Vouched(from):
		return fmt.Errorf("sender %v is not known here, and node %v does not prove that it holds the zone's data: its "+
			"certificate has to name its role", sender, from)
	}
	return nil
}

// Step takes a message that came from a node. The message belongs to raft from then on.
//
// raft leaves the checks of a message's ends, type and content to its user, and panics on much of
// what it can't use. Step refuses all of that with ErrRefused, and says what is wrong (I6); a
// message that raft ignores is no error. ErrCorrupt is the end of the replica, see Ready.
func (r *Replica) Step(from nexusraft.NodeID, m *raftpb.Message) error {
	if err := r.Check(from, m); err != nil {
		return err
	}
	if err := r.checkMemory(m); err != nil {
		return err
	}
	if r.cfg.Witness && !witnessTakes(m) {
		return nil
	}
	if m.GetType() == raftpb.MsgReadIndex && (!r.leads() || r.readsTooEarly()) {
		return nil // raft would forward it in the sender's name; the sender asks again
	}
	if isAnswer[m.GetType()] && !r.knows(m) {
		return nil // of a replica that was removed meanwhile
	}
	if m.GetType() == raftpb.MsgAppResp || m.GetType() == raftpb.MsgHeartbeatResp {
		r.gate.HeardOf(nexusraft.ReplicaID(m.GetFrom()), nexusraft.Term(m.GetTerm()))
		r.unchecked = r.unchecked || r.gate.Unsettled()
	}
	r.terms.spend(r.ahead(m), r.isFull(m))
	r.heed(from, m)
	if r.hear(m); r.withholds(m) {
		return nil
	}
	r.noteReach(m)
	err := r.rn.Step(m)
	if err == raft.ErrStepPeerNotFound {
		return nil
	}
	if err == nil {
		r.noteLeader(from, m)
	}
	return err
}

// Check returns why Step would refuse a message; nil if it would not. Nothing is changed.
func (r *Replica) Check(from nexusraft.NodeID, m *raftpb.Message) error {
	if err := r.checkMessage(from, m); err != nil {
		return fmt.Errorf("%w: %v from node %v to replica %v of zone %v: %w",
			nexusraft.ErrRefused, m.GetType(), from, nexusraft.ReplicaID(m.GetTo()), r.cfg.Zone, err)
	}
	return nil
}

// knows reports whether a message's sender has a record.
func (r *Replica) knows(m *raftpb.Message) bool {
	_, known := r.members.Replica(nexusraft.ReplicaID(m.GetFrom()))
	return known
}

// isFull reports whether a message's sender holds data: by its record, or because it may send more
// than answers without one.
func (r *Replica) isFull(m *raftpb.Message) bool {
	rec, known := r.members.Replica(nexusraft.ReplicaID(m.GetFrom()))
	return known && rec.Role.Full() || !known && !isAnswer[m.GetType()]
}

// ahead returns by how much a message's term is beyond this replica's.
func (r *Replica) ahead(m *raftpb.Message) uint64 {
	own := r.rn.BasicStatus().GetTerm()
	return m.GetTerm() - min(m.GetTerm(), own)
}

func (r *Replica) checkMessage(from nexusraft.NodeID, m *raftpb.Message) error {
	if !mayCome[m.GetType()] {
		return fmt.Errorf("messages of this type never come from outside")
	}
	if nexusraft.ReplicaID(m.GetTo()) != r.cfg.Replica {
		return fmt.Errorf("this replica is %v", r.cfg.Replica)
	}
	if err := r.checkSender(from, m); err != nil {
		return err
	}
	if m.GetTerm() == 0 && m.GetType() != raftpb.MsgReadIndex {
		return fmt.Errorf("term is 0")
	}
	snapshot := m.GetSnapshot().GetMetadata()
	if max(m.GetTerm(), m.GetIndex(), snapshot.GetIndex()) > maxPosition {
		return fmt.Errorf("term %d, index %d or snapshot index %d is beyond %d", m.GetTerm(), m.GetIndex(),
			snapshot.GetIndex(), uint64(maxPosition))
	}
	if err := r.terms.check(r.ahead(m), r.isFull(m)); err != nil {
		return err
	}
	return r.checkContent(m)
}

// noteReach tracks how far the log reaches at least after this message: an append or a snapshot may
// truncate it, and raft panics on a heartbeat that commits more. The commit index of such a
// heartbeat is lowered; the next one has the rest.
func (r *Replica) noteReach(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp:
		r.reach = min(r.reach, nexusraft.Index(m.GetIndex())+nexusraft.Index(len(m.GetEntries())))
	case raftpb.MsgSnap:
		r.reach = min(r.reach, nexusraft.Index(m.GetSnapshot().GetMetadata().GetIndex()))
	case raftpb.MsgHeartbeat:
		m.Commit = new(min(m.GetCommit(), uint64(r.reach)))
	}
}

// checkMemory returns ErrCorrupt if the leader counts on entries that this log does not have. A
// heartbeat commits nothing beyond what this replica has acknowledged, and every acknowledged entry
// was in a Ready before: a shorter log has lost entries, by a disk that was set back or that lied
// about its syncs. A replica that has lost entries, and perhaps a vote, must stop: Ready returns the
// error from then on, if the sender is a replica of the zone.
func (r *Replica) checkMemory(m *raftpb.Message) error {
	current := m.GetTerm() >= uint64(r.hard.term)
	if m.GetType() != raftpb.MsgHeartbeat || !current || nexusraft.Index(m.GetCommit()) <= r.last {
		return nil
	}
	sender := nexusraft.ReplicaID(m.GetFrom())
	err := fmt.Errorf("%w: zone %v: leader %v knows that replica %v has entry %d, but its log ends at %d: its disk was "+
		"set back, or has lost what was synced; clear the data directory and join as a new node",
		nexusraft.ErrCorrupt, r.cfg.Zone, sender, r.cfg.Replica, m.GetCommit(), r.last)
	if _, known := r.members.Replica(sender); !known {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	r.lost = err
	return err
}

// checkContent refuses what would make raft panic, or believe what is impossible.
func (r *Replica) checkContent(m *raftpb.Message) error {
	switch m.GetType() {
	case raftpb.MsgApp:
		return checkAppend(m)
	case raftpb.MsgSnap:
		return checkSnapshot(r.cfg.Replica, m)
	case raftpb.MsgAppResp:
		if end := r.sentTo(m); r.answersMe(m) && !m.GetReject() && nexusraft.Index(m.GetIndex()) > end {
			return fmt.Errorf("it acknowledges index %d, and was sent nothing beyond %d", m.GetIndex(), end)
		}
	case raftpb.MsgHeartbeatResp:
		return r.checkReads(m)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 {
			return fmt.Errorf("%d contexts, one expected", len(m.GetEntries()))
		}
	}
	return nil
}

// sentTo returns the highest index that the sender of an acknowledgement can have. A witness can't
// have more than was released to it, so in sync it acknowledges nothing that the members lack.
func (r *Replica) sentTo(m *raftpb.Message) nexusraft.Index {
	rec, known := r.members.Replica(nexusraft.ReplicaID(m.GetFrom()))
	switch {
	case !known || rec.Role != nexusraft.RoleWitness:
		return r.last
	case r.gate.Term() != r.hard.term:
		return 0
	}
	return r.gate.Floor()
}

// answersMe reports whether raft will believe an answer. A leader may crash after it has sent
// entries that it had not stored yet; after its restart the answers of that term name more than its
// log has. It does not lead any more, and raft ignores them.
func (r *Replica) answersMe(m *raftpb.Message) bool {
	return r.rn.BasicStatus().RaftState == raft.StateLeader && m.GetTerm() == uint64(r.hard.term)
}

// checkReads refuses the confirmation of a read that was never asked for. The context is raft's
// count of the reads that the heartbeat confirms.
func (r *Replica) checkReads(m *raftpb.Message) error {
	switch n := len(m.GetContext()); {
	case n == 0 || n == markBytes:
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

func checkAppend(m *raftpb.Message) error {
	term := m.GetLogTerm()
	for i, e := range m.GetEntries() {
		if want := m.GetIndex() + 1 + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("entry %d where %d is expected", e.GetIndex(), want)
		}
		if e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("entry %d has term %d between %d and %d", e.GetIndex(), e.GetTerm(), term, m.GetTerm())
		}
		if t := e.GetType(); t != raftpb.EntryNormal && t != raftpb.EntryConfChangeV2 {
			return fmt.Errorf("entry %d has type %v", e.GetIndex(), t)
		}
		term = e.GetTerm()
	}
	return nil
}
