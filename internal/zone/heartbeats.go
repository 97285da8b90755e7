package zone

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The heartbeats of a zone that is awake are rare: its leader's node tells the others with each tick that it
// lives, for all of its zones (Signal). With a heartbeat for each zone and tick, a thousand active zones would
// send and answer little else.
//
// Between two heartbeats the signal stands for them: a follower or a witness is not ticked while it hears
// its leader's node, if that says the same as when the leader itself was last heard. That is not for
// long: one tick more than the interval of the heartbeats. So a leader that is cut off with its node, or whose process
// dies, is missed as soon as if it had sent a heartbeat with each tick; and one that falls silent
// alone, while its node lives and says nothing of that, some ticks later.
//
// As with sleep, safety does not depend on it: raft is safe with any ticks.

// heartbeatTicks returns the interval of the heartbeats of a zone whose nodes send a signal in each configured one.
// Two of them fall into the shortest election timeout, and into each check of the quorum.
func heartbeatTicks(electionTicks, configured int) int {
	return max(configured, min(3*configured, electionTicks/2))
}

// trust is what a follower or a witness rests on between two messages of its leader.
type trust struct {
	node   nexusraft.NodeID // the leader's; 0: it rests on nothing
	leader nexusraft.ReplicaID
	signal Signal // that of the node, when the leader was last heard
	ticks  int    // since then
}

// noteLeader follows when the leader was last heard; raft has taken the message.
func (r *Replica) noteLeader(from nexusraft.NodeID, m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
	default:
		return
	}
	if r.cfg.Signals == nil || !r.follows(m.GetFrom()) {
		return
	}
	r.trust = trust{}
	if s, ok := r.cfg.Signals.Of(from); ok {
		r.trust = trust{node: from, leader: nexusraft.ReplicaID(m.GetFrom()), signal: s}
	}
}

// vouchedFor counts a tick, and reports whether the signal of the leader's node stands for a heartbeat in it.
func (r *Replica) vouchedFor() bool {
	t := &r.trust
	if t.node == 0 {
		return false
	}
	if t.ticks++; t.ticks > r.cfg.HeartbeatTicks+1 || !r.follows(uint64(t.leader)) {
		*t = trust{}
		return false
	}
	s, ok := r.cfg.Signals.Heard(t.node)
	return ok && s == t.signal
}

// follows reports whether this replica follows a leader.
func (r *Replica) follows(leader uint64) bool {
	st := r.rn.BasicStatus()
	return st.RaftState == raft.StateFollower && st.Lead == leader
}
