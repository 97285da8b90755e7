package simtest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// disk is what survives a node's crash, and how a round is written to it.
type disk interface {
	// open reads what is there.
	open() (log raft.Storage, applied nexusraft.Index, members nexusraft.Membership)

	// apply runs one committed entry over the state, and held returns what its effects and those
	// before it take in memory.
	apply(c *zone.Committed, wanted bool) (driver.Applied, error)
	held() int

	// stage prepares the write of a part, and what it has applied.
	stage(p *driver.Part)

	// commit does the write that was staged.
	commit(sync bool)

	// crash leaves what is synced; kept says that the staged write, if there is one,
	// was too.
	crash(kept bool)

	close()
}

// node is a replica with the driver that ships, and can crash at any point of a round. It is the
// group's owner, the driver's disk and its sender.
type node struct {
	s       *sim
	name    string
	id      nexusraft.NodeID
	replica nexusraft.ReplicaID
	witness bool
	disk    disk
	shadow  shadow // what the oracle believes to be on the disk
	conf    *raftpb.ConfState
	madeBy  *raftpb.ConfState // the configuration that the round's messages were made in

	r           *zone.Replica // nil: down
	group       *driver.Group // r's
	driver      *driver.Driver
	others      *driver.Neighbors
	heard       map[nexusraft.NodeID]zone.Signal // since the last tick
	incarnation nexusraft.Incarnation
	gone        bool  // for good
	retired     bool  // gone, and no node of the cluster any more
	failed      error // why its zone has stopped there
	restartAt   int64 // when it is down

	inbox    []packet
	calls    []func(*node)
	commands []caller
	check    system.Digest // which the members have not compared; the zero value: none
	skew     int64         // of its clock
	nextTick int64
	turn     *turn // under way
	crashAt  crashPoint

	sending map[*node]nexusraft.Index // snapshots under way: the log above is kept
	slowTo  int64                     // the disk answers nothing before this step
	syncFor int                       // steps that each synced write takes at least

	// crashIf, if set, is asked in each round where in it the node crashes; never: nowhere. It
	// stays over crashes.
	crashIf func(*zone.Work) crashPoint
}

// turn is one turn of the driver. It stands still while its write is under way, which takes steps of
// time, and goes on from there; or a crash ends it there.
type turn struct {
	resume func() (struct{}, bool) // until the next write; false: it is over
	end    func()                  // where it stands still
	yield  func(struct{}) bool     // false: it is to end

	part   *driver.Part // being written; nil: none
	due    int64        // when it is
	commit commitView
}

// commitView is the zone as its replica saw it when it made the round's Committed.
type commitView struct {
	sync    nexusraft.SyncState
	members nexusraft.Membership
	conf    *raftpb.ConfState
}

// readTicks is for how long a read waits for a leader: longer than a client does.
const readTicks = 2 * patienceTicks

// crashPoint is where in a round a node crashes.
type crashPoint int

const (
	never       crashPoint = iota
	beforeWrite            // SendNow has left, nothing is written
	inWrite                // the write is on the disk, or is not
	afterWrite             // it is, and AfterSync has not left
	betweenRounds
	crashPoints
)

func (n *node) record() nexusraft.Member {
	role := nexusraft.RoleMember
	if n.witness {
		role = nexusraft.RoleWitness
	}
	return nexusraft.Member{Replica: n.replica, Node: n.id, Name: n.name, Address: n.name + ":2026", Role: role}
}

// start opens the disk and makes a replica of what it holds.
func (n *node) start() {
	log, at, members := n.disk.open()
	n.s.oracle.reopened(n, log)
	n.incarnation++
	c := zone.Config{
		Zone: zoneID, Replica: n.replica, Incarnation: n.incarnation, Witness: n.witness,
		Storage: log, Applied: at, Membership: members,
		MaxInflight: 16, MaxAppendBytes: 512, Vouched: n.s.vouched,
		ElectionTicks: n.s.electionTicks, HoldTicks: n.s.holdTicks,
	}
	silent := zone.SilentTicks(cmp.Or(c.ElectionTicks, 6), 1, cmp.Or(c.HoldTicks, 6))
	n.others, n.heard = driver.NewNeighbors(n.incarnation, silent), make(map[nexusraft.NodeID]zone.Signal)
	c.Signals = n.others
	g, err := driver.NewGroup(driver.Config{Owner: n, ReadTicks: readTicks, Config: c})
	n.s.must(n, "start", err)
	n.others.Note(g)
	n.group, n.driver = g, driver.New(n, n, cmp.Or(n.s.partBytes, 1<<20))
	_, n.conf, err = log.InitialState()
	n.s.must(n, "read the configuration", err)
	n.r, n.nextTick, n.restartAt = g.Replica(), n.s.now+int64(n.s.between(1, tickSteps)), 0
	n.sending, n.check = make(map[*node]nexusraft.Index), system.Digest{}
	n.s.eventf("%s starts, incarnation %d, term %d, log (%d, %d]", n.name, n.incarnation, n.shadow.durable.term,
		n.shadow.durable.compacted, n.shadow.durable.last())
}

// vouched is what certificates say: all but the witnesses are full nodes.
func (s *sim) vouched(id nexusraft.NodeID) bool {
	return slices.ContainsFunc(slices.Concat(s.nodes, s.retired), func(n *node) bool { return n.id == id && !n.witness })
}

// crash stops the node; what it had not synced is lost, and kept decides about the write
// under way.
func (n *node) crash(kept bool, downTicks int) {
	n.crashed(kept, downTicks)
	n.endTurn()
}

// endTurn ends a turn that stands still.
func (n *node) endTurn() {
	if n.turn != nil {
		n.turn.end()
		n.turn = nil
	}
}

// crashed is crash for the turn that is under way: it is to end with errCrash.
func (n *node) crashed(kept bool, downTicks int) {
	writing := n.turn != nil && n.turn.part != nil && !n.turn.part.Empty()
	n.s.eventf("%s crashes, write under way %v, kept %v", n.name, writing, kept)
	n.disk.crash(kept && writing)
	n.shadow.crash(n, kept && writing)
	n.r, n.group, n.driver, n.crashAt = nil, nil, nil, never
	n.inbox, n.calls, n.commands, n.slowTo = nil, nil, nil, 0
	n.restartAt = n.s.now + int64(downTicks*tickSteps)
}

// later has the worker run f between two rounds, unless the node crashes first.
func (n *node) later(f func(*node)) { n.calls = append(n.calls, f) }

// run lets the worker do what it can do now.
func (n *node) run() {
	if n.r == nil {
		if n.gone || n.s.now < n.restartAt {
			return
		}
		n.start()
	}
	for n.r != nil && n.progress() {
	}
}

// progress does one thing and reports whether there may be another.
func (n *node) progress() bool {
	if n.turn != nil {
		if n.s.now < n.turn.due {
			return false // a worker that is blocked in a sync is silent
		}
		n.goOn()
		return true
	}
	if n.crashAt == betweenRounds {
		n.crash(false, n.s.between(1, 30))
		return false
	}
	n.drain()
	if !n.group.HasWork() {
		return false
	}
	n.begin()
	n.goOn()
	return true
}

// begin starts a turn of the driver.
func (n *node) begin() {
	t := &turn{}
	t.resume, t.end = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		if _, err := n.driver.Turn([]*driver.Group{n.group}); !errors.Is(err, errCrash) {
			n.s.must(n, "make a round of work", err)
		}
	})
	n.turn = t
}

// errCrash ends the turn in which a node crashes: nothing leaves any more.
var errCrash = errors.New("the node crashes")

// goOn lets the turn do what it can.
func (n *node) goOn() {
	if _, more := n.turn.resume(); more {
		return
	}
	n.turn = nil
	if n.r != nil {
		n.others.Note(n.group)
		n.s.must(n, "leave the group as it should be", driver.Valid(n.group))
		n.s.oracle.gate(n)
	}
}

// drain takes in all that waits, and only then a tick; missed ticks are thrown away.
func (n *node) drain() {
	inbox := n.inbox
	n.inbox = nil
	for _, p := range inbox {
		n.receive(p)
	}
	calls := n.calls
	n.calls = nil
	for _, f := range calls {
		f(n)
	}
	n.propose()
	if n.s.now >= n.nextTick {
		n.tick()
		for n.nextTick <= n.s.now {
			n.nextTick += tickSteps
		}
	}
}

// tick lets a tick pass, as a worker does: it tells the other nodes that it lives, and hears them.
func (n *node) tick() {
	var listed []nexusraft.NodeID
	for _, m := range n.r.Membership().Members {
		if x := n.s.replica(m.Replica); x != n {
			listed = append(listed, m.Node)
			n.s.net.signal(link{n, x}, n.others.Own())
		}
	}
	n.others.Tick(listed, n.heard, func(g *driver.Group) {
		g.Tick()
		n.s.oracle.looked(n)
	})
	clear(n.heard)
	n.s.must(n, "keep the awake and the asleep apart", driver.CheckNeighbors(n.others))
}

func (n *node) receive(p packet) {
	if p.message == nil {
		if p.signal.Incarnation == p.from.incarnation { // transport drops what a former opening has sent
			n.heard[p.from.id] = p.signal
		}
		return
	}
	if n.r.Membership().IsRemoved(p.from.replica) {
		p.from.fenced() // the handshake refuses it
		return
	}
	m := &raftpb.Message{}
	n.s.must(n, "unmarshal a message", proto.Unmarshal(p.message, m))
	if p.data != nil {
		n.disk.(*memberDisk).receive(m.GetSnapshot(), p.data)
	}
	n.s.eventf("%s<-%s %s", n.name, p.from.name, describe(m))
	var call driver.VoteCall
	if typ := m.GetType(); typ == raftpb.MsgVote || typ == raftpb.MsgPreVote {
		call = voteCall{n}
	}
	if err := n.group.Step(p.from.id, m, call); err != nil {
		n.s.oracle.stepRefused(n, m, err)
	}
	n.s.oracle.looked(n)
}

// propose hands all waiting commands over at once, and a leader's checkpoint with them.
func (n *node) propose() {
	var envelopes []zone.Envelope
	var calls []driver.Call
	for _, c := range n.commands {
		e := c.envelope()
		e.Time = n.clock()
		envelopes, calls = append(envelopes, e), append(calls, proposed{n, c})
	}
	n.commands = nil
	if c := n.takeCheck(); c != nil {
		envelopes = append(envelopes, zone.Envelope{Time: n.clock(), Own: true, Command: c})
		calls = append(calls, nil)
	}
	driver.Propose(n.group, envelopes, calls)
}

// clock is the time that the node puts into commands if it leads. Those of two nodes differ.
func (n *node) clock() int64 { return n.s.now*n.s.stepTime + n.skew }

// takeCheck returns the command with which a leader has the members compare their digests, as a
// node's group does; nil if there is nothing to compare.
func (n *node) takeCheck() []byte {
	if _, self := n.r.Leader(); !self || n.check.Index == 0 {
		return nil
	}
	c, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_VerifyState{
		VerifyState: &pb.VerifyState{Index: uint64(n.check.Index), Digest: n.check.Sum},
	}})
	n.s.must(n, "ask for a comparison", err)
	n.check = system.Digest{}
	return c
}

// caller is who waits for the end of a command at a node.
type caller interface {
	envelope() zone.Envelope // without the time
	applied(n *node, r nexusraft.Result, err error)
	refused(n *node, err error) // before the command was applied, or whatever comes of it
	left() bool
}

// proposed is a caller's command that waits for its entry.
type proposed struct {
	n *node
	c caller
}

// Answer implements driver.Call.
func (p proposed) Answer(r nexusraft.Result, err error) {
	if r.Index == 0 {
		p.c.refused(p.n, err)
		return
	}
	p.n.s.oracle.acknowledged(p.n, p.c, r, err)
	p.c.applied(p.n, r, err)
}

// Left implements driver.Call.
func (p proposed) Left() bool { return p.c.left() }

// reading is an operation that waits for its read at a node.
type reading struct {
	n  *node
	op *operation
}

// Serve implements driver.Read.
func (r reading) Serve(err error) {
	if err != nil {
		r.op.refused(r.n, err)
		return
	}
	value, _, err := apply.MachineReader(r.n.disk.(*memberDisk).state).Get([]byte(r.op.key))
	r.n.s.must(r.n, "read a register", err)
	r.op.finish(string(value))
}

// Gone implements driver.Read.
func (r reading) Gone() bool { return r.op.over }

// voteCall is a candidate's call, which brings the answer back.
type voteCall struct{ n *node }

// Answer implements driver.VoteCall.
func (c voteCall) Answer(a driver.VoteAnswer) {
	if a.Response != nil {
		c.n.send(a.Response)
	}
}

// Began implements driver.Owner.
func (n *node) Began(w *zone.Work) {
	view := commitView{members: n.r.Membership(), conf: n.conf}
	view.sync, _ = n.r.Sync()
	n.madeBy, n.turn.commit = n.conf, view
	n.s.oracle.worked(n, w)
	if n.crashIf != nil {
		n.crashAt = max(n.crashAt, n.crashIf(w))
	}
	for _, o := range w.Outcomes {
		n.s.oracle.ended(o)
	}
}

// Apply implements driver.Owner.
func (n *node) Apply(c *zone.Committed, wanted bool) (driver.Applied, error) {
	return n.disk.apply(c, wanted)
}

// compared notes what an entry has done about comparing digests, as a node's group does.
func (n *node) compared(e *apply.Effects) {
	if e.Verified >= n.check.Index {
		n.check = system.Digest{}
	}
	if e.Checkpoint.Index != 0 {
		n.check = e.Checkpoint
	}
}

// Held implements driver.Owner.
func (n *node) Held() int { return n.disk.held() }

// Stage implements driver.Owner: the part's write begins, and takes a while.
func (n *node) Stage(p *driver.Part) error {
	if n.crashAt == beforeWrite {
		n.crashed(false, n.s.between(1, 30))
		return errCrash
	}
	n.turn.part, n.turn.due = p, n.s.now
	n.shadow.apply(p.Committed)
	if !p.Empty() {
		n.disk.stage(p)
		n.turn.due = max(n.s.now+int64(n.s.between(0, 4)), n.slowTo)
	}
	if p.MustSync {
		n.turn.due = max(n.turn.due, n.s.now+int64(n.syncFor))
	}
	n.s.oracle.gate(n)
	return nil
}

// Commit implements driver.Disk.
func (n *node) Commit(_ []*driver.Group, sync bool) error {
	if n.failed != nil {
		n.crashed(false, 0)
		n.gone = true
		return errCrash
	}
	for n.s.now < n.turn.due {
		if !n.turn.yield(struct{}{}) {
			return errCrash
		}
	}
	if n.crashAt == inWrite {
		n.crashed(n.s.percent(50), n.s.between(1, 30))
		return errCrash
	}
	if !n.turn.part.Empty() {
		// What needs no sync sometimes gets one, from another zone of the worker.
		sync = sync || n.s.percent(20)
		n.disk.commit(sync)
		n.shadow.commit(sync)
		n.s.oracle.written(n)
	}
	if n.crashAt == afterWrite {
		n.crashed(false, n.s.between(1, 30))
		return errCrash
	}
	n.turn.part = nil
	return nil
}

// Written implements driver.Owner.
func (n *node) Written(*driver.Part) {}

// Refusal implements driver.Owner.
func (n *node) Refusal(err error) error { return err }

// Failed implements driver.Owner: nothing fails but a member whose state differs, where one is to.
func (n *node) Failed(err error) {
	if n.s.liar == nil {
		n.s.must(n, "apply an entry", err)
	}
	n.failed = err
}

// Ended implements driver.Owner.
func (n *node) Ended() error {
	if !n.r.Membership().IsRemoved(n.replica) {
		return nil
	}
	n.s.eventf("%s is no more: it has applied its own removal", n.name)
	n.crashed(false, 0)
	n.gone, n.retired = true, true
	return errCrash
}

// fenced is what a removed node hears when it calls another one, sooner or later.
func (n *node) fenced() {
	if n.r != nil && n.s.percent(20) {
		n.retire("it was told that it was removed")
	}
}

// retire stops a node for ever. Its shadow stays: what was on its disk was.
func (n *node) retire(why string) {
	n.s.eventf("%s is no more: %s", n.name, why)
	if n.r != nil {
		n.crash(false, 0)
	}
	n.gone, n.retired = true, true
}

// Send implements driver.Sender.
func (n *node) Send(_ *driver.Group, to nexusraft.NodeID, m *raftpb.Message) {
	if x := n.s.replica(nexusraft.ReplicaID(m.GetTo())); x == nil || x.id != to {
		n.s.fatalf("%s: message to node %x: %v", n.name, to, m)
	}
	n.send(m)
}

// RequestVotes implements driver.Sender.
func (n *node) RequestVotes(_ nexusraft.NodeID, votes []driver.VoteRequest) {
	for _, v := range votes {
		n.send(v.Message)
	}
}

func (n *node) send(m *raftpb.Message) {
	n.s.oracle.sent(n, m)
	n.s.eventf("%s->%s %s", n.name, n.s.name(nexusraft.ReplicaID(m.GetTo())), describe(m))
	to := n.s.replica(nexusraft.ReplicaID(m.GetTo()))
	switch {
	case to == nil || to == n:
		n.s.fatalf("%s: message to replica %x: %v", n.name, m.GetTo(), m)
	case m.GetType() == raftpb.MsgSnap && !to.witness:
		n.sendSnapshot(to, m)
	default:
		n.s.net.send(link{n, to}, m)
	}
}

// sendSnapshot sends the state as it is on the disk now, and reports how that ended. The
// log above the snapshot is kept meanwhile.
func (n *node) sendSnapshot(to *node, m *raftpb.Message) {
	snapshot, data := n.disk.(*memberDisk).snapshot()
	m = proto.CloneOf(m)
	m.Snapshot = snapshot
	n.sending[to] = nexusraft.Index(snapshot.GetMetadata().GetIndex())
	incarnation := n.incarnation
	n.s.net.transfer(link{n, to}, m, data, func(ok bool) {
		if n.incarnation != incarnation || n.r == nil {
			return
		}
		n.later(func(n *node) {
			delete(n.sending, to)
			n.r.ReportSnapshot(to.replica, ok)
		})
	})
}

// describe is a message in a few words.
func describe(m *raftpb.Message) string {
	s := fmt.Sprintf("%v term %d", m.GetType(), m.GetTerm())
	if m.GetType() == raftpb.MsgSnap {
		return s + fmt.Sprintf(" at %d", m.GetSnapshot().GetMetadata().GetIndex())
	}
	if m.GetIndex() != 0 || m.GetLogTerm() != 0 {
		s += fmt.Sprintf(" (%d,%d)", m.GetIndex(), m.GetLogTerm())
	}
	if k := len(m.GetEntries()); k > 0 {
		s += fmt.Sprintf(" +%d", k)
	}
	if m.GetCommit() != 0 {
		s += fmt.Sprintf(" commit %d", m.GetCommit())
	}
	if m.GetReject() {
		s += " reject"
	}
	if c := m.GetContext(); len(c) == 24 {
		s += fmt.Sprintf(" try %d to sleep", binary.BigEndian.Uint64(c[16:]))
	}
	return s
}
