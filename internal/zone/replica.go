package zone

import (
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone/gate"
)

// Config says what a replica is and where it starts. The zero value of each optional
// field is the documented default.
type Config struct {
	Zone        nexusraft.ZoneID
	Replica     nexusraft.ReplicaID
	Incarnation nexusraft.Incarnation
	Witness     bool // votes, holds no data, never leads (I11)

	Storage    raft.Storage // the durable log
	Applied    nexusraft.Index
	Membership nexusraft.Membership // as of Applied

	// Vouched reports whether a node that no record names has proved, to the driver, that it is a
	// full one; see checkSender. nil: none has. Step calls it.
	Vouched func(nexusraft.NodeID) bool

	// Batches reports whether every node that reads the zone's log reads entries of several commands;
	// nil: not every one does. Propose calls it.
	Batches func() bool

	// Signals lets the zone sleep while it is idle, and its leader send fewer heartbeats while it is not; nil:
	// neither.
	Signals Signals

	ElectionTicks  int // 6: silence before a member campaigns, randomised by raft up to twice that
	HeartbeatTicks int // 1; with Signals the zone's own heartbeats are rarer, see HeartbeatInterval
	HoldTicks      int // 6: how long an entry may wait for both members before the witness gets it

	MaxAppendBytes      uint64 // 1 MiB: entries in one append
	MaxCommittedBytes   uint64 // 1 MiB: entries applied in one round, each of which may cost far more than its bytes
	MaxUncommittedBytes uint64 // 64 MiB: beyond it proposals are refused as ErrOverloaded
	MaxInflight         int    // 256: appends on their way to one replica

	Logger raft.Logger // discards by default
}

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.ElectionTicks, 6)
	setDefault(&c.HeartbeatTicks, 1)
	setDefault(&c.HoldTicks, 6)
	setDefault(&c.MaxAppendBytes, 1<<20)
	setDefault(&c.MaxCommittedBytes, 1<<20)
	setDefault(&c.MaxUncommittedBytes, 64<<20)
	setDefault(&c.MaxInflight, 256)
	if c.Logger == nil {
		c.Logger = NewLogger(slog.New(slog.DiscardHandler), c.Zone)
	}
	if c.Vouched == nil {
		c.Vouched = func(nexusraft.NodeID) bool { return false }
	}
	if c.Batches == nil {
		c.Batches = func() bool { return false }
	}
	var errs []error
	if c.Storage == nil {
		errs = append(errs, errors.New("a Storage is required"))
	}
	if c.Replica == 0 || c.Replica >= ^nexusraft.ReplicaID(0)-1 {
		errs = append(errs, fmt.Errorf("replica ID %v is reserved", c.Replica))
	}
	if c.ElectionTicks <= c.HeartbeatTicks || c.ElectionTicks > maxElectionTicks {
		errs = append(errs, fmt.Errorf("ElectionTicks %d is not in (%d, %d]", c.ElectionTicks, c.HeartbeatTicks,
			maxElectionTicks))
	}
	if c.HeartbeatTicks < 1 || c.HoldTicks < 1 {
		errs = append(errs, errors.New("HeartbeatTicks and HoldTicks are at least 1"))
	}
	if c.Signals != nil {
		c.HeartbeatTicks = HeartbeatInterval(c.ElectionTicks, c.HeartbeatTicks, c.HoldTicks)
	}
	return c, errors.Join(errs...)
}

// raft computes with twice the election timeout; a huge one overflows and campaigns at once.
const maxElectionTicks = 10_000

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Replica is one node's part in a zone. See the package comment for how it is driven.
type Replica struct {
	cfg     Config
	rn      *raft.RawNode
	members nexusraft.Membership // as of the last applied conf change
	conf    *raftpb.ConfState    // the same moment, as raft sees it

	// Between two rounds applied <= hard.commit <= last, and reach <= last; see Valid.
	hard    hardState       // as of the last Ready
	applied nexusraft.Index // as of the last Advance
	last    nexusraft.Index // last index of the log as of the last Ready
	reach   nexusraft.Index // the log reaches at least here after what was stepped since
	asked   uint64          // as leader: how many reads raft has asked the others to confirm
	state   raft.StateType  // as of the last Ready
	lead    nexusraft.ReplicaID

	lost      error                 // why the replica must stop: its log has forgotten
	inRound   bool                  // between Ready and Advance
	applyTo   nexusraft.Index       // applied once this round is advanced
	unchecked bool                  // the gate must be evaluated though raft has no Ready
	told      []gate.SnapshotReport // for raft, at the next Advance

	proposals  proposals
	gate       gate.Gate
	voting     gate.Voters       // see voters
	votingBy   *raftpb.ConfState // the configuration that voting is of
	silence    silence
	handedOver nexusraft.Term // the newest term in which it has begun a transfer
	terms      terms
	sleep      sleep
	trust      trust
}

type hardState struct {
	term   nexusraft.Term
	vote   nexusraft.ReplicaID
	commit nexusraft.Index
}

// New starts a replica from what its log holds. It returns what is wrong with the
// configuration, ErrRefused if it makes a witness of a full replica or the other way
// round, or ErrCorrupt if raft can't start from the log.
func New(c Config) (r *Replica, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, fmt.Errorf("start replica %v of zone %v: %w", c.Replica, c.Zone, err)
	}
	if m, ok := c.Membership.Replica(c.Replica); ok && (m.Role == nexusraft.RoleWitness) != c.Witness {
		return nil, fmt.Errorf("%w: replica %v of zone %v is a %s by its record", nexusraft.ErrRefused, c.Replica, c.Zone,
			m.Role)
	}
	hs, cs, err := c.Storage.InitialState()
	if err != nil {
		return nil, fmt.Errorf("read initial state of zone %v: %w", c.Zone, err)
	}
	last, err := c.Storage.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("read last index of zone %v: %w", c.Zone, err)
	}
	r = &Replica{
		cfg: c, members: c.Membership, conf: cs,
		hard:    hardState{nexusraft.Term(hs.GetTerm()), nexusraft.ReplicaID(hs.GetVote()), nexusraft.Index(hs.GetCommit())},
		applied: c.Applied, last: nexusraft.Index(last), reach: nexusraft.Index(last),
		silence:   silenceAtStart(nexusraft.Term(hs.GetTerm()), c.ElectionTicks),
		proposals: newProposals(),
		gate:      gate.New(c.HoldTicks, c.HeartbeatTicks),
		sleep:     sleep{backOff: 1},
	}
	// raft answers a log it can't work with by a panic.
	defer func() {
		if p := recover(); p != nil {
			r, err = nil, fmt.Errorf("%w: raft can't start zone %v from its log: %v", nexusraft.ErrCorrupt, c.Zone, p)
		}
	}()
	r.rn, err = raft.NewRawNode(&raft.Config{
		ID: uint64(c.Replica), Storage: c.Storage, Applied: uint64(c.Applied),
		ElectionTick: c.ElectionTicks, HeartbeatTick: c.HeartbeatTicks,
		MaxSizePerMsg: c.MaxAppendBytes, MaxCommittedSizePerReady: c.MaxCommittedBytes,
		MaxUncommittedEntriesSize: c.MaxUncommittedBytes, MaxInflightMsgs: c.MaxInflight,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true,
		ReadOnlyOption: raft.ReadOnlySafe, Logger: c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("start raft of zone %v: %w", c.Zone, err)
	}
	return r, nil
}

// Tick advances time by one tick.
func (r *Replica) Tick() {
	r.terms.tick()
	r.silence.ticks++
	r.tickSleep()
	for range r.ticksDue() {
		if r.cfg.Witness {
			r.tickWitness()
		} else {
			r.rn.Tick()
		}
	}
	r.tickProposals()
	if r.leads() {
		r.gate.Tick(r.last)
		r.leaveJoint()
		r.evaluate()
	}
}

// evaluate moves the gate on with time, and asks for a round if that has anything to do.
func (r *Replica) evaluate() {
	before, _ := r.gate.State()
	if r.gate.Due() {
		r.gate.Evaluate(r.voters())
	}
	after, _ := r.gate.State()
	r.unchecked = r.unchecked || before != after || r.gate.Unsettled()
}

func (r *Replica) tickProposals() {
	var led nexusraft.Term
	if r.leads() {
		led = r.Term()
	}
	r.proposals.tick(led, r.cfg.ElectionTicks)
	r.unchecked = r.unchecked || len(r.proposals.ended) > 0
}

// Campaign makes a member stand for election at once, or returns ErrRefused while it gives no votes. A
// witness never does (I11).
func (r *Replica) Campaign() error {
	if r.cfg.Witness {
		return fmt.Errorf("%w: a witness never leads", nexusraft.ErrRefused)
	}
	if left := r.LeaseTicksLeft(); left > 0 {
		return fmt.Errorf("%w: it may have heard of a leader, and stands for election in %d ticks at the earliest",
			nexusraft.ErrRefused, left)
	}
	r.Stir()
	return r.rn.Campaign()
}

// Read asks for the index from which a linearizable read may be served. The answer comes in some
// Work.Reads, or never (no leader, a lost message): ask again after a while. The context is copied,
// and must be unique in the zone: it travels to the leader and back.
func (r *Replica) Read(context []byte) {
	r.Stir()
	if r.readsTooEarly() {
		return
	}
	r.rn.ReadIndex(append([]byte(nil), context...))
}

// readsTooEarly reports whether a read would be answered from a commit index that may miss
// acknowledged writes. A restart may bring back an old commit index, since that alone is not synced;
// a leader's is current once an entry of its own term is committed. raft waits for that, except
// where the leader is the only voter.
func (r *Replica) readsTooEarly() bool {
	st := r.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || len(r.conf.GetVoters()) > 1 {
		return false
	}
	return r.gate.Term() != nexusraft.Term(st.GetTerm()) || nexusraft.Index(st.GetCommit()) < r.gate.Opens()
}

// TermApplied reports whether this replica leads and has applied an entry of its own term. Then it
// has applied everything that was acknowledged before it led.
func (r *Replica) TermApplied() bool {
	return r.leads() && r.gate.Term() == r.hard.term && r.applied >= r.gate.Opens()
}

// TransferLeader asks the leader to hand over to a member. It returns ErrNotLeader, or
// ErrRefused with the reason; a witness is refused here, before raft would stop taking
// proposals for an election timeout (I11).
func TransferLeader(r *Replica, to nexusraft.ReplicaID) error {
	m, ok := r.members.Replica(to)
	switch {
	case !r.leads():
		return nexusraft.ErrNotLeader
	case !ok:
		return fmt.Errorf("%w: the zone has no replica %v", nexusraft.ErrRefused, to)
	case m.Role == nexusraft.RoleWitness:
		return fmt.Errorf("%w: %v is a witness, and a witness never leads", nexusraft.ErrRefused, to)
	case m.Role != nexusraft.RoleMember:
		return fmt.Errorf("%w: %v is a %s; only members lead", nexusraft.ErrRefused, to, m.Role)
	}
	r.Stir()
	r.handedOver = r.hard.term
	r.rn.TransferLeader(uint64(to))
	return nil
}

// ReportUnreachable tells raft that messages to a replica may be lost. While the zone sleeps none is
// on its way.
func (r *Replica) ReportUnreachable(to nexusraft.ReplicaID) {
	if !r.sleep.asleep {
		r.rn.ReportUnreachable(uint64(to))
	}
}

// ReportLeaving says that a replica is shutting down in order: no append waits for it until it is
// heard of again.
func (r *Replica) ReportLeaving(to nexusraft.ReplicaID) {
	if r.leads() {
		r.Stir()
		r.gate.Leaving(to)
		r.rn.ReportUnreachable(uint64(to))
		r.unchecked = true
	}
}

// ReportSnapshot tells raft how the snapshot to a replica ended. Each one is reported.
func (r *Replica) ReportSnapshot(to nexusraft.ReplicaID, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	r.Stir()
	r.rn.ReportSnapshot(uint64(to), status)
}

// leads reports whether this replica was the leader at the last Ready and still is.
func (r *Replica) leads() bool {
	return r.state == raft.StateLeader && r.rn.BasicStatus().RaftState == raft.StateLeader
}
