package wire

import (
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// ZoneInfoToProto converts what the cluster keeps of a zone.
func ZoneInfoToProto(z nexusraft.ZoneInfo) *pb.ZoneInfo {
	m := &pb.ZoneInfo{Id: uint64(z.ID), Name: z.Name, Machine: z.Machine}
	if !z.Created.IsZero() {
		m.CreatedNanos = z.Created.UnixNano()
	}
	if z.ZonePlan != (nexusraft.ZonePlan{}) {
		m.Plan = ZonePlanToProto(z.ZonePlan)
	}
	m.Placement = MembershipToProto(nexusraft.Membership{Members: z.Placement}).GetMembers()
	for _, node := range z.Leaving {
		m.Leaving = append(m.Leaving, uint64(node))
	}
	for _, node := range z.Off {
		m.Off = append(m.Off, uint64(node))
	}
	m.Moving = z.Moving
	return m
}

// ZoneInfoFromProto is the inverse of ZoneInfoToProto.
func ZoneInfoFromProto(m *pb.ZoneInfo) nexusraft.ZoneInfo {
	z := nexusraft.ZoneInfo{ID: nexusraft.ZoneID(m.GetId()), Name: m.GetName(), Machine: m.GetMachine()}
	if m.GetCreatedNanos() != 0 {
		z.Created = time.Unix(0, m.GetCreatedNanos()).UTC()
	}
	z.ZonePlan = ZonePlanFromProto(m.GetPlan())
	z.Placement = MembershipFromProto(&pb.Membership{Members: m.GetPlacement()}).Members
	for _, node := range m.GetLeaving() {
		z.Leaving = append(z.Leaving, nexusraft.NodeID(node))
	}
	for _, node := range m.GetOff() {
		z.Off = append(z.Off, nexusraft.NodeID(node))
	}
	z.Moving = m.GetMoving()
	return z
}

// ZonePlanToProto converts what a zone is meant to be.
func ZonePlanToProto(p nexusraft.ZonePlan) *pb.ZonePlan {
	return &pb.ZonePlan{Shape: ShapeToProto(p.Shape), Spare: p.Spare, Preferred: uint64(p.Preferred)}
}

// ZonePlanFromProto is the inverse of ZonePlanToProto.
func ZonePlanFromProto(m *pb.ZonePlan) nexusraft.ZonePlan {
	return nexusraft.ZonePlan{
		Shape: ShapeFromProto(m.GetShape()), Spare: m.GetSpare(), Preferred: nexusraft.NodeID(m.GetPreferred()),
	}
}
