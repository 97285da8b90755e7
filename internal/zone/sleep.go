package zone

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// An idle zone sleeps: its replicas are not ticked and send nothing. Nodes tell each other that
// they are alive instead, one Signal for all zones, and package driver wakes the replicas that rest
// on a node once that is silent, is back, or says something else than before.
//
// Safety does not depend on any of this. Sleep decides only when Tick is called, and raft is safe
// with any ticks; what raft is given are plain heartbeats and their answers. What has to be shown
// is that nothing sleeps for ever while another replica waits for it.
//
// # How a zone falls asleep
//
// A leader that has had nothing to do for an election timeout asks: each of its heartbeats bears a
// mark for as long as the try takes. A follower or witness to which nothing is left to do agrees:
// it stops being ticked, and answers with the same mark. Once all replicas whose nodes are heard
// have agreed in this try, the leader sleeps, too. If one does not in an election timeout, the
// leader goes on without marks, and tries again after a pause that doubles.
//
// All of them wake by whatever they are given to do (a proposal, a read, a change, a transfer, any
// message without a mark) and by the signals. A follower rests on its leader's node, and the leader
// on the nodes of all replicas: what it says of them in its status, and the gate's state, stay
// true.
//
// # Why none is left behind
//
//   - The ask is lost, or its answer: the leader does not sleep. It asks again in the same try, or
//     gives up, and its next heartbeat, which has no mark, wakes those that sleep already.
//   - The leader wakes, and its messages are lost: it sends heartbeats again and again. If none can
//     pass no signal does, and silence wakes the followers.
//   - A follower wakes, and the leader does not know. If it has not heard the leader's node, its
//     own node's signal changes, and wakes the leader. Else it asks for votes after an election
//     timeout, as any follower that hears no leader: that wakes the leader, which answers with
//     heartbeats.
//   - A witness that wakes alone, by a message that came late say, asks for nothing: it is ticked in
//     vain, and votes, until its leader has something to do again.
//   - The leader's process dies or one of its workers stands still: it sends no signals. The followers wake
//     and get the ticks that they have missed, so that they wait no longer than awake ones. It is
//     back before they notice: its signal has another incarnation, and wakes them.
//   - The leader's replica alone stops, and its node lives: Signal.Changes rises.
//   - The leader was deposed: it is awake, as all that had a part in it are. While there is no
//     leader it campaigns, and a vote request wakes those that still sleep. If it can't reach them,
//     no signal can.
//   - A marked heartbeat comes late: it counts in its own term only, from the leader that is known,
//     and with the signal that was heard last, so not from a process that is gone. Should it put a
//     follower to sleep whose leader is awake, then the next heartbeat wakes it. A late answer is
//     of an earlier try, and does not count.
//   - A leader is cut off: it hears no signals and wakes, and steps down as a leader that nobody
//     answers.
//   - A node was away when the zone fell asleep: it is not waited for if the gate counts it as
//     lost. Its first signal wakes the leader, whose heartbeats find it.
//
// A node of an earlier release sends no signals: its zones never sleep while it runs.

// Signal is what a node tells each other node with every tick, for all zones. If it says something
// else than before, what sleeps and rests on the node is to wake.
type Signal struct {
	Incarnation nexusraft.Incarnation

	// Changes rises when a zone stops on the node alone, and when the node has woken replicas whose
	// leader it did not hear: that may sleep, and hear the node.
	Changes uint64
}

// Signals are those of the nodes that this one knows. They are asked by the replica's goroutine.
type Signals interface {
	// Own returns what this node says of itself.
	Own() Signal

	// Of returns what a node has said last; ok is false if it is not heard.
	Of(nexusraft.NodeID) (s Signal, ok bool)

	// Heard is Of in a tick; ok is false if the node has said nothing since the tick before.
	Heard(nexusraft.NodeID) (s Signal, ok bool)
}

// SilentTicks returns after how many silent ticks a node is not heard any more: before an awake
// follower would stand for election, and before the gate would count the node as lost. With the
// ticks that they have missed, replicas that sleep notice no later than awake ones.
func SilentTicks(electionTicks, heartbeatTicks, holdTicks int) int {
	return max(2, min(electionTicks-1, 2*max(holdTicks, 2*heartbeatTicks)))
}

// mark is what a leader's heartbeats bear that ask to sleep, and the answers of those that agree.
type mark struct {
	signal Signal // of the leader's node
	try    uint64 // of this leader
}

// markBytes is the length of an encoded mark. The contexts of reads, the only others that
// heartbeats have, are shorter.
const markBytes = 24

func (k mark) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markBytes), uint64(k.signal.Incarnation))
	b = binary.BigEndian.AppendUint64(b, k.signal.Changes)
	return binary.BigEndian.AppendUint64(b, k.try)
}

// markOf returns the mark of a heartbeat or of an answer to one.
func markOf(m *raftpb.Message) (k mark, ok bool) {
	b := m.GetContext()
	if typ := m.GetType(); typ != raftpb.MsgHeartbeat && typ != raftpb.MsgHeartbeatResp || len(b) != markBytes {
		return k, false
	}
	k.signal.Incarnation = nexusraft.Incarnation(binary.BigEndian.Uint64(b))
	k.signal.Changes = binary.BigEndian.Uint64(b[8:])
	k.try = binary.BigEndian.Uint64(b[16:])
	return k, true
}

// maxSleepPause bounds the pause between two tries to sleep, in election timeouts.
const maxSleepPause = 64

// sleep is how far a replica is on its way to sleep.
type sleep struct {
	asleep bool
	quiet  int  // ticks since it was last given something to do
	agrees bool // as follower: it has taken a heartbeat with the mark ask, and answers in the next round
	ask    mark // see agrees; as leader: the last try's

	// Of a leader.
	asking  bool                         // a try is under way
	ticks   int                          // since it began
	agreed  map[nexusraft.ReplicaID]bool // in this try
	pause   int                          // ticks before the next one
	backOff int                          // the pause after the next failure, in election timeouts
}

// Asleep reports whether the replica needs no ticks. It begins in a Ready, and ends with whatever
// the replica is given to do.
func (r *Replica) Asleep() bool { return r.sleep.asleep }

// Stir wakes the replica, and says that there is something to do, of which raft may not know yet.
func (r *Replica) Stir() {
	r.sleep.asleep, r.sleep.agrees, r.sleep.asking, r.sleep.quiet = false, false, false, 0
}

// RestsOn reports whether a replica that sleeps relies on a node: on its leader's, or as leader on
// those of all replicas. The driver wakes it when the node is heard no more or again, or says
// something else.
func (r *Replica) RestsOn(node nexusraft.NodeID) bool {
	m, ok := r.members.Node(node)
	leader, self := r.Leader()
	return ok && (self || m.Replica == leader)
}

// tickSleep begins and ends a leader's tries.
func (r *Replica) tickSleep() {
	s := &r.sleep
	s.quiet++
	if s.pause > 0 {
		s.pause--
	}
	switch {
	case r.cfg.Signals == nil || !r.leads():
		s.asking = false
	case s.asking:
		if s.ticks++; s.ticks > 2*r.cfg.HeartbeatTicks+r.cfg.ElectionTicks {
			s.asking, s.pause = false, s.backOff*r.cfg.ElectionTicks
			s.backOff = min(2*s.backOff, maxSleepPause)
		}
	case s.pause == 0 && s.quiet >= r.cfg.ElectionTicks && r.idle(false):
		s.asking, s.ticks, s.agreed = true, 0, make(map[nexusraft.ReplicaID]bool)
		s.ask = mark{r.cfg.Signals.Own(), s.ask.try + 1}
		r.unchecked = true // perhaps there is nobody to ask
	}
}

// heed wakes the replica if a message that raft is about to get is to do so, and takes the mark off
// it.
func (r *Replica) heed(from nexusraft.NodeID, m *raftpb.Message) {
	s := &r.sleep
	k, marked := markOf(m)
	if marked {
		m.Context = nil
	}
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		if marked && r.mayAgree(from, m, k) {
			s.agrees, s.ask = true, k
			return
		}
		s.asleep, s.agrees = false, false
	case raftpb.MsgHeartbeatResp:
		if marked {
			if s.asking && k == s.ask && m.GetTerm() == uint64(r.hard.term) {
				s.agreed[nexusraft.ReplicaID(m.GetFrom())] = true
				r.unchecked = true // perhaps it was the last one
			}
			return
		}
		if s.asleep { // it was asked again, and has something to do now
			r.Stir()
		}
	default:
		r.Stir()
	}
}

// mayAgree reports whether this replica has nothing to do, as far as is known before raft has the
// heartbeat that asks.
func (r *Replica) mayAgree(from nexusraft.NodeID, m *raftpb.Message, k mark) bool {
	if r.cfg.Signals == nil {
		return false
	}
	heard, ok := r.cfg.Signals.Of(from)
	st := r.rn.BasicStatus()
	return ok && heard == k.signal && r.sleep.quiet > 0 && st.RaftState == raft.StateFollower &&
		st.Lead == m.GetFrom() && st.GetTerm() == m.GetTerm() && nexusraft.Index(m.GetCommit()) == r.last &&
		r.RestsOn(from)
}

// settleSleep ends a round: it puts the marks on its messages, and decides whether the replica
// sleeps from now on.
func (r *Replica) settleSleep(w *Work) {
	s := &r.sleep
	rests := w.Empty() && len(w.Outcomes) == 0 && len(w.Reads) == 0 && r.atRest()
	agrees := s.agrees && rests
	s.agrees = false
	for _, messages := range [][]*raftpb.Message{w.SendNow, w.AfterSync} {
		for _, m := range messages {
			switch typ := m.GetType(); {
			case typ == raftpb.MsgHeartbeat && s.asking && m.Context == nil:
				m.Context = s.ask.encode()
			case typ == raftpb.MsgHeartbeatResp && agrees && m.Context == nil && nexusraft.ReplicaID(m.GetTo()) == r.lead:
				m.Context = s.ask.encode()
			default:
				rests = false
			}
		}
	}
	switch {
	case !rests:
		s.asleep = false
	case agrees:
		s.asleep = true
	case s.asking && !s.asleep && r.leads() && r.cfg.Signals.Own() == s.ask.signal && r.idle(true):
		s.asleep, s.backOff = true, 1
	}
}

// atRest reports whether everything in the log is committed and applied, and no proposal waits.
func (r *Replica) atRest() bool {
	p := &r.proposals
	return r.applied == r.last && r.hard.commit == r.last &&
		len(p.fresh)+len(p.paired)+len(p.ended)+len(r.told) == 0
}

// idle reports whether a leader has nothing to do, and none of its replicas lacks anything; agreed:
// and all of them have agreed in this try. One whose node is not heard lacks what it will, and is
// not asked: it must count as lost for the gate, and a quorum must be heard.
func (r *Replica) idle(agreed bool) bool {
	st := r.rn.BasicStatus()
	if !r.TermApplied() || !r.atRest() || r.Joint() || st.LeadTransferee != 0 ||
		nexusraft.Index(st.GetCommit()) != r.last {
		return false
	}
	idle, votes, heard, voters, lost := true, false, 0, 0, false
	r.rn.WithProgress(func(raw uint64, typ raft.ProgressType, pr tracker.Progress) {
		id, voter := nexusraft.ReplicaID(raw), typ == raft.ProgressTypePeer
		self := id == r.cfg.Replica
		m, _ := r.members.Replica(id)
		_, hears := r.cfg.Signals.Of(m.Node)
		if voter {
			voters++
			if self || hears {
				heard++
			}
		}
		switch {
		case self:
			votes = voter
		case hears:
			idle = idle && nexusraft.Index(pr.Match) == r.last && pr.State == tracker.StateReplicate && r.active(id) &&
				(!agreed || r.sleep.agreed[id])
		default:
			idle = idle && r.gate.Silent(id)
			lost = lost || voter && m.Role != nexusraft.RoleWitness
		}
	})
	state, _ := r.gate.State()
	return idle && votes && heard > voters/2 && (state == nexusraft.InSync || state == nexusraft.Degraded && lost)
}
