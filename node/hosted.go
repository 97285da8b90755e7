package node

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// hosted is one zone on its worker: the step machine, its log and state, and the calls
// that wait for it. Only the worker touches it.
type hosted struct {
	w       *worker
	id      nexusraft.ZoneID
	self    nexusraft.ReplicaID
	replica *zone.Replica
	log     *raftlog.Log
	state   *storage.Tree
	overlay *storage.Overlay // effects of the round, over state
	logger  *slog.Logger

	sequence  uint64 // of the last proposal
	proposals map[zone.ProposalID]*proposal
	reads     reads
	votes     map[voteKey]*voteSlot
	from      map[nexusraft.ReplicaID]nexusraft.NodeID // who spoke for a replica that no record names yet

	staged   []*staged                               // snapshots' states, of which raft may take one up in this round
	sending  map[nexusraft.ReplicaID]nexusraft.Index // snapshots on their way: the log after them is kept
	changing bool                                    // a conf change of the node's own accord is under way
	pause    int                                     // ticks before the next one
	removed  error                                   // ErrFenced, once a conf change has taken this replica out

	events    bell          // rings for those who follow the zone's events
	term      atomic.Uint64 // of the stored hard state; anyone may look
	leader    nexusraft.ReplicaID
	sync      nexusraft.SyncState
	syncSince time.Time

	round round
}

// round is what one turn of the worker does for the zone.
type round struct {
	work    zone.Work
	answers []applied     // one for each of work.Committed
	changes []confApplied // the conf changes among them
}

// confApplied is what a conf change has made of the zone's records.
type confApplied struct {
	entry         *raftpb.Entry
	conf          *raftpb.ConfState
	before, after nexusraft.Membership
}

func openHosted(w *worker, id nexusraft.ZoneID) (*hosted, error) {
	log, err := raftlog.Open(w.node.trees.raft, id)
	if err != nil {
		return nil, fmt.Errorf("open the log of zone %v: %w", id, err)
	}
	meta := log.Meta()
	state, ok, err := w.node.store.OpenTree(meta.StateTree)
	if err != nil {
		return nil, fmt.Errorf("open the state of zone %v: %w", id, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: zone %v has no state tree %q", nexusraft.ErrCorrupt, id, meta.StateTree)
	}
	c := w.node.config
	h := &hosted{
		w: w, id: id, self: meta.Replica, log: log, state: state,
		overlay:   storage.NewOverlay(state),
		logger:    c.Logger.With("zone", id),
		proposals: make(map[zone.ProposalID]*proposal),
		votes:     make(map[voteKey]*voteSlot),
		from:      make(map[nexusraft.ReplicaID]nexusraft.NodeID),
		sending:   make(map[nexusraft.ReplicaID]nexusraft.Index),
		reads:     reads{contexts: readContexts{replica: meta.Replica, incarnation: w.node.identity().Incarnation}},
	}
	h.replica, err = zone.New(zone.Config{
		Zone: id, Replica: meta.Replica, Incarnation: w.node.identity().Incarnation,
		Storage: log, Applied: log.Applied(), Membership: meta.Membership,
		ElectionTicks: c.ElectionTicks, HeartbeatTicks: c.HeartbeatTicks, HoldTicks: c.HoldTicks,
		Logger: zone.NewLogger(c.Logger, id),
	})
	if err != nil {
		return nil, err
	}
	h.term.Store(log.HardState().GetTerm())
	w.node.publish(id, h.published())
	return h, nil
}

// published is what others may know of the zone as it is now.
func (h *hosted) published() published {
	return published{state: h.state, members: h.replica.Membership(), term: &h.term, events: &h.events}
}

// propose hands what was waiting to raft, all at once.
func (h *hosted) propose(ps []*proposal) {
	var envelopes []zone.Envelope
	var calls []*proposal
	now := h.w.node.config.Clock().UnixNano()
	for _, p := range ps {
		if !p.take() {
			continue
		}
		if p.conf != nil {
			h.proposeConf(p)
			continue
		}
		if err := h.full(); err != nil {
			p.answer(nexusraft.Result{}, err)
			continue
		}
		envelopes = append(envelopes, zone.Envelope{Proposal: h.nextID(), Request: p.request, Time: now, Own: p.own, Command: p.command})
		calls = append(calls, p)
		h.proposals[envelopes[len(envelopes)-1].Proposal] = p // before raft has it, which may panic
	}
	if len(calls) == 0 {
		return
	}
	if err := h.replica.Propose(envelopes); err != nil {
		for i, p := range calls {
			delete(h.proposals, envelopes[i].Proposal)
			p.answer(nexusraft.Result{}, noLeader(err, h.hint()))
		}
	}
}

// full returns why a leader takes no proposal: its disk is full, and a proposal would make
// its log grow. Who does not lead says so instead, as the leader's disk may have room.
func (h *hosted) full() error {
	if _, self := h.replica.Leader(); !self {
		return nil
	}
	return h.w.full
}

// behind returns whom to ask for reads while this replica, which follows, takes no entries.
func (h *hosted) behind() error {
	if id, self := h.replica.Leader(); h.w.full == nil || self || id == 0 {
		return nil
	}
	return h.hint()
}

func (h *hosted) proposeConf(p *proposal) {
	if err := h.full(); err != nil {
		p.answer(nexusraft.Result{}, err)
		return
	}
	id := h.nextID()
	p.conf.Time = h.w.node.config.Clock().UnixNano()
	if err := h.replica.ProposeConfChange(id, *p.conf); err != nil {
		p.answer(nexusraft.Result{}, noLeader(err, h.hint()))
		return
	}
	h.proposals[id] = p
}

func (h *hosted) nextID() zone.ProposalID {
	h.sequence++
	return zone.ProposalID{Replica: h.self, Incarnation: h.w.node.identity().Incarnation, Sequence: h.sequence}
}

// hint says whom to ask instead of this node.
func (h *hosted) hint() *nexusraft.NotLeaderError {
	e := &nexusraft.NotLeaderError{Zone: h.id}
	id, self := h.replica.Leader()
	if m, ok := h.replica.Membership().Replica(id); ok && !self {
		e.Leader, e.Address = m.Node, h.w.node.addressOf(m.Node, m.Address)
	}
	return e
}

// hasWork reports whether a round would do anything.
func (h *hosted) hasWork() bool { return h.replica.HasWork() || h.reads.due() }

// endUnanswered ends what raft has left unanswered in the round after it was stepped: raft
// answers at once or never.
func (h *hosted) endUnanswered() {
	h.endStaged(errSnapshotIgnored)
	for key, v := range h.votes {
		delete(h.votes, key)
		v.ignore(h, "")
	}
}

// begin starts the zone's part of a round: asks raft, sends what may leave early.
func (h *hosted) begin() error {
	if context, ok := h.reads.request(); ok {
		h.replica.Read([]byte(context))
	}
	work, err := h.replica.Ready()
	h.round = round{work: work}
	if err != nil {
		return err
	}
	h.send(work.SendNow)
	h.note()
	return nil
}

// apply runs the round's committed entries over the overlay. Nothing is staged yet, so a
// zone that must stop here leaves nothing of the round behind.
func (h *hosted) apply() error {
	for _, c := range h.round.work.Committed {
		var a applied
		var err error
		if c.Command != nil {
			a, err = applyCommand(h.w.node.config.StateMachine, h.overlay, c.Index, c.Command)
		} else if c.ConfChange != nil {
			a, err = h.applyConfChange(c.ConfChange)
		}
		if err != nil {
			return err
		}
		h.round.answers = append(h.round.answers, a)
	}
	return nil
}

// stage puts everything that the round writes into the worker's batch (I2).
func (h *hosted) stage(b *storage.Batch) error {
	w := &h.round.work
	if w.Snapshot != nil {
		if len(w.Committed) > 0 { // raft applies nothing in the round of a snapshot
			return fmt.Errorf("%w: commands to apply in the round of a snapshot", nexusraft.ErrCorrupt)
		}
		if err := h.stageSnapshot(b, w.Snapshot, w.HardState); err != nil {
			return err
		}
	}
	if err := h.log.Append(b, w.Append); err != nil {
		return err
	}
	if w.HardState != nil {
		if err := h.log.SetHardState(b, w.HardState); err != nil {
			return err
		}
		h.term.Store(w.HardState.GetTerm())
	}
	if err := h.stageApplied(b, w.Committed); err != nil {
		return err
	}
	return h.stageCompaction(b)
}

func (h *hosted) stageApplied(b *storage.Batch, committed []zone.Committed) error {
	if len(committed) == 0 {
		return nil
	}
	for _, c := range h.round.changes {
		if err := h.stageConfChange(b, c); err != nil {
			return err
		}
	}
	if err := h.overlay.WriteTo(b, h.state); err != nil {
		return err
	}
	return h.log.SetApplied(b, committed[len(committed)-1].Index)
}

// applyConfChange has raft switch to a conf change, and appends what it does to the zone's
// events, in the order of the log.
func (h *hosted) applyConfChange(e *raftpb.Entry) (applied, error) {
	c := confApplied{entry: e, before: h.replica.Membership()}
	now, err := zone.ConfChangeTime(e)
	if err != nil {
		return applied{}, err
	}
	if now, err = advanceTime(h.overlay, now); err != nil {
		return applied{}, err
	}
	if c.conf, c.after, err = h.replica.ApplyConfChange(e); err != nil {
		return applied{}, err
	}
	h.round.changes = append(h.round.changes, c)
	return applied{published: true}, publishMembers(h.overlay, now, c.before, c.after)
}

func (h *hosted) stageConfChange(b *storage.Batch, c confApplied) error {
	for _, m := range c.after.Members {
		if old, ok := c.before.Replica(m.Replica); ok && old.Address != m.Address {
			h.w.node.moved(m.Node, m.Address)
		}
	}
	if c.after.IsRemoved(h.self) {
		h.removed = h.errRemoved(nexusraft.Index(c.entry.GetIndex()))
	}
	if err := h.log.SetMembership(b, c.conf, c.after); err != nil {
		return err
	}
	h.w.node.publish(h.id, h.published())
	for _, m := range c.after.Members {
		h.logger.Info("replica", "index", c.entry.GetIndex(), "replica", m.Replica, "peer", m.Node, "role", m.Role, "addr", m.Address)
	}
	return nil
}

// errRemoved says what is left to do with a node whose replica was removed. The round that
// applies the removal is finished first, so that the directory knows of it.
func (h *hosted) errRemoved(at nexusraft.Index) error {
	who := h.w.node.self()
	m := nexusraft.Member{Node: who.Node, Name: who.Name}
	return fmt.Errorf("%w: %v was removed from zone %v of the cluster at index %d: clear %s and join as a new node",
		nexusraft.ErrFenced, m, h.id, at, h.w.node.config.Dir)
}

// stageCompaction drops the older half of a log that is over its bounds. The log after a
// snapshot that is on its way stays, or its receiver would never catch up; that has a
// bound, too.
func (h *hosted) stageCompaction(b *storage.Batch) error {
	c := h.w.node.config
	entries, bytes := h.log.Len(), h.log.Bytes()
	if entries <= c.CompactEntries && bytes <= c.CompactBytes {
		return nil
	}
	first, err := h.log.FirstIndex()
	if err != nil {
		return err
	}
	upTo := min(h.log.Applied(), nexusraft.Index(first)+nexusraft.Index(entries/2))
	if entries <= 4*c.CompactEntries && bytes <= 4*c.CompactBytes {
		for _, index := range h.sending {
			upTo = min(upTo, index)
		}
	}
	return h.log.Compact(b, upTo)
}

// finish ends the round once everything is stored: sends what had to wait, answers calls.
func (h *hosted) finish() {
	w := &h.round.work
	h.overlay.Reset()
	h.send(w.AfterSync)
	h.announce()
	for i, c := range w.Committed {
		h.settle(c, h.round.answers[i])
	}
	for _, o := range w.Outcomes {
		if p := h.proposals[o.Proposal]; p != nil {
			delete(h.proposals, o.Proposal)
			p.answer(nexusraft.Result{}, noLeader(o.Err, h.hint()))
		}
	}
	for _, r := range w.Reads {
		h.reads.confirmed(r)
	}
	h.replica.Advance()
	h.reads.serve(h.replica.Applied())
	h.round = round{}
}

// announce tells those who look at the state that there is something new, before whoever asked for it hears.
func (h *hosted) announce() {
	news := h.round.work.Snapshot != nil
	access := news
	for _, a := range h.round.answers {
		news, access = news || a.published, access || a.access
	}
	if news {
		h.events.ring()
	}
	if access && h.id == nexusraft.RootZone {
		h.w.node.access.changed()
	}
}

// settle answers the call that waits for an entry, if there is one here (I8).
func (h *hosted) settle(c zone.Committed, a applied) {
	p := h.proposals[c.Waiting]
	if p == nil {
		return
	}
	delete(h.proposals, c.Waiting)
	p.answer(nexusraft.Result{Data: a.data, Index: c.Index, Copies: h.replica.Copies(c.Index)}, a.err)
}

// note tells of changes that an operator wants to know.
func (h *hosted) note() {
	leader, self := h.replica.Leader()
	if leader != h.leader {
		h.leader = leader
		st := h.replica.Status()
		h.logger.Info("leader changed", "leader", leader, "self", self, "term", st.Term, "index", st.LastIndex)
		m, _ := h.replica.Membership().Replica(leader)
		h.w.node.events.leader(h.id, m.Node, leader, st.Term)
	}
	state, index := h.replica.Sync()
	if state != h.sync {
		h.sync, h.syncSince = state, time.Now()
		if state != nexusraft.SyncUnknown {
			h.logger.Info("sync state changed", "sync", state, "term", h.term.Load(), "index", index)
			h.w.node.events.sync(h.id, state, nexusraft.Term(h.term.Load()), index)
		}
	}
}

// tick advances the zone's time and does what only a leader does now and then.
func (h *hosted) tick() {
	h.replica.Tick()
	h.reads.tick()
	h.tendMembership()
}

// stop ends every waiting call. It does not ask raft, which may have panicked.
func (h *hosted) stop(err error) {
	for id, p := range h.proposals {
		delete(h.proposals, id)
		p.answer(nexusraft.Result{}, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err))
	}
	h.events.ring()
	h.reads.fail(err)
	h.endStaged(err)
	for key, v := range h.votes {
		delete(h.votes, key)
		v.ignore(nil, err.Error())
	}
}

func (h *hosted) status() nexusraft.ZoneStatus {
	s := h.replica.Status()
	s.Membership = h.current()
	if first, err := h.log.FirstIndex(); err == nil {
		s.FirstIndex = nexusraft.Index(first)
	}
	if s.Sync != nexusraft.SyncUnknown {
		s.SyncSince = h.syncSince
	}
	s.Snapshots = h.w.node.transfers.status(h.id)
	return s
}
