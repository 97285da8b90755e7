package simtest

import (
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"go.etcd.io/raft/v3"
)

// disk is what survives a node's crash, and how a round is written to it.
type disk interface {
	// open reads what is there.
	open() (log raft.Storage, applied nexusraft.Index, members nexusraft.Membership)

	// stage prepares a round's write, and applies its committed entries.
	stage(w *zone.Work) []applied

	// commit does the write that was staged.
	commit(sync bool)

	// crash leaves what is synced; kept says that the staged write, if there is one,
	// was too.
	crash(kept bool)

	close()
}

// applied is one entry that a round has applied.
type applied struct {
	zone.Committed
	result []byte
}

// node drives one replica in the way of the package comment of zone, one round at a time,
// and can crash at any point of a round.
type node struct {
	s       *sim
	name    string
	id      nexusraft.NodeID
	replica nexusraft.ReplicaID
	witness bool
	disk    disk
	shadow  shadow // what the oracle believes to be on the disk
	conf    *pb.ConfState
	madeBy  *pb.ConfState // the configuration that the round's messages were made in

	r           *zone.Replica // nil: down
	incarnation nexusraft.Incarnation
	gone        bool  // for good
	retired     bool  // gone, and no node of the cluster any more
	restartAt   int64 // when it is down

	inbox    []packet
	calls    []func(*node)
	commands []*operation
	nextTick int64
	round    *round // being written
	crashAt  crashPoint

	sequence uint64
	waiting  map[zone.ProposalID]*operation
	reading  map[string]*operation     // asked for an index
	reads    []pendingRead             // have one, and wait until it is applied
	sending  map[*node]nexusraft.Index // snapshots under way: the log above is kept
	slowTo   int64                     // the disk answers nothing before this step
}

// round is a write under way, and what leaves after it.
type round struct {
	work    zone.Work
	due     int64
	applied []applied
	commit  commitView
}

// commitView is the zone as its replica saw it when it made the round's Committed.
type commitView struct {
	sync    nexusraft.SyncState
	members nexusraft.Membership
	conf    *pb.ConfState
}

type pendingRead struct {
	op    *operation
	index nexusraft.Index
}

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
	r, err := zone.New(zone.Config{
		Zone: zoneID, Replica: n.replica, Incarnation: n.incarnation, Witness: n.witness,
		Storage: log, Applied: at, Membership: members,
		MaxInflight: 16, MaxAppendBytes: 512,
	})
	n.s.must(n, "start", err)
	_, n.conf, err = log.InitialState()
	n.s.must(n, "read the configuration", err)
	n.r, n.nextTick, n.restartAt = r, n.s.now+int64(n.s.between(1, tickSteps)), 0
	n.waiting, n.reading = make(map[zone.ProposalID]*operation), make(map[string]*operation)
	n.sending = make(map[*node]nexusraft.Index)
	n.s.eventf("%s starts, incarnation %d, term %d, log (%d, %d]", n.name, n.incarnation, n.shadow.durable.term, n.shadow.durable.compacted, n.shadow.durable.last())
}

// crash stops the node; what it had not synced is lost, and kept decides about the write
// under way.
func (n *node) crash(kept bool, downTicks int) {
	writing := n.round != nil && !n.round.work.Empty()
	n.s.eventf("%s crashes, write under way %v, kept %v", n.name, writing, kept)
	n.disk.crash(kept && writing)
	n.shadow.crash(n, kept && writing)
	n.r, n.round, n.crashAt = nil, nil, never
	n.inbox, n.calls, n.commands, n.reads, n.slowTo = nil, nil, nil, nil, 0
	n.waiting, n.reading = nil, nil
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
	if n.round != nil {
		if n.s.now < n.round.due {
			return false // a worker that is blocked in a sync is silent
		}
		n.finish()
		return true
	}
	if n.crashAt == betweenRounds {
		n.crash(false, n.s.between(1, 30))
		return false
	}
	n.drain()
	if !n.r.HasWork() {
		return false
	}
	n.begin()
	return true
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
		n.r.Tick()
		n.s.oracle.looked(n)
		for n.nextTick <= n.s.now {
			n.nextTick += tickSteps
		}
	}
	n.serveReads()
}

func (n *node) receive(p packet) {
	if n.r.Membership().IsRemoved(p.from.replica) {
		p.from.fenced() // the handshake refuses it
		return
	}
	m := &pb.Message{}
	n.s.must(n, "unmarshal a message", proto.Unmarshal(p.message, m))
	if p.data != nil {
		n.disk.(*memberDisk).receive(m.GetSnapshot(), p.data)
	}
	n.s.eventf("%s<-%s %s", n.name, p.from.name, describe(m))
	if err := n.r.Step(p.from.id, m); err != nil {
		n.s.oracle.stepRefused(n, m, err)
	}
	n.s.oracle.looked(n)
}

// propose hands all waiting commands over at once.
func (n *node) propose() {
	ops := n.commands
	n.commands = nil
	if len(ops) == 0 {
		return
	}
	envelopes := make([]zone.Envelope, len(ops))
	for i, op := range ops {
		op.proposal = n.nextProposal()
		envelopes[i] = zone.Envelope{Proposal: op.proposal, Time: n.s.now, Command: []byte(op.command)}
	}
	err := n.r.Propose(envelopes)
	for _, op := range ops {
		if err != nil {
			op.refused(n, err)
		} else {
			n.waiting[op.proposal] = op
		}
	}
}

func (n *node) nextProposal() zone.ProposalID {
	n.sequence++
	return zone.ProposalID{Replica: n.replica, Incarnation: n.incarnation, Sequence: n.sequence}
}

// begin does the first half of a round: all that happens before the write is on the disk.
func (n *node) begin() {
	w, err := n.r.Ready()
	n.s.must(n, "make a round of work", err)
	view := commitView{members: n.r.Membership(), conf: n.conf}
	view.sync, _ = n.r.Sync()
	n.madeBy = n.conf
	n.s.oracle.worked(n, &w)
	n.sendAll(w.SendNow)
	if n.crashAt == beforeWrite {
		n.crash(false, n.s.between(1, 30))
		return
	}
	n.round = &round{work: w, due: n.s.now, applied: n.disk.stage(&w), commit: view}
	if !w.Empty() {
		n.round.due = max(n.s.now+int64(n.s.between(0, 4)), n.slowTo)
	}
	n.s.oracle.gate(n)
}

// finish does the second half.
func (n *node) finish() {
	rd := n.round
	if n.crashAt == inWrite {
		n.crash(n.s.percent(50), n.s.between(1, 30))
		return
	}
	if !rd.work.Empty() {
		// What needs no sync sometimes gets one, from another zone of the worker.
		sync := rd.work.MustSync || n.s.percent(20)
		n.disk.commit(sync)
		n.shadow.commit(sync)
		n.s.oracle.written(n)
	}
	if n.crashAt == afterWrite {
		n.crash(false, n.s.between(1, 30))
		return
	}
	n.round = nil
	n.sendAll(rd.work.AfterSync)
	n.r.Advance()
	n.answer(rd)
	n.s.oracle.gate(n)
	if n.r.Membership().IsRemoved(n.replica) {
		n.retire("it has applied its own removal")
	}
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

// answer gives the results of a round that is over to those who wait for them.
func (n *node) answer(rd *round) {
	for _, a := range rd.applied {
		if op := n.waiting[a.Waiting]; op != nil {
			delete(n.waiting, a.Waiting)
			n.s.oracle.acknowledged(n, op, a, rd.commit)
			op.finish(string(a.result))
		}
	}
	outcomes := slices.Clone(rd.work.Outcomes)
	slices.SortFunc(outcomes, func(a, b zone.Outcome) int { return cmp.Compare(a.Proposal.Sequence, b.Proposal.Sequence) })
	for _, o := range outcomes {
		n.s.oracle.ended(o)
		if op := n.waiting[o.Proposal]; op != nil {
			delete(n.waiting, o.Proposal)
			op.refused(n, o.Err)
		}
	}
	for _, rs := range rd.work.Reads {
		if op := n.reading[string(rs.Context)]; op != nil {
			delete(n.reading, string(rs.Context))
			n.reads = append(n.reads, pendingRead{op, rs.Index})
		}
	}
	n.serveReads()
}

// serveReads answers the reads whose index is applied and written.
func (n *node) serveReads() {
	n.reads = slices.DeleteFunc(n.reads, func(p pendingRead) bool {
		if n.r.Applied() < p.index {
			return false
		}
		value, _, err := n.disk.(*memberDisk).state.Get([]byte(p.op.key))
		n.s.must(n, "read a register", err)
		p.op.finish(string(value))
		return true
	})
}

func (n *node) sendAll(messages []*pb.Message) {
	for _, m := range messages {
		n.s.oracle.sent(n, m)
		n.s.eventf("%s->%s %s", n.name, n.s.name(nexusraft.ReplicaID(m.GetTo())), describe(m))
		to := n.s.replica(nexusraft.ReplicaID(m.GetTo()))
		switch {
		case to == nil || to == n:
			n.s.fatalf("%s: message to replica %x: %v", n.name, m.GetTo(), m)
		case m.GetType() == pb.MsgSnap && !to.witness:
			n.sendSnapshot(to, m)
		default:
			n.s.net.send(link{n, to}, m)
		}
	}
}

// sendSnapshot sends the state as it is on the disk now, and reports how that ended. The
// log above the snapshot is kept meanwhile.
func (n *node) sendSnapshot(to *node, m *pb.Message) {
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
func describe(m *pb.Message) string {
	s := fmt.Sprintf("%v term %d", m.GetType(), m.GetTerm())
	if m.GetType() == pb.MsgSnap {
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
	return s
}
