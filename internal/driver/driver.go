package driver

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Disk writes the rounds of a worker's groups.
type Disk interface {
	// Commit writes what the groups have staged since the last Commit, of each group all of it or
	// nothing; if sync is true, which it is if the part of one of them must be synced, that part
	// is on the disk when Commit returns. The list may be empty, and groups may have staged
	// nothing: an error then tells of a disk that has failed since. It is borrowed until Commit
	// returns. After an error nothing of the round leaves, and the Driver is not used again.
	Commit(groups []*Group, sync bool) error
}

// Sender takes what leaves the node, in the order in which it may (I3). Its methods don't block.
type Sender interface {
	// Send takes any message but votes and their answers. Entries are shared with the leader's
	// log: what is not encoded by its return is copied.
	Send(g *Group, to nexusraft.NodeID, m *raftpb.Message)

	// RequestVotes takes the vote requests of a round that go to one node. The list is borrowed
	// until it returns, the messages are the Sender's.
	RequestVotes(to nexusraft.NodeID, votes []VoteRequest)
}

// VoteRequest is a MsgVote or MsgPreVote on its way out.
type VoteRequest struct {
	Zone    nexusraft.ZoneID
	Message *raftpb.Message
}

// Driver makes the rounds of groups that are written together. It is for one goroutine, the one
// that touches its groups.
type Driver struct {
	disk      Disk
	out       Sender
	partBytes int

	// Of the turn under way; kept for their memory.
	writing []*Group
	whole   []*Group // everything of their round is written
	asks    []ask
}

// ask is the list of vote requests for one node.
type ask struct {
	to    nexusraft.NodeID
	votes []VoteRequest
}

// New returns a driver. partBytes is about how many bytes of effects and answers are in memory
// before they are written; an entry is never divided, of several commands either.
func New(disk Disk, out Sender, partBytes int) *Driver {
	return &Driver{disk: disk, out: out, partBytes: partBytes}
}

// Turn makes one round of every group that has work, in the order of the list, and reports whether
// any has more. The list must not be changed meanwhile, though Owner.Failed takes a group out of
// its own. After an error, which is the disk's, a log's or Owner.Ended's, the driver is not used
// again; the caller ends every group by Stop. raft may panic: the same goes for that.
func (d *Driver) Turn(groups []*Group) (busy bool, err error) {
	d.writing = d.writing[:0]
	for _, g := range groups {
		if g.HasWork() {
			d.writing = append(d.writing, g)
		}
	}
	if err := d.round(); err != nil {
		return false, err
	}
	for _, g := range groups {
		g.ignoreVotes()
		busy = busy || g.HasWork()
	}
	check(groups)
	return busy, nil
}

// check panics where a group contradicts itself.
func check(groups []*Group) {
	if !invariants {
		return
	}
	for _, g := range groups {
		if err := Valid(g); err != nil {
			panic(fmt.Sprintf("zone %v after a round: %v", g.zone, err))
		}
	}
}

// round does what the groups in d.writing ask for.
func (d *Driver) round() error {
	for _, g := range d.writing {
		if err := g.begin(d); err != nil {
			return err
		}
	}
	d.whole = d.whole[:0]
	for left, first := d.writing, true; first || len(left) > 0; first = false {
		written, err := d.write(left)
		if err != nil {
			return err
		}
		left = d.unfinished(written)
	}
	for _, g := range d.whole {
		g.finish(d)
	}
	d.requestVotes()
	for _, g := range d.whole {
		if err := g.owner.Ended(); err != nil {
			return err
		}
	}
	return nil
}

// unfinished returns those that have more to write, and remembers the others.
func (d *Driver) unfinished(written []*Group) []*Group {
	left := written[:0]
	for _, g := range written {
		if g.round.whole() {
			d.whole = append(d.whole, g)
		} else {
			left = append(left, g)
		}
	}
	return left
}

// write applies and stores one part of each group's round, and settles it. It returns those groups
// that can go on.
func (d *Driver) write(groups []*Group) (written []*Group, err error) {
	written = groups[:0]
	sync, room := false, d.partBytes
	for _, g := range groups {
		held, err := g.apply(room)
		if failure, ok := errors.AsType[*GroupError](err); ok {
			g.owner.Failed(failure.Err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("zone %v: %w", g.zone, err)
		}
		written = append(written, g)
		room -= held
		sync = sync || g.round.part.MustSync
	}
	for _, g := range written {
		if err := g.owner.Stage(&g.round.part); err != nil {
			return nil, fmt.Errorf("zone %v: %w", g.zone, err)
		}
	}
	if err := d.disk.Commit(written, sync); err != nil {
		return nil, err
	}
	for _, g := range written {
		g.settle()
	}
	return written, nil
}

// send sends raft's messages, each by its way.
func (d *Driver) send(g *Group, messages []*raftpb.Message) {
	for _, m := range messages {
		if typ := m.GetType(); typ == raftpb.MsgVoteResp || typ == raftpb.MsgPreVoteResp {
			g.answerVote(m)
			continue
		}
		to, ok := g.nodeOf(nexusraft.ReplicaID(m.GetTo()))
		if !ok { // nobody knows where; an answer is lost, and if its receiver lives it speaks again
			if m.GetType() == raftpb.MsgSnap {
				g.replica.ReportSnapshot(nexusraft.ReplicaID(m.GetTo()), false)
			}
			continue
		}
		switch m.GetType() {
		case raftpb.MsgVote, raftpb.MsgPreVote:
			d.ask(to, VoteRequest{g.zone, m})
		default:
			d.out.Send(g, to, m)
		}
	}
}

// ask puts a vote request into the round's list for a node.
func (d *Driver) ask(to nexusraft.NodeID, v VoteRequest) {
	for i := range d.asks {
		if d.asks[i].to == to {
			d.asks[i].votes = append(d.asks[i].votes, v)
			return
		}
	}
	d.asks = append(d.asks, ask{to, []VoteRequest{v}})
}

func (d *Driver) requestVotes() {
	for _, a := range d.asks {
		d.out.RequestVotes(a.to, a.votes)
	}
	clear(d.asks)
	d.asks = d.asks[:0]
}
