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
	return m
}

// ZoneInfoFromProto is the inverse of ZoneInfoToProto.
func ZoneInfoFromProto(m *pb.ZoneInfo) nexusraft.ZoneInfo {
	z := nexusraft.ZoneInfo{ID: nexusraft.ZoneID(m.GetId()), Name: m.GetName(), Machine: m.GetMachine()}
	if m.GetCreatedNanos() != 0 {
		z.Created = time.Unix(0, m.GetCreatedNanos()).UTC()
	}
	return z
}
