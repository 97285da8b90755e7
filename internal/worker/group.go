package worker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/leading"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// group is one zone on its worker, and its group's owner: log and state, and what the node makes of
// it. Only the worker touches it.
type group struct {
	w       *worker
	id      nexusraft.ZoneID
	self    nexusraft.ReplicaID
	group   *driver.Group
	replica *zone.Replica // the group's
	log     *raftlog.Log
	state   *storage.Tree
	overlay *storage.Overlay // effects that are not staged yet, over state
	logger  *slog.Logger
	clock   func() time.Time

	kind       string                 // the name of its state machine; "" of the root zone's
	configured nexusraft.StateMachine // as Options have it
	machine    apply.Machine          // as it applies commands
	leads      nexusraft.Leading      // the same; nil if it has no Lead
	led        *leading.Lead          // the call of Lead that has not returned; nil if there is none
	ledTerm    nexusraft.Term         // in which Lead has returned by itself

	envelopes []zone.Envelope // being handed to raft; empty otherwise, and kept for its memory
	calls     []driver.Call

	received  []*snapshot.Received                    // snapshots' states, of which raft may take one up in this round
	sending   map[nexusraft.ReplicaID]nexusraft.Index // snapshots on their way: the log after them is kept
	changing  bool                                    // a conf change of the node's own accord is under way
	pause     int                                     // ticks before the next one
	check     system.Digest                           // which the members have not compared; the zero value: none
	campaign  int                                     // ticks until it stands for election, if it is to do so by itself
	removed   error                                   // ErrFenced, once a conf change has taken this replica out
	placement *placement                              // what the root zone's record says of it; nil of the root zone
	settled   settled                                 // a placement that the zone's replicas are those of
	unfit     error                                   // why the state machine can't go on from a snapshot

	recent    recentPlace
	events    events.Notifier // of new events of the zone, and of its end
	applied   events.Notifier // of what it has applied, and of its end
	term      atomic.Uint64   // of the stored hard state; anyone may look
	hasLeader atomic.Bool     // as leader says; anyone may look
	leader    nexusraft.ReplicaID
	sync      nexusraft.SyncState
	syncSince time.Time

	unwritten unwritten
	switching *raftpb.Snapshot // raft's, staged and not written yet
}

// unwritten is what the entries say to the world that are applied and not written yet.
type unwritten struct {
	changes []confApplied
	news    bool // there are new events
	access  bool // who may do what has changed
	zones   bool // a zone was made or deleted, or the cluster's version raised
	deleted []nexusraft.ZoneID
	changed []nexusraft.ZoneID // their records
	records []*system.ZoneChange
	told    []accessChange
	notes   []nexusraft.Note // for the call of Lead; at most leading.MaxNotes/2 and those of one command
}

// zone takes over what a command has made of a zone.
func (u *unwritten) zone(c *system.ZoneChange) {
	u.records = append(u.records, c)
	switch {
	case c.Record == nil:
		u.deleted = append(u.deleted, c.Zone)
	case !c.Made():
		u.changed = append(u.changed, c.Zone)
	}
}

// accessChange is a change of who may do what, of the zones, or of the version of a state machine, for the log.
type accessChange struct {
	what, change, by string
	index            nexusraft.Index
}

// confApplied is what a conf change has made of the zone's records.
type confApplied struct {
	entry         *raftpb.Entry
	conf          *raftpb.ConfState
	before, after nexusraft.Membership
}

// openGroup opens a replica from its log and state; openMachine is to follow. kind is the name of its state
// machine, "" of the root zone's.
func openGroup(w *worker, id nexusraft.ZoneID, kind string) (*group, error) {
	log, err := raftlog.Open(w.o.Dir.Raft, id)
	if err != nil {
		return nil, fmt.Errorf("open the log of zone %v: %w", id, err)
	}
	log.Share(w.o.Dir.Entries)
	meta := log.Meta()
	state, ok, err := w.o.Dir.Store.OpenTree(meta.StateTree)
	if err != nil {
		return nil, fmt.Errorf("open the state of zone %v: %w", id, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: zone %v has no state tree %q", nexusraft.ErrCorrupt, id, meta.StateTree)
	}
	if err := w.countIfAlone(meta.Replica, meta.ConfState); err != nil {
		return nil, err
	}
	c := &w.o
	g := &group{
		w: w, id: id, self: meta.Replica, log: log, state: state, kind: kind, configured: w.machine(kind),
		overlay: storage.NewOverlay(state),
		logger:  c.Logger.With("zone", id), clock: c.Clock,
		sending: make(map[nexusraft.ReplicaID]nexusraft.Index),
	}
	g.group, err = driver.NewGroup(driver.Config{Owner: g, ReadTicks: readElections * c.ElectionTicks, Config: zone.Config{
		Zone: id, Replica: meta.Replica, Incarnation: w.o.Peering.Self().Incarnation,
		Storage: log, Applied: log.Applied(), Membership: meta.Membership,
		Vouched:       w.o.Peering.Vouched,
		Batches:       g.batches,
		Signals:       w.neighbors,
		ElectionTicks: c.ElectionTicks, HeartbeatTicks: c.HeartbeatTicks, HoldTicks: c.HoldTicks,
		Logger: zone.NewLogger(c.Logger, id),
	}, Lease: w.leases()})
	if err != nil {
		return nil, err
	}
	g.replica = g.group.Replica()
	g.term.Store(log.HardState().GetTerm())
	w.o.Replicas.Publish(id, g.published())
	return g, nil
}

// countIfAlone counts the opening once a replica is its zone's only voter: its commands bear the
// incarnation, and it needs no peer for them.
func (w *worker) countIfAlone(self nexusraft.ReplicaID, conf *raftpb.ConfState) error {
	if voters := conf.GetVoters(); len(voters) != 1 || voters[0] != uint64(self) {
		return nil
	}
	return w.o.Peering.Count()
}

// published is what others may know of the zone as it is now.
func (g *group) published() replicas.Known {
	return replicas.Known{
		Machine: g.configured, State: g.state, Members: g.replica.Membership(), Term: &g.term, Led: &g.hasLeader,
		Fresh: g.group.Freshness(), Lease: g.group.Lease(), Events: &g.events, Applied: &g.applied,
	}
}

// propose hands what was waiting to raft, conf changes first: raft may panic over one, and what
// was not taken by then is still in the worker's hands.
func (g *group) propose(ps []*propose.Call) {
	for _, p := range ps {
		if p.Conf != nil && p.Take() {
			g.proposeConf(p)
		}
	}
	now := g.clock().UnixNano()
	for _, p := range ps {
		if p.Conf != nil || !p.Take() {
			continue
		}
		if err := cmp.Or(g.permits(p.Requester), g.permitsSession(p), g.full(), g.inTerm(p.Term)); err != nil {
			p.Answer(nexusraft.Result{}, err)
			continue
		}
		g.envelopes = append(g.envelopes, zone.Envelope{
			Request: p.Request, Time: now, Own: p.Own, Command: p.Command,
			Alone: !p.Own && apply.Alone(g.machine.StateMachine, p.Command),
		})
		g.calls = append(g.calls, p)
	}
	if c := g.takeCheck(); c != nil {
		g.envelopes = append(g.envelopes, zone.Envelope{Time: now, Own: true, Command: c})
		g.calls = append(g.calls, nil)
	}
	driver.Propose(g.group, g.envelopes, g.calls)
	clear(g.envelopes)
	clear(g.calls)
	g.envelopes, g.calls = g.envelopes[:0], g.calls[:0]
}

// inTerm returns ErrNotLeader if this replica is not in a term; 0 stands for any.
func (g *group) inTerm(term nexusraft.Term) error {
	if now := g.replica.Term(); term != 0 && term != now {
		return fmt.Errorf("%w of zone %v in term %v, this is term %v", nexusraft.ErrNotLeader, g.id, term, now)
	}
	return nil
}

// full returns why a leader takes no proposal: its disk is full, and a proposal would make
// its log grow. A replica that does not lead says so instead, as the leader's disk may have room.
func (g *group) full() error {
	if _, self := g.replica.Leader(); !self {
		return nil
	}
	return g.w.full
}

// behind returns whom to ask for reads while this replica, which follows, takes no entries.
func (g *group) behind() error {
	if id, self := g.replica.Leader(); g.w.full == nil || self || id == 0 {
		return nil
	}
	return g.hint()
}

func (g *group) proposeConf(p *propose.Call) {
	if err := g.full(); err != nil {
		p.Answer(nexusraft.Result{}, err)
		return
	}
	p.Conf.Time = g.clock().UnixNano()
	_ = driver.ProposeConfChange(g.group, *p.Conf, p) // p hears of it
}

// Refusal implements driver.Owner.
func (g *group) Refusal(err error) error { return noLeader(err, g.hint()) }

// noLeader makes a zone's "not leader" say whom to ask.
func noLeader(err error, hint *nexusraft.NotLeaderError) error {
	if errors.Is(err, nexusraft.ErrNotLeader) {
		return hint
	}
	return err
}

// hint says whom to ask instead of this node.
func (g *group) hint() *nexusraft.NotLeaderError {
	e := &nexusraft.NotLeaderError{Zone: g.id}
	id, self := g.replica.Leader()
	if m, ok := g.replica.Membership().Replica(id); ok && !self {
		e.Leader, e.Address = m.Node, g.w.o.Peering.AddressOf(m.Node, m.Address)
	}
	return e
}

// Began implements driver.Owner: it tells of changes that an operator wants to know.
func (g *group) Began(*zone.Work) {
	leader, self := g.replica.Leader()
	g.noLongerLeads(self)
	if leader != g.leader {
		g.leader = leader
		g.hasLeader.Store(leader != 0)
		st := g.replica.Status()
		g.logger.Info("leader changed", "leader", leader, "self", self, "term", st.Term, "index", st.LastIndex)
		m, _ := g.replica.Membership().Replica(leader)
		g.w.o.Events.Leader(g.id, m.Node, leader, st.Term)
	}
	state, index := g.replica.Sync()
	if state != g.sync {
		g.sync, g.syncSince = state, time.Now()
		if state != nexusraft.SyncUnknown {
			g.logger.Info("sync state changed", "sync", state, "term", g.term.Load(), "index", index)
			g.w.o.Events.Sync(g.id, state, nexusraft.Term(g.term.Load()), index)
		}
	}
}

// Apply implements driver.Owner. Nothing of the part is staged yet, so a zone that must stop here
// leaves nothing of it behind.
func (g *group) Apply(c *zone.Committed, wanted bool) (driver.Applied, error) {
	a, err := g.applyOne(c)
	switch {
	case errors.Is(err, apply.ErrMachine), errors.Is(err, errMachine), isDiverged(err):
		return driver.Applied{}, &driver.GroupError{Err: err}
	case err != nil:
		return driver.Applied{}, err
	case !wanted:
		a.Data = nil // it may be large, and on most replicas nobody waits for it
	}
	g.compared(a)
	g.unwritten.news, g.unwritten.access = g.unwritten.news || a.Published, g.unwritten.access || a.Access
	g.unwritten.zones = g.unwritten.zones || a.Zones
	if a.Zone != nil {
		g.unwritten.zone(a.Zone)
	}
	g.hear(c.Index, a.Notes)
	if a.Change != "" {
		what := "access changed"
		switch {
		case a.Zones:
			what = "zones changed"
		case a.MachineVersion != 0:
			what = "state machine changed"
		}
		g.unwritten.told = append(g.unwritten.told, accessChange{what, a.Change, a.By, c.Index})
	}
	return driver.Applied{Data: a.Data, Err: a.Err, First: a.First}, nil
}

// Held implements driver.Owner.
func (g *group) Held() int { return g.overlay.Bytes() }

func (g *group) applyOne(c *zone.Committed) (apply.Effects, error) {
	switch {
	case c.Command != nil:
		a, err := apply.Command(g.machine, g.overlay, c.Index, c.Command)
		if a.MachineVersion != 0 && err == nil {
			g.machine.Version, err = a.MachineVersion, g.knows(a.MachineVersion)
		}
		return a, err
	case c.ConfChange != nil:
		return g.applyConfChange(c.ConfChange)
	}
	return apply.Nothing(g.overlay, c.Index)
}

// Stage implements driver.Owner: everything that the part writes goes into the worker's batch (I2).
func (g *group) Stage(p *driver.Part) error {
	b := g.w.batch
	if p.Work != nil {
		if err := g.stageLog(b, p.Work); err != nil {
			return err
		}
	}
	if err := g.stageApplied(b, p.Committed); err != nil {
		return err
	}
	return g.stageCompaction(b)
}

// stageLog stages what the round writes besides what it applies.
func (g *group) stageLog(b *storage.Batch, w *zone.Work) error {
	if w.Snapshot != nil {
		g.settled = settled{}
		if err := g.stageSnapshot(b, w.Snapshot, w.HardState); err != nil {
			return err
		}
		g.switching, g.w.switching = w.Snapshot, append(g.w.switching, g)
	}
	if err := g.log.Append(b, w.Append); err != nil {
		return err
	}
	if w.HardState == nil {
		return nil
	}
	if err := g.log.SetHardState(b, w.HardState); err != nil {
		return err
	}
	g.term.Store(w.HardState.GetTerm())
	return nil
}

func (g *group) stageApplied(b *storage.Batch, committed []zone.Committed) error {
	if len(committed) == 0 {
		return nil
	}
	for _, c := range g.unwritten.changes {
		if err := g.stageConfChange(b, c); err != nil {
			return err
		}
	}
	if err := g.overlay.WriteTo(b, g.state); err != nil {
		return err
	}
	return g.log.SetApplied(b, committed[len(committed)-1].Index)
}

// applyConfChange has raft switch to a conf change, and appends what it does to the zone's
// events, in the order of the log.
func (g *group) applyConfChange(e *raftpb.Entry) (apply.Effects, error) {
	c := confApplied{entry: e, before: g.replica.Membership()}
	g.settled = settled{}
	now, err := zone.ConfChangeTime(e)
	if err != nil {
		return apply.Effects{}, err
	}
	if c.conf, c.after, err = g.group.ApplyConfChange(e); err != nil {
		return apply.Effects{}, err
	}
	if err := g.w.countIfAlone(g.self, c.conf); err != nil {
		return apply.Effects{}, err
	}
	g.unwritten.changes = append(g.unwritten.changes, c)
	return apply.Members(g.overlay, nexusraft.Index(e.GetIndex()), now, c.before, c.after)
}

func (g *group) stageConfChange(b *storage.Batch, c confApplied) error {
	for _, m := range c.after.Members {
		if old, ok := c.before.Replica(m.Replica); ok && old.Address != m.Address {
			g.w.o.Peering.Moved(m.Node, m.Address)
		}
	}
	if c.after.IsRemoved(g.self) {
		g.removed = g.errRemoved(nexusraft.Index(c.entry.GetIndex()))
	}
	if err := g.log.SetMembership(b, c.conf, c.after); err != nil {
		return err
	}
	g.w.o.Replicas.Publish(g.id, g.published())
	for _, m := range c.after.Members {
		g.logger.Info("replica", "index", c.entry.GetIndex(), "replica", m.Replica, "peer", m.Node, "role", m.Role, "addr",
			m.Address)
	}
	return nil
}

// errRemoved says what is left to do with a node whose replica was removed. The round that
// applies the removal is finished first, so that the directory knows of it.
func (g *group) errRemoved(at nexusraft.Index) error {
	who := g.w.o.Peering.Self()
	m := nexusraft.Member{Node: who.Node, Name: who.Name}
	return fmt.Errorf("%w: %v was removed from zone %v of the cluster at index %d: clear %s and join as a new node",
		nexusraft.ErrFenced, m, g.id, at, g.w.o.Path)
}

// stageCompaction drops the older half of a log that is over its bounds.
func (g *group) stageCompaction(b *storage.Batch) error {
	c := &g.w.o
	return g.log.CompactOver(b, c.CompactEntries, c.CompactBytes, maps.Values(g.sending))
}

// Written implements driver.Owner: it tells the readers of the state that there is something new,
// before the proposers hear.
func (g *group) Written(p *driver.Part) {
	g.overlay.Reset()
	whole := p.Snapshot() != nil
	if whole {
		g.unfit, g.check = g.openMachine(), system.Digest{}
	}
	g.tellNotes()
	for _, c := range g.unwritten.told {
		g.logger.Info(c.what, "change", c.change, "by", c.by, "index", c.index)
	}
	if (whole || g.unwritten.access) && g.id == nexusraft.RootZone {
		g.w.o.Access.Changed() // first, so that no event is sent by older records
	}
	if (whole || g.unwritten.zones) && g.id == nexusraft.RootZone {
		g.w.o.Records(whole, g.unwritten.records) // first, so that whoever is notified knows them
		g.w.news.add(zonesNews{look: true, compare: whole, deleted: g.unwritten.deleted, changed: g.unwritten.changed})
		g.w.o.ZonesChanged.Notify()
	}
	if whole || g.unwritten.news {
		g.events.Notify()
	}
	if whole || len(p.Committed) > 0 {
		g.applied.Notify()
	}
	g.unwritten = unwritten{}
}

// Ended implements driver.Owner. A node that was removed from the root zone is out of the cluster; one
// that was removed from another zone is about to be.
func (g *group) Ended() error {
	if g.id == nexusraft.RootZone {
		g.w.tellOfZones(g)
	}
	switch {
	case g.removed != nil && g.id == nexusraft.RootZone:
		return g.removed
	case g.removed != nil && g.placement != nil && g.placement.shaped:
		g.w.leave(g)
	case g.removed != nil || g.unfit != nil:
		g.w.fail(g, cmp.Or(g.removed, g.unfit))
	default:
		g.lead()
		g.noteLed()
	}
	return nil
}

// Failed implements driver.Owner.
func (g *group) Failed(err error) { g.w.fail(g, g.diverged(err)) }

// tick advances the zone's time and does what only a leader does now and then.
func (g *group) tick() {
	g.group.Tick()
	if g.campaign > 0 {
		if g.campaign--; g.campaign == 0 && g.leader == 0 {
			_ = g.replica.Campaign() // otherwise an election timeout passes
		}
	}
	g.w.o.Forwards.Tick(g.id, g.leadingNode(), g.w.o.ElectionTicks)
	if g.check.Index != 0 {
		g.propose(nil) // no command has taken it along
	}
	g.tendMembership()
	if g.changing || g.pause > 0 || g.campaign > 0 || g.moves() {
		g.replica.Stir() // these wait for ticks
	}
}

// leadingNode returns the node that leads the zone; 0 if none is known.
func (g *group) leadingNode() nexusraft.NodeID {
	leader, _ := g.replica.Leader()
	m, _ := g.replica.Membership().Replica(leader)
	return m.Node
}

// stop ends every waiting call. It does not ask raft, which may have panicked.
func (g *group) stop(err error) {
	g.group.Stop(err)
	g.log.Forget()
	g.endLead(err)
	g.forgetLed()
	g.events.Notify()
	g.applied.Notify()
	g.endReceived(err)
}

func (g *group) status() nexusraft.ZoneStatus {
	s := g.replica.Status()
	s.Membership, s.MachineVersion = g.current(), g.machine.Version
	if p := g.placement; p != nil {
		s.Shape, s.Moving = p.shape, p.moving
	}
	if first, err := g.log.FirstIndex(); err == nil {
		s.FirstIndex = nexusraft.Index(first)
	}
	if s.Sync != nexusraft.SyncUnknown {
		s.SyncSince = g.syncSince
	}
	s.Snapshots = g.w.o.Snapshots.Status(g.id)
	return s
}
