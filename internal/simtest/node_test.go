package simtest

import (
	"encoding/binary"
	"fmt"
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
	waiting  int           // proposals that have no answer yet
	check    system.Digest // which the members have not compared; the zero value: none

	part    *driver.Part              // being written; nil: none
	commit  commitView                // of the round
	sending map[*node]nexusraft.Index // snapshots under way: the log above is kept
}

// commitView is the zone as its replica saw it when it made the round's Committed.
type commitView struct {
	sync    nexusraft.SyncState
	members nexusraft.Membership
	conf    *raftpb.ConfState
}

// readTicks is for how long a read waits for a leader: longer than a client does.
const readTicks = 2 * patienceTicks

func (n *node) record() nexusraft.Member {
	role := nexusraft.RoleMember
	if n.witness {
		role = nexusraft.RoleWitness
	}
	return nexusraft.Member{Replica: n.replica, Node: n.id, Name: n.name, Address: n.name + ":2026", Role: role}
}

// open makes a replica of what the disk holds.
func (n *node) open() {
	log, at, members := n.disk.open()
	n.s.oracle.reopened(n, log)
	c := zone.Config{
		Zone: n.s.zone, Replica: n.replica, Incarnation: n.incarnation, Witness: n.witness,
		Storage: log, Applied: at, Membership: members,
		MaxInflight: 16, MaxAppendBytes: 512, Vouched: n.w.zones[0].vouched, Batches: n.s.batches,
		ElectionTicks: n.s.electionTicks, HoldTicks: n.s.holdTicks,
		Signals: n.others,
	}
	g, err := driver.NewGroup(driver.Config{Owner: n, ReadTicks: readTicks, Config: c, Lease: n.leaseConfig()})
	n.s.must(n, "start", err)
	n.others.Note(g)
	_, n.conf, err = log.InitialState()
	n.s.must(n, "read the configuration", err)
	n.r, n.group, n.dropped = g.Replica(), g, false
	n.sending, n.check, n.waiting = make(map[*node]nexusraft.Index), system.Digest{}, 0
	n.s.eventf("%s starts, incarnation %d, term %d, log (%d, %d]", n, n.incarnation, n.shadow.durable.term,
		n.shadow.durable.compacted, n.shadow.durable.last())
}

// vouched is what certificates say: all but the witnesses are full nodes.
func (s *sim) vouched(id nexusraft.NodeID) bool {
	return slices.ContainsFunc(slices.Concat(s.nodes, s.retired), func(n *node) bool { return n.id == id && !n.witness })
}

// later has the worker run f between two rounds, unless the node crashes first.
func (n *node) later(f func(*node)) { n.calls = append(n.calls, f) }

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
	var waiting []*proposed
	for _, c := range n.commands {
		e := c.envelope()
		e.Time = n.clock()
		p := &proposed{n: n, c: c}
		envelopes, calls, waiting = append(envelopes, e), append(calls, p), append(waiting, p)
	}
	n.commands, n.waiting = nil, n.waiting+len(waiting)
	if c := n.takeCheck(); c != nil {
		envelopes = append(envelopes, zone.Envelope{Time: n.clock(), Own: true, Command: c})
		calls = append(calls, nil)
	}
	driver.Propose(n.group, envelopes, calls)
	for i, p := range waiting {
		p.id = envelopes[i].Proposal
	}
}

// clock is the time that the node puts into commands if it leads. Those of two nodes differ.
func (n *node) clock() int64 { return n.s.now*n.s.stepTime + n.skew }

// takeCheck returns the command with which a leader has the members compare their digests, as a
// node's group does; nil if there is nothing to compare.
func (n *node) takeCheck() []byte {
	if n.check.Index == 0 || !n.r.TermApplied() {
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
	n  *node
	c  caller
	id zone.ProposalID
}

// Answer implements driver.Call.
func (p *proposed) Answer(r nexusraft.Result, err error) {
	p.n.waiting--
	if r.Index == 0 {
		p.c.refused(p.n, err)
		return
	}
	p.n.s.oracle.acknowledged(p.n, p, r, err)
	p.c.applied(p.n, r, err)
}

// Left implements driver.Call.
func (p *proposed) Left() bool { return p.c.left() }

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
	r.op.finish(r.op.value(r.n))
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
