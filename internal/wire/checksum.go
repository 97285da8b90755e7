package wire

import (
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Checksum digests one copy of a zone's state. Two replicas that report the same applied
// index report the same Checksum, or one of them is wrong.
type Checksum struct {
	Applied  nexusraft.Index    // the last index whose effects are included
	Revision nexusraft.Revision // the state's count of changes; 0 if its state machine has none
	Sum      []byte             // the digest; owned by whoever holds the value
	Pairs    uint64             // key-value pairs digested
	Bytes    uint64             // bytes of their keys and values
}

// ChecksumToProto converts a checksum; the message shares its Sum.
func ChecksumToProto(c Checksum) *pb.StateChecksum {
	return &pb.StateChecksum{
		Applied:  uint64(c.Applied),
		Revision: uint64(c.Revision),
		Sum:      c.Sum,
		Pairs:    c.Pairs,
		Bytes:    c.Bytes,
	}
}

// ChecksumFromProto is the inverse of ChecksumToProto.
func ChecksumFromProto(m *pb.StateChecksum) Checksum {
	return Checksum{
		Applied:  nexusraft.Index(m.GetApplied()),
		Revision: nexusraft.Revision(m.GetRevision()),
		Sum:      slices.Clone(m.GetSum()),
		Pairs:    m.GetPairs(),
		Bytes:    m.GetBytes(),
	}
}
