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

// disk is what a replica has on its node's device, and how a round is written to it.
type disk interface {
	// open reads what is there.
	open() (log raft.Storage, applied nexusraft.Index, members nexusraft.Membership)

	// apply runs one committed entry over the state, and held returns what its effects and those
	// before it take in memory.
	apply(c *zone.Committed, wanted bool) (driver.Applied, error)
	held() int

	// stage prepares the write of a part, and what it has applied.
	stage(p *driver.Part)
}

// device is what survives the crash of a process: the disks of its replicas.
type device interface {
	// add writes what a replica begins with, and open returns those that are there.
	add(n *node, o origin)
	open() []*node

	// commit does the writes that were staged by these, and synced returns whose are on the disk then
	// if it is synced.
	commit(written []*node, sync bool)
	synced(written []*node) []*node

	// crash leaves what is synced; kept says that the writes that were staged by these were, too.
	crash(writing []*node, kept bool)

	close()
}

// process is a node of the cluster: all its replicas, with the driver that ships. It can crash at any
// point of a round. It is the driver's disk and its sender.
type process struct {
	w        *world
	name     string
	id       nexusraft.NodeID
	witness  bool
	device   device
	replicas []*node // that its disk has, or may have; the first zone's is the first

	driver      *driver.Driver // nil: down
	others      *driver.Neighbors
	heard       map[nexusraft.NodeID]zone.Signal // since the last tick
	incarnation nexusraft.Incarnation
	gone        bool  // for good
	retired     bool  // gone, and no node of the cluster any more
	restartAt   int64 // when it is down

	inbox    []packet
	nextTick int64
	turn     *turn // under way
	crashAt  crashPoint
	skew     int64  // of its clock
	hosting  bool   // the records of zones may have changed
	version  uint64 // of the table of the zones, which a witness was told

	slowTo  int64 // the disk answers nothing before this step
	syncFor int   // steps that each synced write takes at least

	// crashIf, if set, is asked in each round where in it the node crashes; never: nowhere. It
	// stays over crashes.
	crashIf func(*zone.Work) crashPoint
}

// String is for events and failures.
func (p *process) String() string { return p.name }

// node is a replica of a zone on a process, and its group's owner.
type node struct {
	*process
	s       *sim
	replica nexusraft.ReplicaID
	disk    disk   // nil: it was not made yet
	shadow  shadow // what the oracle believes to be on the disk
	conf    *raftpb.ConfState
	madeBy  *raftpb.ConfState // the configuration that the round's messages were made in

	r       *zone.Replica // nil: it does not run
	group   *driver.Group // r's
	failed  error         // why its zone has stopped there
	dropped bool          // its zone was deleted

	calls    []func(*node)
	commands []caller
	check    system.Digest // which the members have not compared; the zero value: none

	part    *driver.Part              // being written; nil: none
	commit  commitView                // of the round
	sending map[*node]nexusraft.Index // snapshots under way: the log above is kept
}

// turn is one turn of the driver. It stands still while its write is under way, which takes steps of
// time, and goes on from there; or a crash ends it there.
type turn struct {
	resume func() (struct{}, bool) // until the next write; false: it is over
	end    func()                  // where it stands still
	yield  func(struct{}) bool     // false: it is to end

	staged []*node // what is being written
	due    int64   // when it is
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

// start opens the device and makes replicas of what it holds.
func (p *process) start() {
	p.incarnation++
	silent := zone.SilentTicks(cmp.Or(p.w.electionTicks, 6), 1, cmp.Or(p.w.holdTicks, 6))
	p.others, p.heard = driver.NewNeighbors(p.incarnation, silent), make(map[nexusraft.NodeID]zone.Signal)
	p.driver = driver.New(p, p, cmp.Or(p.w.partBytes, 1<<20))
	for _, n := range p.device.open() {
		n.open()
	}
	p.nextTick, p.restartAt, p.hosting = p.w.now+int64(p.w.between(1, tickSteps)), 0, true
	p.host()
}

// open makes a replica of what the disk holds.
func (n *node) open() {
	log, at, members := n.disk.open()
	n.s.oracle.reopened(n, log)
	c := zone.Config{
		Zone: n.s.zone, Replica: n.replica, Incarnation: n.incarnation, Witness: n.witness,
		Storage: log, Applied: at, Membership: members,
		MaxInflight: 16, MaxAppendBytes: 512, Vouched: n.w.zones[0].vouched,
		ElectionTicks: n.s.electionTicks, HoldTicks: n.s.holdTicks,
		Signals: n.others,
	}
	g, err := driver.NewGroup(driver.Config{Owner: n, ReadTicks: readTicks, Config: c})
	n.s.must(n, "start", err)
	n.others.Note(g)
	_, n.conf, err = log.InitialState()
	n.s.must(n, "read the configuration", err)
	n.r, n.group, n.dropped = g.Replica(), g, false
	n.sending, n.check = make(map[*node]nexusraft.Index), system.Digest{}
	n.s.eventf("%s starts, incarnation %d, term %d, log (%d, %d]", n, n.incarnation, n.shadow.durable.term,
		n.shadow.durable.compacted, n.shadow.durable.last())
}

// vouched is what certificates say: all but the witnesses are full nodes.
func (s *sim) vouched(id nexusraft.NodeID) bool {
	return slices.ContainsFunc(slices.Concat(s.nodes, s.retired), func(n *node) bool { return n.id == id && !n.witness })
}

// crash stops the node; what it had not synced is lost, and kept decides about the write
// under way.
func (p *process) crash(kept bool, downTicks int) {
	p.crashed(kept, downTicks)
	p.endTurn()
}

// endTurn ends a turn that stands still.
func (p *process) endTurn() {
	if p.turn != nil {
		p.turn.end()
		p.turn = nil
	}
}

// crashed is crash for the turn that is under way: it is to end with errCrash.
func (p *process) crashed(kept bool, downTicks int) {
	writing := p.writing()
	kept = kept && len(writing) > 0
	p.w.eventf("%s crashes, write under way %v, kept %v", p, len(writing) > 0, kept)
	p.device.crash(writing, kept)
	saved := p.device.synced(writing)
	for _, n := range p.replicas {
		n.shadow.crash(n, kept && slices.Contains(saved, n))
		n.r, n.group, n.part, n.calls, n.commands = nil, nil, nil, nil, nil
	}
	p.driver, p.crashAt, p.inbox, p.slowTo = nil, never, nil, 0
	p.restartAt = p.w.now + int64(downTicks*tickSteps)
}

// writing returns the replicas that have something in the write under way.
func (p *process) writing() (all []*node) {
	if p.turn == nil {
		return nil
	}
	for _, n := range p.turn.staged {
		if !n.part.Empty() {
			all = append(all, n)
		}
	}
	return all
}

// synced notes a synced write besides those of rounds.
func (p *process) synced() {
	for _, n := range p.device.synced(nil) {
		n.shadow.sync()
	}
}

// later has the worker run f between two rounds, unless the node crashes first.
func (n *node) later(f func(*node)) { n.calls = append(n.calls, f) }

// running yields the replicas that run.
func (p *process) running(yield func(*node) bool) {
	for _, n := range p.replicas {
		if n.r != nil && !yield(n) {
			return
		}
	}
}

// run lets the worker do what it can do now.
func (p *process) run() {
	if p.driver == nil {
		if p.gone || p.w.now < p.restartAt {
			return
		}
		p.start()
	}
	for p.driver != nil && p.progress() {
	}
}

// progress does one thing and reports whether there may be another.
func (p *process) progress() bool {
	if p.turn != nil {
		if p.w.now < p.turn.due {
			return false // a worker that is blocked in a sync is silent
		}
		p.goOn()
		return true
	}
	if p.crashAt == betweenRounds {
		p.crash(false, p.w.between(1, 30))
		return false
	}
	p.drain()
	var groups []*driver.Group
	busy := false
	for n := range p.running {
		groups, busy = append(groups, n.group), busy || n.group.HasWork()
	}
	if !busy {
		return false
	}
	p.begin(groups)
	p.goOn()
	return true
}

// begin starts a turn of the driver.
func (p *process) begin(groups []*driver.Group) {
	t := &turn{}
	t.resume, t.end = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		if _, err := p.driver.Turn(groups); !errors.Is(err, errCrash) {
			p.w.must(p, "make a round of work", err)
		}
	})
	p.turn = t
}

// errCrash ends the turn in which a node crashes: nothing leaves any more.
var errCrash = errors.New("the node crashes")

// goOn lets the turn do what it can.
func (p *process) goOn() {
	if _, more := p.turn.resume(); more {
		return
	}
	p.turn = nil
	for n := range p.running {
		p.others.Note(n.group)
		n.s.must(n, "leave the group as it should be", driver.Valid(n.group))
		n.s.oracle.gate(n)
	}
	p.host()
}

// drain takes in all that waits, and only then a tick; missed ticks are thrown away.
func (p *process) drain() {
	inbox := p.inbox
	p.inbox = nil
	for _, x := range inbox {
		p.receive(x)
	}
	for n := range p.running {
		calls := n.calls
		n.calls = nil
		for _, f := range calls {
			f(n)
		}
		n.propose()
	}
	if p.w.now >= p.nextTick {
		p.tick()
		for p.nextTick <= p.w.now {
			p.nextTick += tickSteps
		}
	}
}

// tick lets a tick pass, as a worker does: it tells the other nodes that it lives, and hears them.
func (p *process) tick() {
	var listed []nexusraft.NodeID
	first := p.replicas[0]
	for _, m := range first.r.Membership().Members {
		if x := first.s.replica(m.Replica); x != first {
			listed = append(listed, m.Node)
			p.w.net.signal(linkOf(first, x), p.others.Own())
		}
	}
	p.others.Tick(listed, p.heard, func(g *driver.Group) {
		g.Tick()
		for n := range p.running {
			if n.group == g {
				n.s.oracle.looked(n)
			}
		}
	})
	clear(p.heard)
	p.tellWitness()
	p.w.must(p, "keep the awake and the asleep apart", driver.CheckNeighbors(p.others))
}

// receive takes what has arrived.
func (p *process) receive(x packet) {
	switch {
	case x.told != nil:
		p.takeOver(x.told)
	case x.message != nil && x.dst.r != nil:
		x.dst.receive(x)
	case x.message == nil && x.signal.Incarnation == x.from.incarnation:
		p.heard[x.from.id] = x.signal // transport drops what a former opening has sent
	}
}

func (n *node) receive(p packet) {
	if n.r.Membership().IsRemoved(p.src.replica) {
		p.src.fenced() // the handshake refuses it
		return
	}
	m := &raftpb.Message{}
	n.s.must(n, "unmarshal a message", proto.Unmarshal(p.message, m))
	if p.data != nil {
		n.disk.(*memberDisk).receive(m.GetSnapshot(), p.data)
	}
	n.s.eventf("%s<-%s %s", n, p.src, describe(m))
	var call driver.VoteCall
	if typ := m.GetType(); typ == raftpb.MsgVote || typ == raftpb.MsgPreVote {
		call = voteCall{n}
	}
	if err := n.group.Step(p.src.id, m, call); err != nil {
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
	n.madeBy, n.commit = n.conf, view
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
	n.part, n.turn.staged = p, append(n.turn.staged, n)
	n.shadow.apply(p.Committed)
	due := n.s.now
	if !p.Empty() {
		n.disk.stage(p)
		due = max(n.s.now+int64(n.s.between(0, 4)), n.slowTo)
	}
	if p.MustSync {
		due = max(due, n.s.now+int64(n.syncFor))
	}
	n.turn.due = max(n.turn.due, due)
	n.s.oracle.gate(n)
	return nil
}

// Commit implements driver.Disk.
func (p *process) Commit(groups []*driver.Group, sync bool) error {
	for n := range p.running {
		if n.failed != nil {
			p.crashed(false, 0)
			p.gone = true
			return errCrash
		}
	}
	for _, n := range p.turn.staged {
		if !slices.Contains(groups, n.group) {
			n.s.fatalf("%s: what it has staged is to be written without it", n)
		}
	}
	for p.w.now < p.turn.due {
		if !p.turn.yield(struct{}{}) {
			return errCrash
		}
	}
	if p.crashAt == inWrite {
		p.crashed(p.w.percent(50), p.w.between(1, 30))
		return errCrash
	}
	if writing := p.writing(); len(writing) > 0 {
		// What needs no sync sometimes gets one.
		p.write(writing, sync || p.w.percent(20))
	}
	if p.crashAt == afterWrite {
		p.crashed(false, p.w.between(1, 30))
		return errCrash
	}
	for _, n := range p.turn.staged {
		n.part = nil
	}
	p.turn.staged, p.turn.due = nil, 0
	return nil
}

// write does the write under way.
func (p *process) write(writing []*node, sync bool) {
	p.device.commit(writing, sync)
	must := 0
	for _, n := range writing {
		n.shadow.commit(false)
		if n.part.MustSync {
			must++
		}
	}
	if must > 0 && must < len(writing) {
		p.w.shared++
	}
	if sync {
		for _, n := range p.device.synced(writing) {
			n.shadow.sync()
		}
	}
	for _, n := range writing {
		n.s.oracle.written(n)
	}
}

// Written implements driver.Owner: another replica's state says anew what zones there are.
func (n *node) Written(p *driver.Part) {
	if p.Snapshot() != nil {
		n.check, n.hosting = system.Digest{}, true
	}
}

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
	n.s.eventf("%s is no more: it has applied its own removal", n)
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
func (p *process) Send(g *driver.Group, to nexusraft.NodeID, m *raftpb.Message) {
	n := p.of(g.Zone())
	if x := n.s.replica(nexusraft.ReplicaID(m.GetTo())); x == nil || x.id != to {
		n.s.fatalf("%s: message to node %x: %v", n.name, to, m)
	}
	n.send(m)
}

// RequestVotes implements driver.Sender.
func (p *process) RequestVotes(_ nexusraft.NodeID, votes []driver.VoteRequest) {
	for _, v := range votes {
		p.of(v.Zone).send(v.Message)
	}
}

// of returns the replica of a zone that runs.
func (p *process) of(id nexusraft.ZoneID) *node {
	i := slices.IndexFunc(p.replicas, func(n *node) bool { return n.r != nil && n.s.zone == id })
	return p.replicas[i]
}

func (n *node) send(m *raftpb.Message) {
	n.s.oracle.sent(n, m)
	n.s.eventf("%s->%s %s", n, n.s.name(nexusraft.ReplicaID(m.GetTo())), describe(m))
	to := n.s.replica(nexusraft.ReplicaID(m.GetTo()))
	switch {
	case to == nil || to == n:
		n.s.fatalf("%s: message to replica %x: %v", n.name, m.GetTo(), m)
	case m.GetType() == raftpb.MsgSnap && !to.witness:
		n.sendSnapshot(to, m)
	default:
		n.s.net.send(n, to, m)
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
	n.s.net.transfer(n, to, m, data, func(ok bool) {
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
