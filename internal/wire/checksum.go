package wire

import (
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// ChecksumToProto converts a checksum; the message shares its Sum.
func ChecksumToProto(c nexusraft.Checksum) *pb.StateChecksum {
	return &pb.StateChecksum{
		Applied:  uint64(c.Applied),
		Revision: uint64(c.Revision),
		Sum:      c.Sum,
		Pairs:    c.Pairs,
		Bytes:    c.Bytes,
	}
}

// ChecksumFromProto is the inverse of ChecksumToProto.
func ChecksumFromProto(m *pb.StateChecksum) nexusraft.Checksum {
	return nexusraft.Checksum{
		Applied:  nexusraft.Index(m.GetApplied()),
		Revision: nexusraft.Revision(m.GetRevision()),
		Sum:      slices.Clone(m.GetSum()),
		Pairs:    m.GetPairs(),
		Bytes:    m.GetBytes(),
	}
}
