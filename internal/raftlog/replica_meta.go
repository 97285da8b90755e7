package raftlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// metaVersion is the first byte of a meta record; JSON follows.
const metaVersion byte = 1

// maxMetaBytes bounds what decodeMeta looks at: a membership at its limit, a conf state of
// four full lists, and names.
const maxMetaBytes = nexusraft.MaxMembershipBytes + 16<<10

// Meta is what a replica is, apart from its log.
type Meta struct {
	// Replica is this replica's own identity.
	Replica nexusraft.ReplicaID

	// StateTree names the storage tree that holds the zone's state.
	StateTree string

	// Compacted is the index of the entry before the log's first, and CompactedTerm its
	// term; both are 0 while the log begins at index 1.
	Compacted     nexusraft.Index
	CompactedTerm nexusraft.Term

	// ConfState and Membership are as of the applied index.
	ConfState  *raftpb.ConfState
	Membership nexusraft.Membership
}

// clone returns a copy that shares nothing that anyone changes. A nil conf state becomes an
// empty one, as raft.Storage wants it.
func (m Meta) clone() Meta {
	m.ConfState = raftpb.EnsureConfState(proto.CloneOf(m.ConfState))
	return m
}

// metaRecord is Meta's stored form.
type metaRecord struct {
	Replica       nexusraft.ReplicaID `json:"replica"`
	StateTree     string              `json:"state_tree"`
	Compacted     nexusraft.Index     `json:"compacted"`
	CompactedTerm nexusraft.Term      `json:"compacted_term"`
	ConfState     confStateRecord     `json:"conf_state"`
	Membership    json.RawMessage     `json:"membership"`
}

// confStateRecord is raftpb.ConfState with identifiers that JSON does not round.
type confStateRecord struct {
	Voters         []nexusraft.ReplicaID `json:"voters,omitempty"`
	Learners       []nexusraft.ReplicaID `json:"learners,omitempty"`
	VotersOutgoing []nexusraft.ReplicaID `json:"voters_outgoing,omitempty"`
	LearnersNext   []nexusraft.ReplicaID `json:"learners_next,omitempty"`
	AutoLeave      bool                  `json:"auto_leave,omitempty"`
}

// encodeMeta refuses what decodeMeta would: no record is written that can't be read back.
func encodeMeta(m Meta) ([]byte, error) {
	membership := m.Membership.Encode()
	if len(membership) > nexusraft.MaxMembershipBytes {
		return nil, fmt.Errorf("%w: membership of %d bytes, limit %d", nexusraft.ErrTooLarge, len(membership),
			nexusraft.MaxMembershipBytes)
	}
	_, err := nexusraft.DecodeMembership(membership)
	if err = errors.Join(m.validate(), err); err != nil {
		return nil, fmt.Errorf("meta could not be read back: %v", err) // not ErrCorrupt: nothing on disk is
	}
	b, err := json.Marshal(metaRecord{
		Replica:       m.Replica,
		StateTree:     m.StateTree,
		Compacted:     m.Compacted,
		CompactedTerm: m.CompactedTerm,
		ConfState:     recordConfState(m.ConfState),
		Membership:    membership,
	})
	if err != nil {
		return nil, fmt.Errorf("encode meta: %w", err)
	}
	return append([]byte{metaVersion}, b...), nil
}

// decodeMeta reads what encodeMeta wrote. It returns ErrCorrupt for anything else.
func decodeMeta(b []byte) (Meta, error) {
	if len(b) == 0 || len(b) > maxMetaBytes {
		return Meta{}, fmt.Errorf("%w: meta of %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	if b[0] != metaVersion {
		return Meta{}, fmt.Errorf("%w: meta of version %d, this program knows version %d", nexusraft.ErrCorrupt, b[0],
			metaVersion)
	}
	var r metaRecord
	if err := json.Unmarshal(b[1:], &r); err != nil {
		return Meta{}, fmt.Errorf("%w: meta: %w", nexusraft.ErrCorrupt, err)
	}
	membership, err := nexusraft.DecodeMembership(r.Membership)
	if err != nil {
		return Meta{}, err
	}
	m := Meta{
		Replica:       r.Replica,
		StateTree:     r.StateTree,
		Compacted:     r.Compacted,
		CompactedTerm: r.CompactedTerm,
		ConfState:     r.ConfState.confState(),
		Membership:    membership,
	}
	if err := m.validate(); err != nil {
		return Meta{}, fmt.Errorf("%w: meta: %w", nexusraft.ErrCorrupt, err)
	}
	return m, nil
}

// validate returns what is wrong with the fields, the membership aside, all at once.
func (m Meta) validate() error {
	var errs []error
	if m.Replica == 0 || m.Replica >= ^nexusraft.ReplicaID(0)-1 {
		errs = append(errs, fmt.Errorf("replica ID %v is reserved", m.Replica))
	}
	if m.StateTree == "" || len(m.StateTree) > storage.MaxNameBytes || !utf8.ValidString(m.StateTree) {
		errs = append(errs, fmt.Errorf("state tree %q is not a name of 1 to %d bytes", m.StateTree, storage.MaxNameBytes))
	}
	if (m.Compacted == 0) != (m.CompactedTerm == 0) {
		errs = append(errs, fmt.Errorf("log compacted to index %d of term %d", m.Compacted, m.CompactedTerm))
	}
	return errors.Join(append(errs, validateConfState(m.ConfState))...)
}

// validateConfState asks raft itself, in the way in which it restores a conf state at its
// start, where it would panic on a bad one.
func validateConfState(cs *raftpb.ConfState) error {
	for _, ids := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		if len(ids) > nexusraft.MaxMembers {
			return fmt.Errorf("conf state with %d replicas in one list, limit %d", len(ids), nexusraft.MaxMembers)
		}
	}
	cs = raftpb.EnsureConfState(proto.CloneOf(cs))
	t := tracker.MakeProgressTracker(1, 0)
	var err error
	if t.Config, t.Progress, err = confchange.Restore(confchange.Changer{Tracker: t}, cs); err != nil {
		return fmt.Errorf("conf state: %w", err)
	}
	if err := cs.Equivalent(t.ConfState()); err != nil {
		return fmt.Errorf("conf state is not one that raft can be in: %w", err)
	}
	return nil
}

func recordConfState(cs *raftpb.ConfState) confStateRecord {
	return confStateRecord{
		Voters:         convert[nexusraft.ReplicaID](cs.GetVoters()),
		Learners:       convert[nexusraft.ReplicaID](cs.GetLearners()),
		VotersOutgoing: convert[nexusraft.ReplicaID](cs.GetVotersOutgoing()),
		LearnersNext:   convert[nexusraft.ReplicaID](cs.GetLearnersNext()),
		AutoLeave:      cs.GetAutoLeave(),
	}
}

func (r confStateRecord) confState() *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters:         convert[uint64](r.Voters),
		Learners:       convert[uint64](r.Learners),
		VotersOutgoing: convert[uint64](r.VotersOutgoing),
		LearnersNext:   convert[uint64](r.LearnersNext),
		AutoLeave:      new(r.AutoLeave),
	}
}

// convert copies a list of identifiers; an empty one becomes nil.
func convert[To, From ~uint64](ids []From) []To {
	var out []To
	for _, id := range ids {
		out = append(out, To(id))
	}
	return out
}
