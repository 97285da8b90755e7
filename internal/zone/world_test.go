package zone_test

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// The log of every replica that is there from the beginning starts behind this entry.
const (
	foundedIndex = 10
	foundedTerm  = 1
)

// electionTicks is a replica's election timeout.
const electionTicks = 6

// disk is one replica's storage: raft's in-memory log, and beside it what a node keeps in
// the same atomic write.
type disk struct {
	*raft.MemoryStorage
	hard *raftpb.HardState
	state
	applying state // with what the round under way has applied, which is not written yet
}

// state is how far a replica has applied its log, and what that has made of the zone.
type state struct {
	conf    *raftpb.ConfState
	members nexusraft.Membership
	applied nexusraft.Index
}

func newDisk(conf *raftpb.ConfState, members nexusraft.Membership) *disk {
	d := &disk{MemoryStorage: raft.NewMemoryStorage(), state: state{conf: &raftpb.ConfState{}}}
	if conf == nil {
		return d // not admitted yet
	}
	must(d.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(foundedIndex)), Term: new(uint64(foundedTerm)), ConfState: conf,
	}}))
	d.state = state{conf, members, foundedIndex}
	d.hard = &raftpb.HardState{Term: new(uint64(foundedTerm)), Commit: new(uint64(foundedIndex))}
	return d
}

func (d *disk) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return d.hard, d.conf, nil
}

// Snapshot returns metadata and the records, as a node's log does.
func (d *disk) Snapshot() (*raftpb.Snapshot, error) {
	term, err := d.Term(uint64(d.applied))
	if err != nil {
		return nil, err
	}
	return &raftpb.Snapshot{Data: d.members.Encode(), Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(d.applied)), Term: new(term), ConfState: d.conf,
	}}, nil
}

// write stores a part of a round, and what it has applied.
func (d *disk) write(p *driver.Part) error {
	if s := p.Snapshot(); s != nil {
		members, err := nexusraft.DecodeMembership(s.GetData())
		if err != nil {
			return err
		}
		if err := d.ApplySnapshot(s); err != nil {
			return err
		}
		d.applying = state{s.GetMetadata().GetConfState(), members, nexusraft.Index(s.GetMetadata().GetIndex())}
	}
	if w := p.Work; w != nil {
		if err := d.Append(w.Append); err != nil {
			return err
		}
		if w.HardState != nil {
			d.hard = w.HardState
		}
	}
	d.state = d.applying
	return nil
}

// world is a zone of a few replicas and the messages between them. Everything that happens
// is told in out, one line each.
type world struct {
	t     *testing.T
	out   strings.Builder
	nodes map[uint64]*node
	queue []*raftpb.Message     // in flight, oldest first
	cut   map[[2]uint64]bool    // links that lose everything, by sender and receiver
	slow  uint64                // this one's node has no tick now, and says nothing of itself: its ticks are late
	mute  uint64                // of this replica all messages are lost, and not its node's signals
	quiet bool                  // heartbeats are not told
	data  map[[2]uint64]*string // what was proposed, by index and term
	sent  func(*raftpb.Message) // if set, sees what leaves

	sleeps      bool   // the zone sleeps while it is idle, if pass lets time go on
	hold        int    // ticks; 0: the default
	uncommitted uint64 // bytes; 0: the default
	committed   uint64 // applied in one round, bytes; 0: the default
}

// node is one replica, its disk, and the driver that ships. It is the group's owner, the driver's
// disk and its sender.
type node struct {
	w       *world
	id      uint64
	witness bool
	disk    *disk
	seen    string // what was last told of its role and its gate

	r        *zone.Replica // the group's; nil: the process is down
	group    *driver.Group
	driver   *driver.Driver
	others   *driver.Neighbors // nil: the zone does not sleep
	ticks    int               // that it was given by pass
	incarn   nexusraft.Incarnation
	sequence uint64 // of the last proposal
	err      error  // what the last turn ended with

	resume func() (struct{}, bool) // a turn that stands still in its write; nil: none is under way
	end    func()                  // ends it there
	yield  func(struct{}) bool     // false: it is to end
	part   *driver.Part            // to be written: the whole round, for here none is large
	steady bool                    // the round changes neither term nor vote
	stored bool                    // and is written

	blocked    bool              // its sync does not return: the turn stands still
	slowAppend bool              // its disk takes appends and does not finish them; all else goes on
	unfinished []*raftpb.Message // answers that wait for such an append
}

func newWorld(t *testing.T, hold int) *world { return newWorldOf(t, hold, 1) }

// newWorldOf is newWorld with other election timeouts of raft's for each seed.
func newWorldOf(t *testing.T, hold int, seed uint64) *world {
	cryptotest.SetGlobalRandom(t, seed)
	w := &world{
		t: t, nodes: make(map[uint64]*node), cut: make(map[[2]uint64]bool),
		data: make(map[[2]uint64]*string), hold: hold,
	}
	t.Cleanup(func() {
		for _, n := range w.sorted() {
			w.stop(n)
		}
	})
	return w
}

// found starts a zone of members and witnesses whose logs all begin behind the same entry.
func (w *world) found(members, witnesses []uint64) {
	m := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	for _, id := range members {
		m = m.With(record(id, nexusraft.RoleMember))
	}
	for _, id := range witnesses {
		m = m.With(record(id, nexusraft.RoleWitness))
	}
	conf := &raftpb.ConfState{Voters: slices.Concat(members, witnesses)}
	for _, id := range conf.Voters {
		w.add(id, slices.Contains(witnesses, id), newDisk(conf, m))
	}
}

func (w *world) add(id uint64, witness bool, d *disk) {
	n := &node{w: w, id: id, witness: witness, disk: d}
	w.nodes[id] = n
	w.start(n)
}

func (w *world) start(n *node) {
	n.incarn++
	n.sequence, n.stored, n.err = 0, true, nil
	var signals zone.Signals
	if w.sleeps {
		n.others = driver.NewNeighbors(n.incarn, silentTicks)
		signals = n.others
	}
	g, err := driver.NewGroup(driver.Config{Owner: n, ReadTicks: 2 * electionTicks, Config: zone.Config{
		Signals: signals,
		Zone:    nexusraft.RootZone, Replica: nexusraft.ReplicaID(n.id), Incarnation: n.incarn, Witness: n.witness,
		Storage: n.disk, Applied: n.disk.applied, Membership: n.disk.members,
		ElectionTicks: electionTicks, HoldTicks: w.hold,
		MaxUncommittedBytes: w.uncommitted, MaxCommittedBytes: w.committed, Vouched: w.vouched,
	}})
	must(err)
	n.group, n.driver, n.r = g, driver.New(n, n, 1<<20), g.Replica()
	n.seen = n.describe()
}

// strangers are the replicas, from this one on, whose nodes prove nothing.
const strangers = 60

// vouched is what certificates say: all others but the witnesses are on full nodes.
func (w *world) vouched(id nexusraft.NodeID) bool {
	n := w.nodes[uint64(id)-100]
	return id > nodeOf(0) && id < nodeOf(strangers) && (n == nil || !n.witness)
}

// stop kills the process, in the middle of a turn if one stands still.
func (w *world) stop(n *node) {
	if n.end != nil {
		n.end()
	}
	n.r, n.group, n.driver, n.resume, n.end = nil, nil, nil, nil, nil
	n.blocked, n.slowAppend, n.unfinished = false, false, nil
}

func record(id uint64, role nexusraft.Role) nexusraft.Member {
	return nexusraft.Member{
		Replica: nexusraft.ReplicaID(id), Node: nodeOf(id), Role: role, Address: fmt.Sprintf("127.0.0.1:%d", 2000+id),
	}
}

func nodeOf(id uint64) nexusraft.NodeID { return nexusraft.NodeID(100 + id) }

func (w *world) sorted() []*node {
	var out []*node
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		out = append(out, w.nodes[id])
	}
	return out
}

func (w *world) tellf(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

// told returns what has been told since the last call.
func (w *world) told() string {
	s := w.out.String()
	w.out.Reset()
	return s
}

// run makes a turn, as a worker does after whatever has come in, and goes on while there is work.
func (w *world) run(n *node) {
	for busy := true; busy && n.r != nil && n.resume == nil; {
		w.turn(n)
		busy = n.r != nil && n.group.HasWork()
	}
	if n.others != nil && n.r != nil {
		n.others.Note(n.group)
	}
}

// turn makes one round of a replica. It stands still in its write if the sync does not return.
func (w *world) turn(n *node) {
	n.resume, n.end = iter.Pull(func(yield func(struct{}) bool) {
		n.yield = yield
		_, n.err = n.driver.Turn([]*driver.Group{n.group})
	})
	w.goOn(n)
}

// goOn lets a turn do what it can.
func (w *world) goOn(n *node) {
	if _, more := n.resume(); more {
		return
	}
	n.resume, n.end = nil, nil
	if n.err == nil {
		n.err = driver.Valid(n.group)
	}
	if n.err != nil {
		w.tellf("%d stops: %v", n.id, n.err)
		n.group.Stop(n.err)
		w.stop(n)
	}
}

// unblock lets the sync and the appends of a replica finish.
func (w *world) unblock(n *node) {
	n.blocked, n.slowAppend = false, false
	if n.resume != nil {
		w.goOn(n)
	}
	late := n.unfinished
	n.unfinished = nil
	for _, m := range late {
		w.send(n, m)
	}
	w.run(n)
}

// Began implements driver.Owner.
func (n *node) Began(work *zone.Work) {
	now, h := n.disk.hard, work.HardState
	n.steady = h == nil || h.GetTerm() == now.GetTerm() && h.GetVote() == now.GetVote()
	n.stored, n.disk.applying = false, n.disk.state
	if !work.MustSync && !n.mayBeLost(work) {
		n.w.t.Errorf("%d: a round asks for no sync that must be synced: %+v", n.id, work)
	}
	n.w.remember(work)
	n.w.tellState(n)
}

// mayBeLost reports whether nobody relies on what a round writes: a commit index, and the effects
// of commands, which are applied again.
func (n *node) mayBeLost(work *zone.Work) bool {
	change := func(c zone.Committed) bool { return c.ConfChange != nil }
	return n.steady && work.Snapshot == nil && len(work.Append) == 0 && !slices.ContainsFunc(work.Committed, change)
}

// Apply implements driver.Owner.
func (n *node) Apply(c *zone.Committed, _ bool) (a driver.Applied, err error) {
	next := &n.disk.applying
	next.applied = c.Index
	if c.ConfChange != nil {
		if next.conf, next.members, err = n.group.ApplyConfChange(c.ConfChange); err != nil {
			return a, err
		}
	}
	if c.Command != nil {
		a.Data = c.Command.Command
	}
	n.w.tellf("%d applies %s", n.id, commits(c, next.conf))
	return a, nil
}

// Held implements driver.Owner.
func (n *node) Held() int { return 0 }

// Stage implements driver.Owner.
func (n *node) Stage(p *driver.Part) error {
	n.part = p
	return nil
}

// errKilled ends the turn in which a process is killed.
var errKilled = errors.New("killed")

// Commit implements driver.Disk.
func (n *node) Commit(groups []*driver.Group, sync bool) error {
	if len(groups) == 0 {
		return nil
	}
	w, what := n.w, n.w.writes(n.part, sync)
	if n.blocked && !n.part.Empty() {
		w.tellf("%d is blocked in a sync: %s", n.id, what)
		for n.blocked {
			if !n.yield(struct{}{}) {
				return errKilled
			}
		}
	}
	if what != "" {
		w.tellf("%d writes %s", n.id, what)
	}
	if n.part.Work.MustSync && !sync {
		w.t.Errorf("%d: a round that must be synced is not: %s", n.id, what)
	}
	n.stored = true
	return n.disk.write(n.part)
}

// Written implements driver.Owner.
func (n *node) Written(*driver.Part) {}

// Refusal implements driver.Owner.
func (n *node) Refusal(err error) error { return err }

// Ended implements driver.Owner. A replica that was removed goes on, as if it did not know.
func (n *node) Ended() error { return nil }

// Failed implements driver.Owner: nothing fails but the whole node.
func (n *node) Failed(err error) { panic(err) }

// Send implements driver.Sender.
func (n *node) Send(_ *driver.Group, to nexusraft.NodeID, m *raftpb.Message) {
	if to != nodeOf(m.GetTo()) {
		n.w.t.Errorf("to node %d: %s", to, n.w.message(m))
	}
	if n.slowAppend && m.GetType() == raftpb.MsgAppResp && !m.GetReject() {
		n.unfinished = append(n.unfinished, m)
		n.w.tellf("  wait  %s", n.w.message(m))
		return
	}
	n.w.send(n, m)
}

// RequestVotes implements driver.Sender.
func (n *node) RequestVotes(to nexusraft.NodeID, votes []driver.VoteRequest) {
	for _, v := range votes {
		n.Send(n.group, to, v.Message)
	}
}

func (w *world) send(n *node, m *raftpb.Message) {
	label := "after"
	if !n.stored {
		label = "now"
		w.checkEarly(n, m)
	}
	if w.sent != nil {
		w.sent(m)
	}
	if w.cut[[2]uint64{m.GetFrom(), m.GetTo()}] || m.GetFrom() == w.mute {
		label = "lost"
	} else {
		w.queue = append(w.queue, proto.CloneOf(m))
	}
	if !w.quiet || m.GetType() != raftpb.MsgHeartbeat && m.GetType() != raftpb.MsgHeartbeatResp {
		w.tellf("  %-5s %s", label, w.message(m))
	}
}

// checkEarly: what leaves before the write promises nothing about the disk, and shows a witness
// nothing of the log (I3).
func (w *world) checkEarly(n *node, m *raftpb.Message) {
	early := m.GetType() == raftpb.MsgHeartbeat
	if to, _ := n.r.Membership().Replica(nexusraft.ReplicaID(m.GetTo())); to.Role != nexusraft.RoleWitness {
		early = early || m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgSnap
	}
	if !early || !n.steady {
		w.t.Errorf("left before the write, steady %v: %s", n.steady, w.message(m))
	}
}

// deliver hands over the messages in flight that match, once; it reports whether there
// was one.
func (w *world) deliver(match func(*raftpb.Message) bool) bool {
	var now, later []*raftpb.Message
	for _, m := range w.queue {
		if match(m) && w.takes(m) {
			now = append(now, m)
		} else {
			later = append(later, m)
		}
	}
	w.queue = later
	for _, m := range now {
		n := w.nodes[m.GetTo()]
		if n == nil || n.r == nil {
			continue
		}
		if err := w.step(n, m); err != nil {
			w.tellf("%d refuses: %v", n.id, err)
		}
		w.run(n)
	}
	return len(now) > 0
}

// step gives a message to a replica, as its sender's node.
func (w *world) step(n *node, m *raftpb.Message) error {
	var call driver.VoteCall
	if typ := m.GetType(); typ == raftpb.MsgVote || typ == raftpb.MsgPreVote {
		call = voteCall{n, m}
	}
	return n.group.Step(nodeOf(m.GetFrom()), m, call)
}

// takes reports whether the receiver looks at its messages: one that is blocked in a sync
// does not.
func (w *world) takes(m *raftpb.Message) bool {
	n := w.nodes[m.GetTo()]
	return n == nil || n.resume == nil
}

// stabilize delivers until nothing is in flight.
func (w *world) stabilize() {
	for i := 0; w.deliver(func(*raftpb.Message) bool { return true }); i++ {
		if i > 1000 {
			panic("the zone does not come to rest")
		}
	}
}

func (w *world) drop(match func(*raftpb.Message) bool) {
	w.queue = slices.DeleteFunc(w.queue, func(m *raftpb.Message) bool {
		if match(m) {
			w.tellf("  drop  %s", w.message(m))
		}
		return match(m)
	})
}

func (w *world) tick(n *node) {
	if n.r == nil || n.resume != nil {
		return
	}
	n.group.Tick()
	w.run(n)
}

func (w *world) campaign(n *node) error {
	err := n.r.Campaign()
	w.run(n)
	return err
}

// propose hands over commands in one batch, and returns what refuses it.
func (w *world) propose(n *node, commands ...string) error {
	envelopes, calls, waiting := make([]zone.Envelope, len(commands)), make([]driver.Call, len(commands)), &call{}
	for i, c := range commands {
		waiting = n.call(c)
		envelopes[i].Command, calls[i] = []byte(c), waiting
	}
	driver.Propose(n.group, envelopes, calls)
	for i, e := range envelopes {
		if want := calls[i].(*call).sequence; e.Proposal.Sequence != want {
			w.t.Errorf("%d: a proposal has number %d, want %d", n.id, e.Proposal.Sequence, want)
		}
	}
	return waiting.err
}

func (w *world) change(n *node, c zone.ConfChange) error {
	return driver.ProposeConfChange(n.group, c, n.call(""))
}

// call is a proposal that waits for its end.
type call struct {
	n        *node
	sequence uint64
	command  string
	ended    bool
	err      error
}

func (n *node) call(command string) *call {
	n.sequence++
	return &call{n: n, sequence: n.sequence, command: command}
}

// Answer implements driver.Call.
func (c *call) Answer(r nexusraft.Result, err error) {
	w := c.n.w
	if c.ended {
		w.t.Errorf("%d: proposal %d ends twice", c.n.id, c.sequence)
	}
	c.ended, c.err = true, err
	if err != nil {
		w.tellf("%d tells proposal %d: %v", c.n.id, c.sequence, err)
		return
	}
	if string(r.Data) != c.command {
		w.t.Errorf("%d: proposal %d of %q gets the answer to %q", c.n.id, c.sequence, c.command, r.Data)
	}
	w.tellf("%d tells proposal %d: applied at %d on %d copies", c.n.id, c.sequence, r.Index, r.Copies)
}

// Left implements driver.Call.
func (c *call) Left() bool { return false }

// reading is a read that waits.
type reading struct {
	n    *node
	name string
}

// Serve implements driver.Read.
func (r reading) Serve(err error) {
	if err != nil {
		r.n.w.tellf("%d does not serve read %q: %v", r.n.id, r.name, err)
		return
	}
	r.n.w.tellf("%d serves read %q at %d", r.n.id, r.name, r.n.r.Applied())
}

// Gone implements driver.Read.
func (r reading) Gone() bool { return false }

// voteCall is a candidate's call, which brings the answer back.
type voteCall struct {
	n       *node
	request *raftpb.Message
}

// Answer implements driver.VoteCall.
func (c voteCall) Answer(a driver.VoteAnswer) {
	if a.Response == nil {
		c.n.w.tellf("%d ignores %s: %s", c.n.id, c.n.w.message(c.request), a.Why)
		return
	}
	c.n.w.send(c.n, a.Response)
}

// remember keeps what entries carry, so that a stripped one can be told from an empty one.
func (w *world) remember(work *zone.Work) {
	for _, e := range work.Append {
		key := [2]uint64{e.GetIndex(), e.GetTerm()}
		if all, err := zone.DecodeEntry(e.GetData()); err == nil && w.data[key] == nil {
			w.data[key] = new(string(all[0].Command))
		}
	}
}

func (w *world) tellState(n *node) {
	if now := n.describe(); now != n.seen {
		w.tellf("%d is %s", n.id, now)
		n.seen = now
	}
}

func (n *node) describe() string {
	s := n.r.Status()
	out := fmt.Sprintf("%s at term %d", s.State, s.Term)
	switch {
	case s.Sync != nexusraft.SyncUnknown:
		out += ", " + string(s.Sync)
	case s.Leader != 0:
		out += fmt.Sprintf(" of %d", uint64(s.Leader))
	}
	return out
}

// writes is what a round stores, but for what it has applied.
func (w *world) writes(p *driver.Part, sync bool) string {
	var parts []string
	if s := p.Snapshot(); s != nil {
		parts = append(parts, "snapshot "+snapshot(s))
	}
	if len(p.Work.Append) > 0 {
		parts = append(parts, w.entries(p.Work.Append))
	}
	if h := p.Work.HardState; h != nil {
		parts = append(parts, fmt.Sprintf("term=%d vote=%d commit=%d", h.GetTerm(), h.GetVote(), h.GetCommit()))
	}
	if sync {
		parts = append(parts, "synced")
	}
	return strings.Join(parts, " ")
}

func commits(c *zone.Committed, now *raftpb.ConfState) string {
	out := fmt.Sprintf("%d/%d", c.Index, c.Term)
	switch {
	case c.ConfChange != nil:
		out += fmt.Sprintf(" %s: %s", change(c.ConfChange), conf(now))
	case c.Command != nil:
		out += fmt.Sprintf(" %q", c.Command.Command)
	}
	return out
}

func (w *world) message(m *raftpb.Message) string {
	out := fmt.Sprintf("%d->%d %s t%d", m.GetFrom(), m.GetTo(), strings.TrimPrefix(m.GetType().String(), "Msg"),
		m.GetTerm())
	switch m.GetType() {
	case raftpb.MsgApp:
		out += fmt.Sprintf(" after %d/%d commit=%d %s", m.GetIndex(), m.GetLogTerm(), m.GetCommit(),
			w.entries(m.GetEntries()))
	case raftpb.MsgHeartbeat:
		out += fmt.Sprintf(" commit=%d", m.GetCommit())
	case raftpb.MsgVote, raftpb.MsgPreVote:
		out += fmt.Sprintf(" last=%d/%d", m.GetIndex(), m.GetLogTerm())
	case raftpb.MsgSnap:
		out += " " + snapshot(m.GetSnapshot())
	case raftpb.MsgAppResp, raftpb.MsgReadIndexResp:
		out += fmt.Sprintf(" index=%d", m.GetIndex())
	}
	if m.GetReject() {
		out += " rejected"
	}
	if m.GetType() == raftpb.MsgAppResp && m.GetReject() {
		out += fmt.Sprintf(" hint=%d/%d", m.GetRejectHint(), m.GetLogTerm())
	}
	return out
}

func (w *world) entries(entries []*raftpb.Entry) string {
	parts := make([]string, len(entries))
	for i, e := range entries {
		parts[i] = w.entry(e)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (w *world) entry(e *raftpb.Entry) string {
	out := fmt.Sprintf("%d/%d", e.GetIndex(), e.GetTerm())
	switch all, err := zone.DecodeEntry(e.GetData()); {
	case e.GetType() != raftpb.EntryNormal:
		return out + " " + change(e)
	case err == nil:
		for _, x := range all {
			out += fmt.Sprintf(" %q", x.Command)
		}
		return out
	case len(e.GetData()) > 0:
		return out + " unreadable"
	case w.data[[2]uint64{e.GetIndex(), e.GetTerm()}] != nil:
		return out + " stripped"
	default:
		return out + " empty"
	}
}

func change(e *raftpb.Entry) string {
	c, set, err := zone.DecodeConfChange(e)
	if err != nil {
		return "unreadable"
	}
	if len(c.GetChanges()) == 0 {
		return "leave joint"
	}
	var parts []string
	for _, m := range set {
		parts = append(parts, fmt.Sprintf("%d=%s", uint64(m.Replica), m.Role))
	}
	for _, x := range c.GetChanges() {
		if x.GetType() == raftpb.ConfChangeRemoveNode {
			parts = append(parts, fmt.Sprintf("%d=removed", x.GetNodeId()))
		}
	}
	return "(" + strings.Join(parts, " ") + ")"
}

func conf(cs *raftpb.ConfState) string {
	out := fmt.Sprintf("voters %v", cs.GetVoters())
	if len(cs.GetVotersOutgoing()) > 0 {
		out += fmt.Sprintf(" outgoing %v", cs.GetVotersOutgoing())
	}
	if len(cs.GetLearners()) > 0 {
		out += fmt.Sprintf(" learners %v", cs.GetLearners())
	}
	return out
}

func snapshot(s *raftpb.Snapshot) string {
	return fmt.Sprintf("%d/%d %s", s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm(),
		conf(s.GetMetadata().GetConfState()))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
