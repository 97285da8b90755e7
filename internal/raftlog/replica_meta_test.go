package raftlog

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"go.etcd.io/raft/v3/raftpb"
)

// jointMeta has every field set, with identifiers that JSON numbers would round.
func jointMeta() Meta {
	m := testMeta(1<<60+1, 5)
	m.Replica = 1<<63 + 1
	m.ConfState = &raftpb.ConfState{
		Voters: []uint64{1<<63 + 1, 2}, Learners: []uint64{3}, VotersOutgoing: []uint64{2, 4},
		LearnersNext: []uint64{4}, AutoLeave: new(true),
	}
	m.Membership = m.Membership.Without(1)
	return m
}

func TestMetaRoundTrip(t *testing.T) {
	for _, want := range []Meta{jointMeta(), testMeta(10, 2), {Replica: 1, StateTree: "s", ConfState: confState()}} {
		b, err := encodeMeta(want)
		must(t, err)
		got, err := decodeMeta(b)
		must(t, err)
		if d := diff(got, want); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// What could not be read back is not written.
func TestEncodeMetaRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(m *Meta)
	}{
		{"no replica", func(m *Meta) { m.Replica = 0 }},
		{"replica ID of raft's own", func(m *Meta) { m.Replica = ^nexusraft.ReplicaID(0) }},
		{"no tree", func(m *Meta) { m.StateTree = "" }},
		{"tree name that JSON changes", func(m *Meta) { m.StateTree = "\xff" }},
		{"compacted without term", func(m *Meta) { m.CompactedTerm = 0 }},
		{"voter that is a learner", func(m *Meta) { m.ConfState.Learners = []uint64{1} }},
		{"learner next without joint", func(m *Meta) { m.ConfState.LearnersNext = []uint64{9} }},
		{"replica 0", func(m *Meta) { m.ConfState.Voters = []uint64{0} }},
		{"voter twice", func(m *Meta) { m.ConfState.Voters = []uint64{1, 1} }},
		{"too many voters", func(m *Meta) { m.ConfState.Voters = make([]uint64, nexusraft.MaxMembers+1) }},
		{"invalid member", func(m *Meta) { m.Membership.Members = []nexusraft.Member{{}} }},
		{"name that JSON makes longer", func(m *Meta) {
			m.Membership.Members[0].Name = strings.Repeat("\xff",
				nexusraft.MaxNameBytes)
		}},
	} {
		m := testMeta(10, 2)
		tc.edit(&m)
		if _, err := encodeMeta(m); err == nil || errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%s: got %v, want an error that is not ErrCorrupt", tc.name, err)
		}
	}
	m := testMeta(10, 2)
	m.Membership.Removed = make([]nexusraft.Tombstone, 5000)
	if _, err := encodeMeta(m); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("too many tombstones: got %v, want ErrTooLarge", err)
	}
}
