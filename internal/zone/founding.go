package zone

import (
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// FoundingIndex is the last index that the log of a zone's first replicas does not have, and
// FoundingTerm the term of the entry there: committed and applied before the zone begins. The index is
// above 1, so that every replica that joins later, the first one included, starts by snapshot: one
// path, used in each run.
const (
	FoundingIndex nexusraft.Index = 8
	FoundingTerm  nexusraft.Term  = 1
)

// FoundingState is what the log of each of a zone's first replicas begins with: all of them vote.
func FoundingState(m nexusraft.Membership) (*raftpb.HardState, *raftpb.ConfState) {
	cs := &raftpb.ConfState{}
	for _, x := range m.Members {
		cs.Voters = append(cs.Voters, uint64(x.Replica))
	}
	return &raftpb.HardState{
		Term: new(uint64(FoundingTerm)), Vote: new(uint64(0)), Commit: new(uint64(FoundingIndex)),
	}, cs
}
