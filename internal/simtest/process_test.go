package simtest

import (
	"cmp"
	"errors"
	"iter"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

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
	period   int64  // steps in which its monotonic clock shows a tick
	shows    int64  // what that clock shows
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

// turn is one turn of the driver. It stands still while its write is under way, which takes steps of
// time, and goes on from there; or a crash ends it there.
type turn struct {
	resume func() (struct{}, bool) // until the next write; false: it is over
	end    func()                  // where it stands still
	yield  func(struct{}) bool     // false: it is to end

	staged []*node // what is being written
	due    int64   // when it is
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
			p.nextTick += p.period
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
