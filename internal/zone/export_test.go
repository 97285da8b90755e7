package zone

import (
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone/gate"
)

// What the tests of package zone_test see beyond the package's API. They run rounds by the driver,
// which imports this package, so they can't be in it.

const (
	MaxTermsAhead     = maxTermsAhead
	MaxWitnessBudget  = maxWitnessBudget
	WitnessTermsATick = witnessTermsATick
)

// DescribeGate returns the leader's gate, with R as it is now.
func (r *Replica) DescribeGate() string { return gate.Describe(&r.gate, r.voters()) }

// HeardWithin reports whether the gate remembers to have heard a replica within so many ticks.
func (r *Replica) HeardWithin(id nexusraft.ReplicaID, ticks int) bool {
	return r.gate.HeardWithin(id, ticks)
}

// SetMembership has the replica believe other records.
func (r *Replica) SetMembership(m nexusraft.Membership) { r.members = m }

// HardState returns raft's, before it is in any Work.
func (r *Replica) HardState() *raftpb.HardState { return r.rn.BasicStatus().HardState }

// IsFull reports whether a message is from a full replica.
func (r *Replica) IsFull(m *raftpb.Message) bool { return r.isFull(m) }

// DecodeConfChange reads the conf change of an entry: raft's part of it, and the records.
func DecodeConfChange(e *raftpb.Entry) (*raftpb.ConfChangeV2, []nexusraft.Member, error) {
	c, err := decodeConfChange(e)
	return c.raft, c.context.Set, err
}
