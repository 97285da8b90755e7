package zone

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ConfChange is one change of a zone's replicas. More than one replica at once, or a member
// that goes, makes it a joint change, which ends by itself.
type ConfChange struct {
	Set    []nexusraft.Member    // admitted, or given another role (a learner becomes a member)
	Remove []nexusraft.ReplicaID // gone for ever: a tombstone stays (I12)
	Time   int64                 // the leader's clock, as an Envelope's
}

// ErrChanging is the refusal that passes by itself; it matches ErrRefused, too.
var ErrChanging = errors.New("another change of the zone's replicas is under way")

// confContext is what our conf changes carry besides raft's own fields: the records, so
// that each replica that applies the change knows node and address of all others.
type confContext struct {
	Proposal ProposalID         `json:"proposal"`
	Set      []nexusraft.Member `json:"set,omitempty"`
	Time     int64              `json:"time,omitempty"`
}

type confChange struct {
	raft    *raftpb.ConfChangeV2
	context confContext
}

// ProposeConfChange proposes one change of the zone's replicas. It returns ErrNotLeader,
// ErrOverloaded, or ErrRefused with the reason: the change was not appended. (For one that
// is refused because another is under way raft appends an empty entry.)
func ProposeConfChange(r *Replica, id ProposalID, c ConfChange) error {
	if err := r.checkConfChange(c); err != nil {
		return err
	}
	e, err := encodeConfChange(id, c, slices.ContainsFunc(c.Remove, r.isMember))
	if err != nil {
		return err
	}
	entries := []*raftpb.Entry{e}
	term, err := r.propose(entries)
	if err != nil {
		return err
	}
	// raft puts an empty normal entry in the place of a change that it refuses, and says
	// nothing. The slice is ours, so the swap can be seen.
	if entries[0].GetType() != raftpb.EntryConfChangeV2 {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, ErrChanging)
	}
	r.proposals.fresh[id] = fresh{term, 1}
	return nil
}

// checkConfChange refuses what must never be: a removed replica that comes back, or in the root zone
// its node (in others it may, as another replica), a node with two replicas, a replica that moves to
// another node, one that begins or ceases to be a witness (I11), witnesses that are half of the voters
// or more.
func (r *Replica) checkConfChange(c ConfChange) error {
	if len(c.Set)+len(c.Remove) == 0 {
		return fmt.Errorf("%w: the change is empty", nexusraft.ErrRefused)
	}
	if r.Joint() {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, ErrChanging)
	}
	next := r.members
	for _, m := range c.Set {
		if r.members.IsRemoved(m.Replica) || !r.returns() && r.members.IsRemovedNode(m.Node) {
			return fmt.Errorf("%w: replica %v of node %v was removed, and identities are never used again", nexusraft.ErrRefused,
				m.Replica, m.Node)
		}
		if old, ok := r.members.Replica(m.Replica); ok && old.Node != m.Node {
			return fmt.Errorf("%w: replica %v belongs to node %v", nexusraft.ErrRefused, m.Replica, old.Node)
		} else if ok && (old.Role == nexusraft.RoleWitness) != (m.Role == nexusraft.RoleWitness) {
			return fmt.Errorf("%w: %v is a %s; only a new replica can be a %s", nexusraft.ErrRefused, m.Replica, old.Role,
				m.Role)
		}
		next = next.With(m)
	}
	for _, id := range c.Remove {
		if _, ok := r.members.Replica(id); !ok {
			return fmt.Errorf("%w: the zone has no replica %v", nexusraft.ErrRefused, id)
		}
		next = next.Without(id)
	}
	if err := next.Validate(); err != nil {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	if witnesses, voters := next.Count(nexusraft.RoleWitness), voters(next); witnesses*2 >= voters {
		return fmt.Errorf("%w: %d of %d voters would be witnesses; they must be fewer than half", nexusraft.ErrRefused,
			witnesses, voters)
	}
	// Tombstones are for ever (I12), and the records travel in each snapshot.
	if n := len(next.Encode()); n > nexusraft.MaxMembershipBytes {
		return fmt.Errorf("%w: the zone's records would have %d bytes, limit %d, %d replicas that were removed among them; "+
			"move its data to a new cluster",
			nexusraft.ErrRefused, n, nexusraft.MaxMembershipBytes, len(next.Removed))
	}
	return nil
}

// encodeConfChange makes the entry of a change, a joint one if joint or raft says so.
//
// A member goes by a joint change even if it goes alone: it may come to lead meanwhile, and
// as long as the configuration is joint the gate knows that its leader goes.
func encodeConfChange(id ProposalID, c ConfChange, joint bool) (*raftpb.Entry, error) {
	context, err := json.Marshal(confContext{Proposal: id, Set: c.Set, Time: c.Time})
	if err != nil {
		return nil, fmt.Errorf("encode conf change: %w", err)
	}
	cc := &raftpb.ConfChangeV2{Context: context}
	if joint {
		cc.Transition = raftpb.ConfChangeTransitionJointImplicit.Enum()
	}
	for _, m := range c.Set {
		typ := raftpb.ConfChangeAddNode
		if m.Role == nexusraft.RoleLearner {
			typ = raftpb.ConfChangeAddLearnerNode
		}
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: typ.Enum(), NodeId: new(uint64(m.Replica))})
	}
	for _, id := range c.Remove {
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{
			Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(id)),
		})
	}
	data, err := proto.Marshal(cc)
	if err != nil {
		return nil, fmt.Errorf("encode conf change: %w", err)
	}
	return &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: data}, nil
}

// decodeConfChange reads the conf change of an entry. An empty one leaves a joint
// configuration; raft proposes it by itself.
func decodeConfChange(e *raftpb.Entry) (confChange, error) {
	var out confChange
	if e.GetType() != raftpb.EntryConfChangeV2 {
		return out, fmt.Errorf("%w: entry %d is a %v, not a conf change of ours", nexusraft.ErrCorrupt, e.GetIndex(),
			e.GetType())
	}
	out.raft = &raftpb.ConfChangeV2{}
	if err := proto.Unmarshal(e.GetData(), out.raft); err != nil {
		return out, fmt.Errorf("%w: conf change at %d: %w", nexusraft.ErrCorrupt, e.GetIndex(), err)
	}
	if len(out.raft.GetContext()) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(out.raft.GetContext(), &out.context); err != nil {
		return out, fmt.Errorf("%w: records of the conf change at %d: %w", nexusraft.ErrCorrupt, e.GetIndex(), err)
	}
	return out, nil
}

// ConfChangeTime returns the clock of the leader that took a conf change; 0 if that is not
// known, as of the end of a joint configuration.
func ConfChangeTime(e *raftpb.Entry) (int64, error) {
	c, err := decodeConfChange(e)
	return c.context.Time, err
}

// ApplyConfChange applies a committed conf change, between Ready and Advance, and returns
// what to store with the applied index. It returns ErrCorrupt if the entry can't be read;
// the zone must then stop.
func (r *Replica) ApplyConfChange(e *raftpb.Entry) (*raftpb.ConfState, nexusraft.Membership, error) {
	c, err := decodeConfChange(e)
	if err != nil {
		return nil, nexusraft.Membership{}, err
	}
	cs, err := r.switchConf(c.raft)
	if err != nil {
		return nil, nexusraft.Membership{}, fmt.Errorf("%w: conf change at %d: %w", nexusraft.ErrCorrupt, e.GetIndex(), err)
	}
	next := r.members
	for _, m := range c.context.Set {
		next = next.With(m)
	}
	// A record lives as long as raft still sends to its replica: an outgoing voter keeps
	// it until the joint configuration is left.
	for _, m := range next.Members {
		if !inConf(cs, uint64(m.Replica)) {
			next = next.Without(m.Replica)
		}
	}
	r.members, r.conf = next, cs
	if r.gate.Term() != 0 {
		r.gate.Evaluate(r.voters()) // R may be another one now
	}
	r.unchecked = true
	return cs, next, nil
}

// leaveJoint proposes the end of a joint configuration. raft does so itself, but only while
// it applies an entry: if a transfer keeps it from proposing just then, and fails, an idle
// zone would stay in between for ever.
func (r *Replica) leaveJoint() {
	if !r.Joint() || r.applied < r.last || r.rn.BasicStatus().LeadTransferee != 0 {
		return
	}
	leave := &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum()}
	if _, err := r.propose([]*raftpb.Entry{leave}); err != nil {
		r.cfg.Logger.Debugf("can't leave the joint configuration yet: %v", err)
	}
}

// switchConf has raft switch to another configuration. raft answers a change that the
// configuration does not allow by a panic, before anything is switched.
func (r *Replica) switchConf(c *raftpb.ConfChangeV2) (cs *raftpb.ConfState, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("raft can't apply it: %v", p)
		}
	}()
	return r.rn.ApplyConfChange(c), nil
}

// installMembership takes over the records and the configuration of a snapshot.
func (r *Replica) installMembership(s *raftpb.Snapshot) error {
	m, err := nexusraft.DecodeMembership(s.GetData())
	if err != nil {
		return fmt.Errorf("records of the snapshot at %d: %w", s.GetMetadata().GetIndex(), err)
	}
	r.members, r.conf = m, s.GetMetadata().GetConfState()
	return nil
}

// checkSnapshot refuses a snapshot whose configuration raft would panic on, or that does
// not know this replica.
func checkSnapshot(self nexusraft.ReplicaID, msg *raftpb.Message) error {
	s := msg.GetSnapshot()
	meta := s.GetMetadata()
	cs := meta.GetConfState()
	if meta.GetIndex() == 0 || meta.GetTerm() == 0 || len(cs.GetVoters()) == 0 {
		return errors.New("snapshot without index, term or voters")
	}
	if meta.GetTerm() > msg.GetTerm() {
		return fmt.Errorf("snapshot of term %d in a message of term %d", meta.GetTerm(), msg.GetTerm())
	}
	m, err := nexusraft.DecodeMembership(s.GetData())
	if err != nil {
		return err
	}
	for _, id := range slices.Concat(cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()) {
		if _, ok := m.Replica(nexusraft.ReplicaID(id)); !ok {
			return fmt.Errorf("snapshot's configuration names replica %x and has no record of it", id)
		}
	}
	if !inConf(cs, uint64(self)) {
		return fmt.Errorf("snapshot's configuration has no replica %v", self)
	}
	return checkConfState(cs)
}

// checkConfState refuses a configuration that contradicts itself: raft takes it apart into
// changes, and panics if these don't make the same configuration again.
func checkConfState(cs *raftpb.ConfState) error {
	cfg, _, err := confchange.Restore(confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}, cs)
	if err != nil {
		return fmt.Errorf("snapshot's configuration: %w", err)
	}
	restored := tracker.ProgressTracker{Config: cfg}
	if restored.ConfState().Equivalent(cs) != nil {
		return fmt.Errorf("snapshot's configuration contradicts itself: %s", raft.DescribeConfState(cs))
	}
	return nil
}

func inConf(cs *raftpb.ConfState, id uint64) bool {
	return slices.Contains(cs.GetVoters(), id) || slices.Contains(cs.GetLearners(), id) ||
		slices.Contains(cs.GetVotersOutgoing(), id) || slices.Contains(cs.GetLearnersNext(), id)
}
