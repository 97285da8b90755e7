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
// Between two heartbeats the signal stands for them. A follower or a witness that has heard its leader trusts
// the leader's node, for as many signals as a heartbeat may be late by, while they say the same as then.
// Meanwhile it is not ticked. If the node falls silent it gets the ticks that it has missed, shortly before
// they are an election timeout, as zones that sleep do; if the node says something else, at once. So a leader
// whose process dies, or that is cut off with its node, is missed as soon as if it had sent a heartbeat with
// each tick, and one that falls silent alone, while its node lives and says nothing of that, some ticks later.
// A node whose ticks take longer than those of others is heard less often, and is trusted for longer.
//
// As with sleep, safety does not depend on it: raft is safe with any ticks. A node of an earlier release gets
// as few heartbeats, and its replicas trust no signal: they have to do with two in an election timeout.

// HeartbeatInterval returns the interval of the heartbeats of a zone whose nodes send a signal in each configured
// one: three times that by default. Where it can, it leaves two of them to the shortest election timeout, and
// to the hold time, since an append that was lost is sent anew by the next one.
func HeartbeatInterval(electionTicks, heartbeatTicks, holdTicks int) int {
	return max(heartbeatTicks, min(heartbeatTicks+2, electionTicks/2, holdTicks/2))
}

// trust is what a follower or a witness rests on between two messages of its leader.
type trust struct {
	node    nexusraft.NodeID // the leader's; 0: it rests on nothing
	leader  nexusraft.ReplicaID
	signal  Signal // that of the node, when the leader was last heard
	signals int    // since then
	owed    int    // ticks since the last signal, which raft has not had
}

// noteLeader follows when the leader was last heard; raft has taken the message.
func (r *Replica) noteLeader(from nexusraft.NodeID, m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
	default:
		return
	}
	leader := nexusraft.ReplicaID(m.GetFrom())
	if r.cfg.Signals == nil || m.GetTerm() != uint64(r.Term()) || !r.follows(leader) {
		return
	}
	r.trust = trust{}
	if s, ok := r.cfg.Signals.Of(from); ok {
		r.trust = trust{node: from, leader: leader, signal: s}
	}
}

// follows reports whether this replica follows a leader.
func (r *Replica) follows(leader nexusraft.ReplicaID) bool {
	st := r.rn.BasicStatus()
	return st.RaftState == raft.StateFollower && st.Lead == uint64(leader)
}

// ticksDue returns how many ticks raft is to get for one that has passed.
func (r *Replica) ticksDue() (ticks int) {
	t := &r.trust
	if t.node == 0 {
		return 1
	}
	s, heard := r.cfg.Signals.Heard(t.node)
	switch {
	case !r.follows(t.leader):
		*t = trust{}
		return 1
	case heard && s == t.signal && t.signals <= r.cfg.HeartbeatTicks:
		t.signals, t.owed = t.signals+1, 0
		return 0
	case !heard && t.owed < r.cfg.ElectionTicks-2:
		t.owed++
		return 0
	}
	ticks = t.owed + 1
	*t = trust{}
	return ticks
}
