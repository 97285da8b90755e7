package raftlog

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// encodeHardState writes all three fields, zero or not, so that a record that lacks one is
// known to be corrupt.
func encodeHardState(hs *raftpb.HardState) ([]byte, error) {
	return proto.Marshal(fullHardState(hs))
}

func decodeHardState(b []byte) (*raftpb.HardState, error) {
	hs := new(raftpb.HardState)
	if err := proto.Unmarshal(b, hs); err != nil {
		return nil, fmt.Errorf("%w: hard state: %w", nexusraft.ErrCorrupt, err)
	}
	if hs.Term == nil || hs.Vote == nil || hs.Commit == nil || len(hs.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("%w: hard state %x lacks a field or has one too many", nexusraft.ErrCorrupt, b)
	}
	return hs, nil
}

// fullHardState returns a copy of hs, which may be nil, with every field set.
func fullHardState(hs *raftpb.HardState) *raftpb.HardState {
	return &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(hs.GetCommit())}
}

func encodeApplied(index nexusraft.Index) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(index))
}

func decodeApplied(b []byte) (nexusraft.Index, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: applied index of %d bytes, not 8", nexusraft.ErrCorrupt, len(b))
	}
	return nexusraft.Index(binary.BigEndian.Uint64(b)), nil
}

// decodeEntry reads the entry stored under index. The entry shares no memory with b.
func decodeEntry(b []byte, index nexusraft.Index) (*raftpb.Entry, error) {
	e := new(raftpb.Entry)
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("%w: entry %d: %w", nexusraft.ErrCorrupt, index, err)
	}
	_, known := raftpb.EntryType_name[int32(e.GetType())]
	if e.GetIndex() != uint64(index) || e.GetTerm() == 0 || !known || len(e.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("%w: entry %d reads as index %d, term %d, %v, with %d bytes of unknown fields",
			nexusraft.ErrCorrupt, index, e.GetIndex(), e.GetTerm(), e.GetType(), len(e.ProtoReflect().GetUnknown()))
	}
	return e, nil
}
