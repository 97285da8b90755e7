package wire

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// AuthoritiesToProto converts what is known of a cluster's authorities.
func AuthoritiesToProto(a nexusraft.Authorities) *pb.AuthorityInfo {
	info := &pb.AuthorityInfo{Phase: AuthorityPhaseToProto(a.Phase), Certificates: a.Certificates}
	for _, n := range a.Nodes {
		info.Nodes = append(info.Nodes, &pb.AuthorityNode{
			Node: uint64(n.Node), Name: n.Name, Role: RoleToProto(n.Role), Believes: n.Believes, Shows: n.Shows,
			Problem: n.Problem,
		})
	}
	return info
}

// AuthoritiesFromProto converts what is known of a cluster's authorities.
func AuthoritiesFromProto(info *pb.AuthorityInfo) nexusraft.Authorities {
	a := nexusraft.Authorities{Phase: AuthorityPhaseFromProto(info.GetPhase()), Certificates: info.GetCertificates()}
	for _, n := range info.GetNodes() {
		a.Nodes = append(a.Nodes, nexusraft.AuthorityNode{
			Node: nexusraft.NodeID(n.GetNode()), Name: n.GetName(), Role: RoleFromProto(n.GetRole()),
			Believes: n.GetBelieves(), Shows: n.GetShows(), Problem: n.GetProblem(),
		})
	}
	return a
}
