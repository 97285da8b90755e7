package snapshot

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Header returns what goes before a zone's state: where it is from and where to, of which index and
// term, and Raft's message, which is m with the metadata and records of s. It changes neither.
func Header(z nexusraft.ZoneID, m *raftpb.Message, s *raftpb.Snapshot) (transport.SnapshotHeader, error) {
	m = proto.CloneOf(m)
	m.Snapshot = s
	data, err := proto.Marshal(m)
	if err != nil {
		return transport.SnapshotHeader{}, fmt.Errorf("encode: %w", err)
	}
	meta := s.GetMetadata()
	return transport.SnapshotHeader{
		Zone: z, From: nexusraft.ReplicaID(m.GetFrom()), To: nexusraft.ReplicaID(m.GetTo()),
		Index: nexusraft.Index(meta.GetIndex()), Term: nexusraft.Term(meta.GetTerm()), Message: data,
	}, nil
}

// Message returns Raft's message from a header, or ErrCorrupt if it is not what the header says.
func Message(h transport.SnapshotHeader) (*raftpb.Message, error) {
	message := &raftpb.Message{}
	if err := proto.Unmarshal(h.Message, message); err != nil {
		return nil, fmt.Errorf("%w: the snapshot's message can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	meta := message.GetSnapshot().GetMetadata()
	if message.GetType() != raftpb.MsgSnap || meta.GetIndex() != uint64(h.Index) || meta.GetTerm() != uint64(h.Term) ||
		message.GetTo() != uint64(h.To) || message.GetFrom() != uint64(h.From) {
		return nil, fmt.Errorf("%w: the snapshot's message is not of the snapshot", nexusraft.ErrCorrupt)
	}
	return message, nil
}
