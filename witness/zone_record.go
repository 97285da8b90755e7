package witness

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// compactForm returns the form in which the journal has the record, a third as long as that of a slot.
func (r record) compactForm() ([]byte, error) {
	p := &pb.WitnessRecord{
		Cluster: uint64(r.Cluster), Node: uint64(r.Node), Zone: uint64(r.Zone), Replica: uint64(r.Replica),
		Term: uint64(r.Term), Vote: uint64(r.Vote), Commit: uint64(r.Commit),
		Applied: uint64(r.Applied), AppliedTerm: uint64(r.AppliedTerm), Last: uint64(r.Last),
		Voters: convert[uint64](r.ConfState.Voters), Learners: convert[uint64](r.ConfState.Learners),
		VotersOutgoing: convert[uint64](r.ConfState.VotersOutgoing),
		LearnersNext:   convert[uint64](r.ConfState.LearnersNext), AutoLeave: r.ConfState.AutoLeave,
		Membership: wire.MembershipToProto(r.Membership),
	}
	for _, x := range r.Runs {
		p.Runs = append(p.Runs, &pb.TermRun{Term: uint64(x.Term), First: uint64(x.First)})
	}
	for _, c := range r.ConfChanges {
		p.ConfChanges = append(p.ConfChanges, &pb.ConfEntry{Index: uint64(c.Index), Type: c.Type, Data: c.Data})
	}
	b, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode the record of zone %v: %w", r.Zone, err)
	}
	return b, nil
}

// recordOf reads what compactForm wrote; the result is not validated.
func recordOf(b []byte) (record, error) {
	p := &pb.WitnessRecord{}
	if err := proto.Unmarshal(b, p); err != nil {
		return record{}, err
	}
	if n := len(p.ProtoReflect().GetUnknown()); n > 0 {
		return record{}, fmt.Errorf("%d bytes that this release does not know", n)
	}
	r := record{
		Origin: Origin{
			Cluster: nexusraft.ClusterID(p.GetCluster()), Node: nexusraft.NodeID(p.GetNode()),
			Zone: nexusraft.ZoneID(p.GetZone()), Replica: nexusraft.ReplicaID(p.GetReplica()),
		},
		Term: nexusraft.Term(p.GetTerm()), Vote: nexusraft.ReplicaID(p.GetVote()), Commit: nexusraft.Index(p.GetCommit()),
		Applied: nexusraft.Index(p.GetApplied()), AppliedTerm: nexusraft.Term(p.GetAppliedTerm()),
		Last: nexusraft.Index(p.GetLast()),
		ConfState: confState{
			Voters: convert[nexusraft.ReplicaID](p.GetVoters()), Learners: convert[nexusraft.ReplicaID](p.GetLearners()),
			VotersOutgoing: convert[nexusraft.ReplicaID](p.GetVotersOutgoing()),
			LearnersNext:   convert[nexusraft.ReplicaID](p.GetLearnersNext()), AutoLeave: p.GetAutoLeave(),
		},
		Membership: wire.MembershipFromProto(p.GetMembership()),
	}
	for _, x := range p.GetRuns() {
		r.Runs = append(r.Runs, run{nexusraft.Term(x.GetTerm()), nexusraft.Index(x.GetFirst())})
	}
	for _, c := range p.GetConfChanges() {
		data := slices.Clone(c.GetData())
		r.ConfChanges = append(r.ConfChanges, confEntry{nexusraft.Index(c.GetIndex()), c.GetType(), data})
	}
	return r, nil
}
