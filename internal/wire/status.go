// Package wire converts between the root package's values and their generated messages.
//
// What comes from the wire is another node's word: the conversions from it never panic,
// keep no reference to the message, and leave unknown enum values empty. They check
// nothing else; a caller that relies on a value checks it.
package wire

import (
	"math"

	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// NodeStatusToProto converts a node's status.
func NodeStatusToProto(s nexusraft.NodeStatus) *pb.NodeStatus {
	m := &pb.NodeStatus{
		ClusterId:   uint64(s.Cluster),
		NodeId:      uint64(s.Node),
		Name:        s.Name,
		Address:     s.Address,
		Witness:     s.Witness,
		Incarnation: uint64(s.Incarnation),
		Healthy:     s.Healthy,
		Problem:     s.Problem,
		DiskBytes:   s.DiskBytes,
		DiskFree:    s.DiskFree,
		Zones:       convert(s.Zones, ZoneStatusToProto),
		Refused:     s.Refused,
		Peers:       convert(s.Peers, peerToProto),
		Minor:       s.Minor,

		ClusterVersion:  s.ClusterVersion,
		MachineVersions: s.MachineVersions,
	}
	if !s.CertificateUntil.IsZero() {
		m.CertificateUntil = timestamppb.New(s.CertificateUntil)
	}
	return m
}

// NodeStatusFromProto is the inverse of NodeStatusToProto.
func NodeStatusFromProto(m *pb.NodeStatus) nexusraft.NodeStatus {
	s := nexusraft.NodeStatus{
		Cluster:     nexusraft.ClusterID(m.GetClusterId()),
		Node:        nexusraft.NodeID(m.GetNodeId()),
		Name:        m.GetName(),
		Address:     m.GetAddress(),
		Witness:     m.GetWitness(),
		Incarnation: nexusraft.Incarnation(m.GetIncarnation()),
		Healthy:     m.GetHealthy(),
		Problem:     m.GetProblem(),
		DiskBytes:   m.GetDiskBytes(),
		DiskFree:    m.GetDiskFree(),
		Zones:       convert(m.GetZones(), ZoneStatusFromProto),
		Refused:     m.GetRefused(),
		Peers:       convert(m.GetPeers(), peerFromProto),
		Minor:       m.GetMinor(),

		ClusterVersion:  m.GetClusterVersion(),
		MachineVersions: m.GetMachineVersions(),
	}
	if t := m.GetCertificateUntil(); t.IsValid() {
		s.CertificateUntil = t.AsTime()
	}
	return s
}

func peerToProto(s nexusraft.PeerStatus) *pb.PeerStatus {
	m := &pb.PeerStatus{
		NodeId:  uint64(s.Node),
		Address: s.Address,
		Reached: s.Reached,
		Since:   timestamppb.New(s.Since),
		Error:   s.Error,
		Heard:   s.Heard,
	}
	if !s.HeardAt.IsZero() {
		m.HeardAt = timestamppb.New(s.HeardAt)
	}
	return m
}

func peerFromProto(m *pb.PeerStatus) nexusraft.PeerStatus {
	s := nexusraft.PeerStatus{
		Node:    nexusraft.NodeID(m.GetNodeId()),
		Address: m.GetAddress(),
		Reached: m.GetReached(),
		Since:   m.GetSince().AsTime(),
		Error:   m.GetError(),
		Heard:   m.GetHeard(),
	}
	if t := m.GetHeardAt(); t.IsValid() {
		s.HeardAt = t.AsTime()
	}
	return s
}

// ZoneStatusToProto converts a replica's status of its zone.
func ZoneStatusToProto(s nexusraft.ZoneStatus) *pb.ZoneStatus {
	m := &pb.ZoneStatus{
		Zone:       uint64(s.Zone),
		Replica:    uint64(s.Replica),
		Role:       RoleToProto(s.Role),
		State:      raftStates.toProto(s.State),
		Leader:     uint64(s.Leader),
		Term:       uint64(s.Term),
		Commit:     uint64(s.Commit),
		Applied:    uint64(s.Applied),
		FirstIndex: uint64(s.FirstIndex),
		LastIndex:  uint64(s.LastIndex),
		Sync:       syncStates.toProto(s.Sync),
		SyncIndex:  uint64(s.SyncIndex),
		Membership: MembershipToProto(s.Membership),
		Replicas:   convert(s.Replicas, replicaToProto),
		Snapshots:  convert(s.Snapshots, snapshotToProto),

		MachineVersion: s.MachineVersion,
		Moving:         s.Moving,
	}
	if s.Shape != (nexusraft.Shape{}) {
		m.Shape = ShapeToProto(s.Shape)
	}
	if !s.SyncSince.IsZero() {
		m.SyncSince = timestamppb.New(s.SyncSince)
	}
	return m
}

// ZoneStatusFromProto is the inverse of ZoneStatusToProto; times come back in UTC.
func ZoneStatusFromProto(m *pb.ZoneStatus) nexusraft.ZoneStatus {
	s := nexusraft.ZoneStatus{
		Zone:       nexusraft.ZoneID(m.GetZone()),
		Replica:    nexusraft.ReplicaID(m.GetReplica()),
		Role:       RoleFromProto(m.GetRole()),
		State:      raftStates.fromProto(m.GetState()),
		Leader:     nexusraft.ReplicaID(m.GetLeader()),
		Term:       nexusraft.Term(m.GetTerm()),
		Commit:     nexusraft.Index(m.GetCommit()),
		Applied:    nexusraft.Index(m.GetApplied()),
		FirstIndex: nexusraft.Index(m.GetFirstIndex()),
		LastIndex:  nexusraft.Index(m.GetLastIndex()),
		Sync:       syncStates.fromProto(m.GetSync()),
		SyncIndex:  nexusraft.Index(m.GetSyncIndex()),
		Membership: MembershipFromProto(m.GetMembership()),
		Replicas:   convert(m.GetReplicas(), replicaFromProto),
		Snapshots:  convert(m.GetSnapshots(), snapshotFromProto),

		MachineVersion: m.GetMachineVersion(),
		Shape:          ShapeFromProto(m.GetShape()),
		Moving:         m.GetMoving(),
	}
	if t := m.GetSyncSince(); t.IsValid() {
		s.SyncSince = t.AsTime()
	}
	return s
}

func replicaToProto(s nexusraft.ReplicaStatus) *pb.ReplicaStatus {
	return &pb.ReplicaStatus{
		Member: memberToProto(s.Member),
		Match:  uint64(s.Match),
		Active: s.Active,
		State:  s.State,
	}
}

func replicaFromProto(m *pb.ReplicaStatus) nexusraft.ReplicaStatus {
	return nexusraft.ReplicaStatus{
		Member: MemberFromProto(m.GetMember()),
		Match:  nexusraft.Index(m.GetMatch()),
		Active: m.GetActive(),
		State:  m.GetState(),
	}
}

func snapshotToProto(s nexusraft.SnapshotStatus) *pb.SnapshotStatus {
	return &pb.SnapshotStatus{
		PeerNodeId: uint64(s.Peer),
		Sending:    s.Sending,
		Index:      uint64(s.Index),
		Bytes:      s.Bytes,
		Since:      timestamppb.New(s.Since),
	}
}

func snapshotFromProto(m *pb.SnapshotStatus) nexusraft.SnapshotStatus {
	return nexusraft.SnapshotStatus{
		Peer:    nexusraft.NodeID(m.GetPeerNodeId()),
		Sending: m.GetSending(),
		Index:   nexusraft.Index(m.GetIndex()),
		Bytes:   m.GetBytes(),
		Since:   m.GetSince().AsTime(),
	}
}

// MembershipToProto converts a zone's membership. Counts of its shape below zero or beyond
// 32 bits become the nearest that fits.
func MembershipToProto(m nexusraft.Membership) *pb.Membership {
	return &pb.Membership{
		Shape:   ShapeToProto(m.Shape),
		Members: convert(m.Members, memberToProto),
		Removed: convert(m.Removed, func(t nexusraft.Tombstone) *pb.Tombstone {
			return &pb.Tombstone{Replica: uint64(t.Replica), Node: uint64(t.Node)}
		}),
	}
}

// MembershipFromProto is the inverse of MembershipToProto. The result is not validated.
func MembershipFromProto(m *pb.Membership) nexusraft.Membership {
	return nexusraft.Membership{
		Shape:   ShapeFromProto(m.GetShape()),
		Members: convert(m.GetMembers(), MemberFromProto),
		Removed: convert(m.GetRemoved(), func(t *pb.Tombstone) nexusraft.Tombstone {
			return nexusraft.Tombstone{Replica: nexusraft.ReplicaID(t.GetReplica()), Node: nexusraft.NodeID(t.GetNode())}
		}),
	}
}

// ShapeToProto converts a shape. Counts below zero or beyond 32 bits become the nearest that fits.
func ShapeToProto(s nexusraft.Shape) *pb.Shape {
	return &pb.Shape{Members: count(s.Members), Witnesses: count(s.Witnesses)}
}

// ShapeFromProto is the inverse of ShapeToProto; nil becomes the zero value.
func ShapeFromProto(m *pb.Shape) nexusraft.Shape {
	return nexusraft.Shape{
		Members:   int(min(m.GetMembers(), math.MaxInt32)),
		Witnesses: int(min(m.GetWitnesses(), math.MaxInt32)),
	}
}

func memberToProto(m nexusraft.Member) *pb.Member {
	return &pb.Member{
		Replica: uint64(m.Replica),
		Node:    uint64(m.Node),
		Name:    m.Name,
		Address: m.Address,
		Role:    RoleToProto(m.Role),
	}
}

// MemberFromProto converts one replica's record; nil becomes the zero value.
func MemberFromProto(m *pb.Member) nexusraft.Member {
	return nexusraft.Member{
		Replica: nexusraft.ReplicaID(m.GetReplica()),
		Node:    nexusraft.NodeID(m.GetNode()),
		Name:    m.GetName(),
		Address: m.GetAddress(),
		Role:    RoleFromProto(m.GetRole()),
	}
}

func count(n int) uint32 {
	return uint32(min(max(n, 0), math.MaxInt32))
}

// convert maps a slice and keeps nil.
func convert[A, B any](in []A, f func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}
