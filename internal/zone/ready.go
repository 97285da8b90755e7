package zone

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Work is what one round asks its driver to do, in the order of the fields' use; see the
// package comment. Entries and messages are shared with raft: they may be read until the
// round is over (messages: for as long as needed), and never changed.
type Work struct {
	// SendNow may leave before anything is stored: a leader's heartbeats, and its appends
	// and snapshots for full replicas, of a round that changes neither term nor vote (I3).
	SendNow []*pb.Message

	// Snapshot, if not nil, replaces the whole log and the state, before Append.
	Snapshot *pb.Snapshot

	// Append are entries for the log; they replace what is at their indexes and above
	// (I7).
	Append []*pb.Entry

	// HardState, if not nil, is stored in the same atomic write (I2).
	HardState *pb.HardState

	// Committed are entries to apply, in the same atomic write with their effects and
	// the applied index (I2).
	Committed []Committed

	// MustSync says that the write must be on the disk before AfterSync may leave.
	MustSync bool

	// AfterSync may leave once the write is done: vote requests, every answer, and what a
	// witness is sent of the log (I3).
	AfterSync []*pb.Message

	// Reads are indexes from which reads may be served.
	Reads []Read

	// Outcomes are proposals of this process that end without being applied here. They
	// are told after the write, as all results are.
	Outcomes []Outcome
}

// Empty reports whether there is nothing to store.
func (w *Work) Empty() bool {
	return w.Snapshot == nil && len(w.Append) == 0 && w.HardState == nil && len(w.Committed) == 0
}

// Committed is one entry to apply.
type Committed struct {
	Index nexusraft.Index
	Term  nexusraft.Term

	// Exactly one of the two is set, or neither: the empty entry of a new leader.
	Command    *Envelope
	ConfChange *pb.Entry // for ApplyConfChange

	// Waiting is the proposal of this process that the entry is the end of; zero if
	// nobody here waits for it.
	Waiting ProposalID
}

// Read is the answer to Replica.Read: a read with this context sees every write that was
// acknowledged before it was asked for, if it is served at Index or later.
type Read struct {
	Context []byte
	Index   nexusraft.Index
}

// HasWork reports whether Ready has something to say.
func (r *Replica) HasWork() bool { return r.lost != nil || r.unchecked || r.rn.HasReady() }

// Ready returns the next round of work; Advance must follow. It returns ErrCorrupt if a
// committed entry or a snapshot can't be read, or if the log has lost what it acknowledged; the
// zone must then stop.
func (r *Replica) Ready() (Work, error) {
	if r.lost != nil {
		return Work{}, r.lost
	}
	if r.inRound {
		return Work{}, fmt.Errorf("zone %v: Ready called twice without Advance", r.cfg.Zone)
	}
	r.inRound, r.unchecked = true, false
	rd := r.rn.Ready()
	w := Work{
		Append: rd.Entries, MustSync: rd.MustSync,
		Outcomes: r.proposals.observe(rd.Entries),
	}
	r.applyTo = r.applied
	if err := r.noteSnapshot(rd.Snapshot, &w); err != nil {
		return Work{}, err
	}
	if n := len(rd.Entries); n > 0 {
		r.last = nexusraft.Index(rd.Entries[n-1].GetIndex())
	}
	r.reach = r.last
	steady := r.noteHardState(rd.HardState, &w)
	r.noteRole(rd)
	r.route(rd.Messages, steady, &w)
	for _, rs := range rd.ReadStates {
		w.Reads = append(w.Reads, Read{rs.RequestCtx, nexusraft.Index(rs.Index)})
	}
	return w, r.noteCommitted(rd.CommittedEntries, &w)
}

// Advance ends the round: all of it is stored, and raft may count on it.
func (r *Replica) Advance() {
	r.applied = r.applyTo
	r.rn.Advance(raft.Ready{})
	r.inRound = false
	for _, s := range r.told {
		r.ReportSnapshot(s.to, s.ok)
	}
	r.told = r.told[:0]
}

func (r *Replica) noteSnapshot(s *pb.Snapshot, w *Work) error {
	if raft.IsEmptySnap(s) {
		return nil
	}
	if err := r.installMembership(s); err != nil {
		return err
	}
	index := nexusraft.Index(s.GetMetadata().GetIndex())
	r.last, r.applyTo = index, index
	w.Snapshot, w.MustSync = s, true
	w.Outcomes = append(w.Outcomes, r.proposals.skipTo(index)...)
	return nil
}

// noteHardState reports whether term and vote stay as they are.
func (r *Replica) noteHardState(hs *pb.HardState, w *Work) (steady bool) {
	if raft.IsEmptyHardState(hs) {
		return true
	}
	now := hardState{nexusraft.Term(hs.GetTerm()), nexusraft.ReplicaID(hs.GetVote()), nexusraft.Index(hs.GetCommit())}
	steady = now.term == r.hard.term && now.vote == r.hard.vote
	r.hard, w.HardState = now, hs
	return steady
}

// noteRole follows the soft state, and opens or ends the gate's term.
func (r *Replica) noteRole(rd raft.Ready) {
	if rd.SoftState != nil {
		r.state, r.lead = rd.RaftState, nexusraft.ReplicaID(rd.Lead)
	}
	if r.state != raft.StateLeader {
		if r.gate.term != 0 {
			r.gate.end()
		}
		return
	}
	if r.gate.term == r.hard.term {
		return
	}
	// A leader's term opens with an empty entry, the first of that term in any log.
	for _, e := range rd.Entries {
		if nexusraft.Term(e.GetTerm()) == r.hard.term {
			r.gate.begin(r.hard.term, nexusraft.Index(e.GetIndex()))
			r.asked = 0
			return
		}
	}
}

// mayLeaveEarly are the messages that promise nothing about the sender's disk (I3).
func mayLeaveEarly(m *pb.Message) bool {
	switch m.GetType() {
	case pb.MsgApp, pb.MsgHeartbeat, pb.MsgSnap:
		return true
	}
	return false
}

func (r *Replica) route(msgs []*pb.Message, steady bool, w *Work) {
	if r.gate.term != 0 {
		l := r.look()
		r.gate.evaluate(l)
		f := r.gate.filter(msgs, l, r.hard.commit, r.isWitness)
		msgs = f.messages
		r.told = append(r.told, f.snapshots...)
	} else {
		// From a leader that was deposed in the same round: nothing decides any more how
		// far the witness may see.
		msgs = slices.DeleteFunc(msgs, r.showsWitness)
	}
	for _, m := range msgs {
		r.noteAsked(m)
		if steady && mayLeaveEarly(m) && !r.showsWitness(m) {
			w.SendNow = append(w.SendNow, m)
		} else {
			w.AfterSync = append(w.AfterSync, m)
		}
	}
}

// showsWitness reports whether a message shows a witness a part of the log. It must be on
// the leader's own disk by then: where the leader has the only copy, and crashes before it
// has written what the witness has acknowledged, nobody else has the entry, and the witness
// would refuse the leader its vote for ever. (A full follower that is ahead can lead itself.)
func (r *Replica) showsWitness(m *pb.Message) bool {
	typ := m.GetType()
	return (typ == pb.MsgApp || typ == pb.MsgSnap) && r.isWitness(nexusraft.ReplicaID(m.GetTo()))
}

// noteAsked follows how many reads the heartbeats of this term ask to confirm.
func (r *Replica) noteAsked(m *pb.Message) {
	if m.GetType() == pb.MsgHeartbeat && len(m.GetContext()) == 8 {
		r.asked = max(r.asked, binary.LittleEndian.Uint64(m.GetContext()))
	}
}

func (r *Replica) noteCommitted(entries []*pb.Entry, w *Work) error {
	for _, e := range entries {
		c := Committed{Index: nexusraft.Index(e.GetIndex()), Term: nexusraft.Term(e.GetTerm())}
		switch {
		case e.GetType() != pb.EntryNormal:
			// Who restarts must know with whom: the others may be gone by then.
			c.ConfChange, w.MustSync = e, true
		case len(e.GetData()) > 0:
			env, err := DecodeEnvelope(e.GetData())
			if err != nil {
				return fmt.Errorf("zone %v, entry %d: %w", r.cfg.Zone, e.GetIndex(), err)
			}
			c.Command = &env
		}
		id, mine, lost := r.proposals.settle(c.Index, c.Term)
		if mine {
			c.Waiting = id
		}
		w.Outcomes = append(w.Outcomes, lost...)
		w.Committed = append(w.Committed, c)
		r.applyTo = c.Index
	}
	return nil
}

func (r *Replica) isWitness(id nexusraft.ReplicaID) bool {
	m, ok := r.members.Replica(id)
	return ok && m.Role == nexusraft.RoleWitness
}

func (r *Replica) isMember(id nexusraft.ReplicaID) bool {
	m, ok := r.members.Replica(id)
	return ok && m.Role == nexusraft.RoleMember
}

// look observes the zone for the gate.
func (r *Replica) look() look {
	l := look{
		last: r.last, full: make(map[nexusraft.ReplicaID]voter),
		going: !slices.Contains(r.conf.GetVoters(), uint64(r.cfg.Replica)),
	}
	for _, half := range [][]uint64{r.conf.GetVoters(), r.conf.GetVotersOutgoing()} {
		if len(half) == 0 {
			continue
		}
		ids := make([]nexusraft.ReplicaID, len(half))
		for i, id := range half {
			ids[i] = nexusraft.ReplicaID(id)
		}
		l.halves = append(l.halves, ids)
	}
	r.rn.WithProgress(func(raw uint64, _ raft.ProgressType, pr tracker.Progress) {
		id := nexusraft.ReplicaID(raw)
		if pr.IsLearner || r.isWitness(id) {
			return
		}
		self := id == r.cfg.Replica
		l.full[id] = voter{
			match:     nexusraft.Index(pr.Match),
			following: self || pr.State == tracker.StateReplicate && pr.RecentActive,
			gone:      r.gate.gone[id],
		}
	})
	return l
}
