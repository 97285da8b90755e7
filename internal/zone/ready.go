package zone

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone/gate"
)

// Work is what one round asks its driver to do, in the order of the fields' use; see the
// package comment. Entries and messages are shared with raft: they may be read until the
// round is over (messages: for as long as needed), and never changed.
type Work struct {
	// SendNow may leave before anything is stored: a leader's heartbeats, and its appends
	// and snapshots for full replicas, of a round that changes neither term nor vote, unless
	// they tell of the commit of a conf change that this round applies (I3).
	SendNow []*raftpb.Message

	// Snapshot, if not nil, replaces the whole log and the state, before Append.
	Snapshot *raftpb.Snapshot

	// Append are entries for the log; they replace what is at their indexes and above
	// (I7).
	Append []*raftpb.Entry

	// HardState, if not nil, is stored in the same atomic write (I2).
	HardState *raftpb.HardState

	// Committed are entries to apply, in the same atomic write with their effects and
	// the applied index (I2): one after the other, of an entry with several commands each of them.
	Committed []Committed

	// MustSync says that the write must be on the disk before AfterSync may leave.
	MustSync bool

	// AfterSync may leave once the write is done: vote requests, every answer, what a witness is
	// sent of the log, and what tells of a conf change (I3).
	AfterSync []*raftpb.Message

	// Reads are indexes from which reads may be served.
	Reads []Read

	// Outcomes are proposals of this process that end without being applied here. They
	// are reported after the write, as all results are.
	Outcomes []Outcome
}

// Empty reports whether there is nothing to store.
func (w *Work) Empty() bool {
	return w.Snapshot == nil && len(w.Append) == 0 && w.HardState == nil && len(w.Committed) == 0
}

// Committed is one entry to apply, or one command of an entry that has several: those follow each
// other, with the same index and term, and are stored together.
type Committed struct {
	Index nexusraft.Index
	Term  nexusraft.Term

	// Exactly one of the two is set, or neither: the empty entry of a new leader.
	Command    *Envelope
	ConfChange *raftpb.Entry // for ApplyConfChange

	// Waiting is the proposal of this process that the command resolves; zero if there is none.
	Waiting ProposalID
}

// Continues reports whether it belongs to the same entry as the one before it.
func (c *Committed) Continues() bool { return c.Command != nil && c.Command.Place > 0 }

// Read is the answer to Replica.Read: a read with this context sees every write that was
// acknowledged before it was asked for, if it is served at Index or later.
type Read struct {
	Context []byte
	Index   nexusraft.Index
}

// HasWork reports whether Ready has something to return.
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
	unchecked := r.unchecked
	r.inRound, r.unchecked = true, false
	rd := r.rn.Ready()
	w := Work{
		Append: rd.Entries, MustSync: rd.MustSync,
		Outcomes: append(r.proposals.ended, r.proposals.observe(rd.Entries)...),
	}
	r.proposals.ended = nil
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
	r.route(rd, steady, unchecked, &w)
	for _, rs := range rd.ReadStates {
		w.Reads = append(w.Reads, Read{rs.RequestCtx, nexusraft.Index(rs.Index)})
	}
	if err := r.noteCommitted(rd.CommittedEntries, &w); err != nil {
		return w, err
	}
	r.settleSleep(&w)
	return w, nil
}

// Advance ends the round: its writes are stored, and raft may rely on them.
func (r *Replica) Advance() {
	r.applied = r.applyTo
	r.rn.Advance(raft.Ready{})
	r.inRound = false
	for _, s := range r.told {
		r.ReportSnapshot(s.To, s.OK)
	}
	r.told = r.told[:0]
}

func (r *Replica) noteSnapshot(s *raftpb.Snapshot, w *Work) error {
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
func (r *Replica) noteHardState(hs *raftpb.HardState, w *Work) (steady bool) {
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
		if r.gate.Term() != 0 {
			r.gate.End()
		}
		return
	}
	if r.gate.Term() == r.hard.term {
		return
	}
	// A leader's term opens with an empty entry, the first of that term in any log.
	for _, e := range rd.Entries {
		if nexusraft.Term(e.GetTerm()) == r.hard.term {
			r.gate.Begin(r.hard.term, nexusraft.Index(e.GetIndex()))
			r.asked = 0
			return
		}
	}
}

// mayLeaveEarly are the messages that promise nothing about the sender's disk (I3).
func mayLeaveEarly(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		return true
	}
	return false
}

func (r *Replica) route(rd raft.Ready, steady, unchecked bool, w *Work) {
	msgs, b := rd.Messages, r.barrier(rd.CommittedEntries)
	if r.gate.Term() != 0 && !unchecked && r.votingBy == r.conf && r.gate.Holds(msgs, r.isWitness) {
		msgs = r.gate.Hold(msgs, r.isWitness)
	} else if r.gate.Term() != 0 {
		p := r.voters()
		r.gate.Evaluate(p)
		f := r.gate.Filter(msgs, p, r.hard.commit, r.isWitness)
		msgs = f.Messages
		r.told = append(r.told, f.Snapshots...)
	} else {
		// From a leader that was deposed in the same round: without a gate nothing says how far
		// the witness may see.
		msgs = slices.DeleteFunc(msgs, r.showsWitness)
	}
	for _, m := range msgs {
		r.noteAsked(m)
		b.bound(m)
		if steady && mayLeaveEarly(m) && !r.showsWitness(m) && !b.tells(m) {
			w.SendNow = append(w.SendNow, m)
		} else {
			w.AfterSync = append(w.AfterSync, m)
		}
	}
}

// barrier is what a leader's messages of one round may tell of the commit index (I3).
//
// A replica that learns of its removal is gone for good. If the leader crashes before it has stored
// the change, it restarts in the old configuration, and may need the vote of the removed replica:
// no leader could be elected any more. So no message tells of the commit of a conf change before
// the change is on the leader's own disk: neither in the round that applies it, nor in earlier
// rounds, if the leader applies less at once than is committed.
type barrier struct {
	applies nexusraft.Index // what is applied once the round is stored: the highest commit that its messages name
	change  nexusraft.Index // the first conf change among that; 0 if there is none, or if any message may tell of it
}

// barrier returns that of the round that applies these entries. A leader that the change removes,
// elected while its own removal was under way, is an exception: the change ends it, and the others
// must know before that. Otherwise, one of two members would still need its vote, as it does if all
// its messages are lost.
func (r *Replica) barrier(committed []*raftpb.Entry) (b barrier) {
	b.applies = r.applied
	for _, e := range committed {
		b.applies = nexusraft.Index(e.GetIndex())
		if e.GetType() != raftpb.EntryNormal && b.change == 0 {
			b.change = b.applies
		}
	}
	if !slices.Contains(r.conf.GetVoters(), uint64(r.cfg.Replica)) {
		b.change = 0
	}
	return b
}

// bound lowers a message's commit index to what the round applies. The next heartbeat has the rest.
func (b barrier) bound(m *raftpb.Message) {
	if tellsCommit(m) && nexusraft.Index(m.GetCommit()) > b.applies {
		m.Commit = new(uint64(b.applies))
	}
}

// tells reports whether a message must wait until the round is stored.
func (b barrier) tells(m *raftpb.Message) bool {
	return b.change != 0 && tellsCommit(m) && nexusraft.Index(m.GetCommit()) >= b.change
}

func tellsCommit(m *raftpb.Message) bool {
	return m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgHeartbeat
}

// showsWitness reports whether a message shows a witness a part of the log. That part must be on the
// leader's own disk first: if the leader has the only copy, and crashes before it has written what
// the witness has acknowledged, no replica has the entry, and the witness refuses the leader its
// vote for ever. (A full follower that is ahead can lead itself.)
func (r *Replica) showsWitness(m *raftpb.Message) bool {
	typ := m.GetType()
	return (typ == raftpb.MsgApp || typ == raftpb.MsgSnap) && r.isWitness(nexusraft.ReplicaID(m.GetTo()))
}

// noteAsked follows how many reads the heartbeats of this term ask to confirm.
func (r *Replica) noteAsked(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgHeartbeat && len(m.GetContext()) == 8 {
		r.asked = max(r.asked, binary.LittleEndian.Uint64(m.GetContext()))
	}
}

func (r *Replica) noteCommitted(entries []*raftpb.Entry, w *Work) error {
	for _, e := range entries {
		c := Committed{Index: nexusraft.Index(e.GetIndex()), Term: nexusraft.Term(e.GetTerm())}
		var commands []Envelope
		var err error
		switch {
		case e.GetType() != raftpb.EntryNormal:
			// Synced: a restarted replica must know the new configuration; the others may be gone.
			c.ConfChange, w.MustSync = e, true
		case len(e.GetData()) > 0:
			if commands, err = DecodeEntry(e.GetData()); err != nil {
				return fmt.Errorf("zone %v, entry %d: %w", r.cfg.Zone, e.GetIndex(), err)
			}
		}
		id, mine, lost := r.proposals.settle(c.Index, c.Term)
		if mine {
			c.Waiting = id
		}
		w.Outcomes = append(w.Outcomes, lost...)
		w.add(c, commands)
		r.applyTo = c.Index
	}
	return nil
}

// add takes a committed entry in. Its Waiting is that of the first of its commands.
func (w *Work) add(c Committed, commands []Envelope) {
	if len(commands) == 0 {
		w.Committed = append(w.Committed, c)
		return
	}
	first := c.Waiting
	for i := range commands {
		c.Command = &commands[i]
		if first != (ProposalID{}) {
			c.Waiting = first.plus(i)
		}
		w.Committed = append(w.Committed, c)
	}
}

func (r *Replica) isWitness(id nexusraft.ReplicaID) bool {
	m, ok := r.members.Replica(id)
	return ok && m.Role == nexusraft.RoleWitness
}

func (r *Replica) isMember(id nexusraft.ReplicaID) bool {
	m, ok := r.members.Replica(id)
	return ok && m.Role == nexusraft.RoleMember
}

// halves returns the voters of a configuration, of both halves of a joint one.
func halves(conf *raftpb.ConfState) (all [][]nexusraft.ReplicaID) {
	for _, half := range [][]uint64{conf.GetVoters(), conf.GetVotersOutgoing()} {
		if len(half) == 0 {
			continue
		}
		ids := make([]nexusraft.ReplicaID, len(half))
		for i, id := range half {
			ids[i] = nexusraft.ReplicaID(id)
		}
		all = append(all, ids)
	}
	return all
}

// voters returns what the gate goes by: how far each voter is. Each round of a leader asks, so it is always in the
// same memory: it is borrowed until the next call.
func (r *Replica) voters() gate.Voters {
	p := &r.voting
	if p.Full == nil {
		p.Full = make(map[nexusraft.ReplicaID]gate.Voter)
	}
	clear(p.Full)
	p.Last = r.last
	if r.votingBy != r.conf {
		r.votingBy, p.Halves = r.conf, halves(r.conf)
		p.Leaving = !slices.Contains(r.conf.GetVoters(), uint64(r.cfg.Replica))
	}
	r.rn.WithProgress(func(raw uint64, _ raft.ProgressType, pr tracker.Progress) {
		id := nexusraft.ReplicaID(raw)
		if pr.IsLearner || r.isWitness(id) {
			return
		}
		self := id == r.cfg.Replica
		p.Full[id] = gate.Voter{
			Match:     nexusraft.Index(pr.Match),
			Following: self || pr.State == tracker.StateReplicate && pr.RecentActive,
			Silent:    !self && r.gate.Silent(id),
			Gone:      r.gate.Gone(id),
		}
	})
	return *p
}
