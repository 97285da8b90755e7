package driver

import (
	"cmp"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Owner is what a group belongs to: it has the group's log and state, and its name for the world.
// The driver calls it in the order of the methods, once in each round or part.
type Owner interface {
	// Began says what the round is about to do, before any of it is done.
	Began(*zone.Work)

	// Apply runs one committed command, conf change or empty entry over the state and what the part
	// has applied already; Stage stages it. A conf change is to be given to raft by
	// Group.ApplyConfChange. wanted says that somebody waits for Applied.Data, which may be large.
	// The error ends the driver's use, or, if it is a GroupError, the group alone.
	Apply(c *zone.Committed, wanted bool) (Applied, error)

	// Held returns how many bytes the effects that are not staged yet take in memory.
	Held() int

	// Stage prepares the part's write (I2).
	Stage(*Part) error

	// Written says that the part is stored, before anybody is answered.
	Written(*Part)

	// Refusal adds to a proposal's error what its caller needs: whom to ask instead.
	Refusal(error) error

	// Ended says that the round is over and everything has left. An error ends the driver's use:
	// the replica was removed.
	Ended() error

	// Failed says that Apply has returned a GroupError. The owner gives the group up and stops
	// it; the others go on.
	Failed(error)
}

// GroupError is what ends one group and no other.
type GroupError struct{ Err error }

func (e *GroupError) Error() string { return e.Err.Error() }
func (e *GroupError) Unwrap() error { return e.Err }

// Applied is the answer to a committed command.
type Applied struct {
	Data []byte
	Err  error // the state machine's own; the command is applied all the same

	// First is the index of the entry with which the same command ran before, of which this is
	// the answer, perhaps this very one; 0 if it has run now.
	First nexusraft.Index
}

// Part is what a group writes at once: the whole round, or a piece of it (I15).
type Part struct {
	// Work is the round's in its first part: Snapshot, Append and HardState are to be written. It
	// is nil in the later ones.
	Work *zone.Work

	// Committed is what the part has applied, at least one entry in a later part, and each of them
	// with all of its commands: the applied index moves over the whole entry (I2).
	Committed []zone.Committed

	// MustSync says that the part must be on the disk before anything is told of it.
	MustSync bool
}

// Empty reports whether there is nothing to store.
func (p *Part) Empty() bool {
	w := p.Work
	return len(p.Committed) == 0 && (w == nil || w.Snapshot == nil && len(w.Append) == 0 && w.HardState == nil)
}

// Snapshot returns the snapshot that the part installs, or nil.
func (p *Part) Snapshot() *raftpb.Snapshot {
	if p.Work == nil {
		return nil
	}
	return p.Work.Snapshot
}

// Config says what a group is.
type Config struct {
	zone.Config // of its replica

	Owner Owner

	// ReadTicks is for how many ticks a read waits for a leader.
	ReadTicks int

	Lease LeaseConfig
}

// Group is one zone's replica and all that waits for it. It is for one goroutine.
type Group struct {
	zone        nexusraft.ZoneID
	self        nexusraft.ReplicaID
	incarnation nexusraft.Incarnation

	replica *zone.Replica
	log     raft.Storage
	owner   Owner

	proposals pending
	votes     []voteSlot // at most one for each candidate and kind; empty between two turns
	reads     reads

	// from is the node that spoke for a replica which no record names yet: a replica that has been away may
	// meet a leader that was admitted meanwhile. At most nexusraft.MaxMembers.
	from map[nexusraft.ReplicaID]nexusraft.NodeID

	round  round // the zero value outside of a turn
	active bool  // it is in its worker's Active

	listed *[]*Group // of its worker's Neighbors; nil: it is not there
	place  int       // in that list
	slept  int       // the tick at which it was put there, or had a message after that

	stepped bool // it has had a message since Neighbors has noted it

	stopped bool // by Stop: nothing waits, and raft is not asked any more
}

// round is what one turn does for the group.
type round struct {
	work    zone.Work
	begun   bool // its first part is written
	applied int  // how many of work.Committed are, those of the part included; <= len(work.Committed)

	part    Part
	answers []Applied // one for each of part.Committed; kept for its memory
}

// whole reports whether nothing of the round is left to write.
func (r *round) whole() bool { return r.begun && r.applied == len(r.work.Committed) }

// NewGroup starts a replica from what its log holds; see zone.New.
func NewGroup(c Config) (*Group, error) {
	r, err := zone.New(c.Config)
	if err != nil {
		return nil, err
	}
	g := &Group{
		zone: c.Zone, self: c.Replica, incarnation: c.Incarnation,
		replica: r, log: c.Storage, owner: c.Owner,
		reads: newReads(c),
		from:  make(map[nexusraft.ReplicaID]nexusraft.NodeID),
	}
	g.reads.lease.kept = func() bool { return r.EachVoter(c.Lease.Keeps) }
	return g, nil
}

// Zone returns whose group it is.
func (g *Group) Zone() nexusraft.ZoneID { return g.zone }

// Replica returns the step machine, to be asked and told; the driver alone calls its Ready,
// Advance, Tick, Step, Read and the methods that propose.
func (g *Group) Replica() *zone.Replica { return g.replica }

// HasWork reports whether a round would do anything.
func (g *Group) HasWork() bool { return !g.stopped && (g.replica.HasWork() || g.reads.due()) }

// Tick advances time by one tick. While reads wait the zone does not sleep.
func (g *Group) Tick() {
	g.replica.Tick()
	g.reads.tick()
	g.renewLease()
	if g.reads.wait() {
		g.replica.Stir()
	}
}

// Step gives a message of a node to raft. call waits for the answer to a vote request, and is nil
// with any other message; it is answered in any case, by the end of the next turn. The error says
// why raft has not taken the message; see zone.Replica.Step.
func (g *Group) Step(from nexusraft.NodeID, m *raftpb.Message, call VoteCall) error {
	g.stepped = true
	if err := g.replica.Step(from, m); err != nil {
		if call != nil {
			call.Answer(g.ignored(err.Error()))
		}
		return err
	}
	if call != nil {
		g.await(m, call)
	}
	sender := nexusraft.ReplicaID(m.GetFrom())
	if _, known := g.replica.Membership().Replica(sender); !known && !zone.IsAnswer(m) {
		if len(g.from) >= nexusraft.MaxMembers {
			clear(g.from) // the true leader speaks again in a moment
		}
		g.from[sender] = from
	}
	return nil
}

// nodeOf returns the node of a replica: by its record, or else the one that spoke for it.
func (g *Group) nodeOf(id nexusraft.ReplicaID) (nexusraft.NodeID, bool) {
	if m, ok := g.replica.Membership().Replica(id); ok {
		return m.Node, true
	}
	node, ok := g.from[id]
	return node, ok
}

// ApplyConfChange has raft switch to a conf change; Owner.Apply calls it, and stores what it
// returns.
func (g *Group) ApplyConfChange(e *raftpb.Entry) (*raftpb.ConfState, nexusraft.Membership, error) {
	g.reads.lease.end()
	return g.replica.ApplyConfChange(e)
}

// begin starts the round: asks raft, sends what may leave early.
func (g *Group) begin(d *Driver) error {
	if context, ok := g.reads.request(); ok {
		g.replica.Read(context)
	}
	work, err := g.replica.Ready()
	g.round = round{work: work, answers: g.round.answers[:0]}
	if err != nil {
		return err
	}
	if work.Snapshot != nil && len(work.Committed) > 0 { // raft applies nothing in the round of a snapshot
		return fmt.Errorf("%w: zone %v: commands to apply in the round of a snapshot", nexusraft.ErrCorrupt, g.zone)
	}
	leader, _ := g.replica.Leader()
	g.reads.follow(leadership{leader, g.replica.Term()})
	g.followLease()
	g.owner.Began(&g.round.work)
	d.send(g, work.SendNow)
	return nil
}

// apply runs committed entries: one at least, and on until their effects and answers have about so
// many bytes; it returns how many they have. All commands of an entry are in the same part.
func (g *Group) apply(room int) (held int, err error) {
	r, first, data := &g.round, g.round.applied, 0
	r.part = Part{}
	if !r.begun {
		r.part.Work, r.part.MustSync = &r.work, r.work.MustSync
	}
	for r.applied < len(r.work.Committed) {
		c := &r.work.Committed[r.applied]
		if r.applied > first && !c.Continues() && data+g.owner.Held() >= room {
			break
		}
		a, err := g.owner.Apply(c, g.proposals.wanted(c.Waiting.Sequence))
		if err != nil {
			return 0, err
		}
		data += len(a.Data)
		r.answers = append(r.answers, a)
		r.part.MustSync = r.part.MustSync || c.ConfChange != nil
		r.applied++
	}
	r.part.Committed = r.work.Committed[first:r.applied]
	return data + g.owner.Held(), nil
}

// settle answers the calls that wait for the commands of a part that is stored (I8).
func (g *Group) settle() {
	r := &g.round
	g.owner.Written(&r.part)
	for i, c := range r.part.Committed {
		call := g.proposals.take(c.Waiting.Sequence)
		if call == nil {
			continue
		}
		a := r.answers[i]
		call.Answer(nexusraft.Result{
			Data: a.Data, Index: cmp.Or(a.First, c.Index), Copies: g.replica.Copies(c.Index),
		}, a.Err)
	}
	clear(r.answers)
	r.begun, r.part, r.answers = true, Part{}, r.answers[:0]
}

// finish ends the round once everything is stored: sends what had to wait, answers calls.
func (g *Group) finish(d *Driver) {
	w := &g.round.work
	d.send(g, w.AfterSync)
	for _, o := range w.Outcomes {
		if call := g.proposals.take(o.Proposal.Sequence); call != nil {
			call.Answer(nexusraft.Result{}, g.owner.Refusal(o.Err))
		}
	}
	for _, r := range w.Reads {
		g.reads.confirmed(r)
	}
	g.replica.Advance()
	g.reads.serve(g.replica.Applied())
	g.round = round{answers: g.round.answers}
}

// Stop ends every call that waits. It does not ask raft, which may have panicked; nor does the
// group from now on.
func (g *Group) Stop(err error) {
	g.stopped = true
	g.reads.lease.end()
	uncertain := fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
	for call := range g.proposals.all() {
		call.Answer(nexusraft.Result{}, uncertain)
	}
	g.proposals = pending{last: g.proposals.last}
	g.reads.fail(err)
	for _, v := range g.votes {
		v.call.Answer(VoteAnswer{Why: err.Error()})
	}
	g.votes = nil
}

// Valid returns what is wrong with a group between two turns; nil if nothing is. It is for tests,
// and is asked after every turn where the build has the tag "invariants".
func Valid(g *Group) error {
	switch r := &g.round; {
	case g.stopped:
		return nil
	case r.begun || r.applied != 0 || len(r.answers) != 0 || r.part.Work != nil:
		return errors.New("a round is left over")
	case len(g.votes) > 0:
		return fmt.Errorf("%d vote requests wait for a round that is over", len(g.votes))
	case len(g.from) > nexusraft.MaxMembers:
		return fmt.Errorf("%d replicas that no record names", len(g.from))
	}
	return errors.Join(g.proposals.valid(), g.reads.valid(g.replica.Applied()), zone.Valid(g.replica))
}
