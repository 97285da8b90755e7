package zone_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// ledZone is a zone of members 1 and 2 and witness 3, led by 1 at term 2, in sync at 11.
func ledZone(t *testing.T) *world {
	w := newWorld(t, 0)
	w.found([]uint64{1, 2}, []uint64{3})
	elect(t, w, 1)
	return w
}

// elect makes a member the leader of a zone without one.
func elect(t *testing.T, w *world, id uint64) {
	t.Helper()
	if err := w.campaign(w.nodes[id]); err != nil {
		t.Fatal(err)
	}
	w.stabilize()
	if got := w.nodes[id].r.Status(); got.State != nexusraft.Leader {
		t.Fatalf("replica %d is %s after its election", id, got.State)
	}
}

// from makes a message to a replica at term 2; the edit says what is wrong with it.
func from(sender, to uint64, typ raftpb.MessageType, edit func(*raftpb.Message)) *raftpb.Message {
	m := &raftpb.Message{Type: typ.Enum(), From: new(sender), To: new(to), Term: new(uint64(2))}
	if edit != nil {
		edit(m)
	}
	return m
}

func appends(index, logTerm uint64, entries ...*raftpb.Entry) func(*raftpb.Message) {
	return func(m *raftpb.Message) {
		m.Index, m.LogTerm, m.Commit, m.Entries = new(index), new(logTerm), new(index), entries
	}
}

func entryAt(index, term uint64) *raftpb.Entry {
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: new(index), Term: new(term)}
}

// commandAt is an entry with a command of replica 1.
func commandAt(index, term uint64) *raftpb.Entry {
	e := entryAt(index, term)
	e.Data = zone.Envelope{Proposal: zone.ProposalID{Replica: 1, Incarnation: 1, Sequence: 1}}.Encode()
	return e
}

// snapshotWith is a snapshot that replica 2 of ledZone would take, but for the edit.
func snapshotWith(edit func(*raftpb.Snapshot)) func(*raftpb.Message) {
	return func(m *raftpb.Message) {
		members := nexusraft.Membership{}.
			With(record(1, nexusraft.RoleMember)).With(record(2, nexusraft.RoleMember)).
			With(record(3, nexusraft.RoleWitness)).With(record(4, nexusraft.RoleLearner))
		m.Snapshot = &raftpb.Snapshot{Data: members.Encode(), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(50)), Term: new(uint64(2)),
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}},
		}}
		edit(m.Snapshot)
	}
}

func configuration(cs *raftpb.ConfState) func(*raftpb.Message) {
	return snapshotWith(func(s *raftpb.Snapshot) { s.Metadata.ConfState = cs })
}

// refusals are messages that raft would panic on or believe, though they can't be. The
// sender's node is its own unless node is set.
var refusals = []struct {
	name string
	m    *raftpb.Message
	node nexusraft.NodeID
	want string // part of the error
}{
	{"a proposal", from(1, 2, raftpb.MsgProp, nil), 0, "never come from outside"},
	{"a request to transfer", from(1, 2, raftpb.MsgTransferLeader, nil), 0, "never come from outside"},
	{"a request to forget the leader", from(1, 2, raftpb.MsgForgetLeader, nil), 0, "never come from outside"},
	{"a request to campaign", from(1, 2, raftpb.MsgHup, nil), 0, "never come from outside"},
	{"a local message", from(1, 2, raftpb.MsgStorageAppendResp, nil), 0, "never come from outside"},
	{"an unknown type", from(1, 2, raftpb.MessageType(99), nil), 0, "never come from outside"},

	{"for another replica", from(1, 3, raftpb.MsgHeartbeat, nil), 0, "this replica is"},
	{"from nobody", from(0, 2, raftpb.MsgHeartbeat, nil), nodeOf(1), "can't be"},
	{"from itself", from(2, 2, raftpb.MsgHeartbeat, nil), 0, "can't be"},
	{"from raft's append thread", from(math.MaxUint64, 2, raftpb.MsgHeartbeat, nil), 0, "can't be"},
	{"from raft's apply thread", from(math.MaxUint64-1, 2, raftpb.MsgHeartbeat, nil), 0, "can't be"},
	{"from another replica's node", from(1, 2, raftpb.MsgHeartbeat, nil), nodeOf(3), "belongs to node"},
	{"from a removed replica", from(9, 2, raftpb.MsgVote, nil), 0, "was removed"},
	{"from a removed replica's node, by another name", from(10, 2, raftpb.MsgHeartbeat, nil), nodeOf(9), "was removed"},
	{
		"from a second replica of a node", from(10, 2, raftpb.MsgHeartbeat, nil), nodeOf(1),
		"replica 0000000000000001 of its node",
	},
	{
		"from a second replica of the witness's node", from(10, 2, raftpb.MsgHeartbeat, nil), nodeOf(3),
		"replica 0000000000000003 of its node",
	},
	{"a term that no election explains", from(1, 2, raftpb.MsgHeartbeat,
		func(m *raftpb.Message) { m.Term = new(uint64(3 + zone.MaxTermsAhead)) }), 0, "no election explains"},
	{"a pre-vote for a term that no election explains", from(1, 2, raftpb.MsgPreVote,
		func(m *raftpb.Message) { m.Term = new(uint64(3 + zone.MaxTermsAhead)) }), 0, "no election explains"},
	{
		"a pre-vote that is granted, for a term that no election explains",
		from(3, 2, raftpb.MsgPreVoteResp, func(m *raftpb.Message) { m.Term = new(uint64(3 + zone.MaxWitnessBudget)) }), 0,
		"no election explains",
	},
	{"a witness's answer of a term that no election explains", from(3, 1, raftpb.MsgHeartbeatResp,
		func(m *raftpb.Message) { m.Term = new(uint64(3 + zone.MaxWitnessBudget)) }), 0, "no election explains"},
	{"without a term", from(1, 2, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = nil }), 0, "term is 0"},
	{
		"of the last term of all",
		from(1, 2, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = new(uint64(math.MaxUint64)) }), 0, "term",
	},
	{"a vote for the last term of all", from(1, 2, raftpb.MsgVote,
		func(m *raftpb.Message) { m.Term = new(uint64(math.MaxUint64)) }), 0, "term"},

	{"a commit that was never acknowledged, of a stranger", from(8, 2, raftpb.MsgHeartbeat,
		func(m *raftpb.Message) { m.Commit = new(uint64(12)) }), 0, "its log ends at 11"},
	{"entries with a gap", from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(13, 2))), 0, "where 12 is expected"},
	{
		"entries twice", from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(12, 2), entryAt(12, 2))), 0,
		"where 13 is expected",
	},
	{"a term that goes back", from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(12, 1))), 0, "has term 1"},
	{"a term to come", from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(12, 3))), 0, "has term 3"},
	{"an old conf change", from(1, 2, raftpb.MsgApp, appends(11, 2, &raftpb.Entry{
		Type: raftpb.EntryConfChange.Enum(), Index: new(uint64(12)), Term: new(uint64(2)),
	})), 0, "has type"},
	{"an answer to no read", from(1, 2, raftpb.MsgReadIndexResp, nil), 0, "0 contexts"},

	{"no snapshot in it", from(1, 2, raftpb.MsgSnap, nil), 0, "without index"},
	{
		"a snapshot of nothing",
		from(1, 2, raftpb.MsgSnap, snapshotWith(func(s *raftpb.Snapshot) { s.Metadata.Index = nil })), 0,
		"without index",
	},
	{
		"a snapshot of no term",
		from(1, 2, raftpb.MsgSnap, snapshotWith(func(s *raftpb.Snapshot) { s.Metadata.Term = nil })), 0,
		"without index",
	},
	{"a snapshot of a later term", from(1, 2, raftpb.MsgSnap,
		snapshotWith(func(s *raftpb.Snapshot) { s.Metadata.Term = new(uint64(3)) })), 0, "term"},
	{"a snapshot at the end of all", from(1, 2, raftpb.MsgSnap,
		snapshotWith(func(s *raftpb.Snapshot) { s.Metadata.Index = new(uint64(math.MaxUint64)) })), 0, "index"},
	{
		"a snapshot without records", from(1, 2, raftpb.MsgSnap, snapshotWith(func(s *raftpb.Snapshot) { s.Data = nil })), 0,
		"corrupt",
	},
	{
		"a snapshot without voters", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{Learners: []uint64{2}})), 0,
		"voters",
	},
	{
		"a snapshot for others", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{Voters: []uint64{1, 3}})), 0,
		"has no replica",
	},
	{
		"a voter without a record",
		from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{Voters: []uint64{1, 2, 8}})), 0,
		"no record",
	},
	{
		"a voter twice", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{Voters: []uint64{1, 2, 2}})), 0,
		"configuration",
	},
	{"a voter that learns", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters:   []uint64{1, 2},
		Learners: []uint64{2},
	})), 0, "configuration"},
	{"an outgoing voter twice", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3, 3},
	})), 0, "configuration"},
	{"an outgoing voter that learns", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 4}, Learners: []uint64{4},
	})), 0, "configuration"},
	{"a learner next that does not vote", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{4},
	})), 0, "configuration"},
	{"a learner next that votes on", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters: []uint64{1, 2, 3}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3},
	})), 0, "configuration"},
	{"leaving a joint configuration that it is not in", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
		Voters: []uint64{1, 2, 3}, AutoLeave: new(true),
	})), 0, "configuration"},

	{"an acknowledgement of what was never sent", from(2, 1, raftpb.MsgAppResp,
		func(m *raftpb.Message) { m.Index = new(uint64(12)) }), 0, "was sent nothing beyond 11"},
	{
		"a torn read context", from(2, 1, raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = []byte("abc") }), 0,
		"context of 3 bytes",
	},
	{"a read that was never asked", from(2, 1, raftpb.MsgHeartbeatResp,
		func(m *raftpb.Message) { m.Context = []byte{9, 0, 0, 0, 0, 0, 0, 0} }), 0, "read"},
	{"a read without a context", from(2, 1, raftpb.MsgReadIndex, nil), 0, "0 contexts"},
}

func TestStepRefuses(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[2]
			if tt.m.GetTo() == 1 {
				n = w.nodes[1]
			}
			n.r.SetMembership(n.r.Membership().With(record(9, nexusraft.RoleLearner)).Without(9))
			node := tt.node
			if node == 0 {
				node = nodeOf(tt.m.GetFrom())
			}
			before := n.r.Status()
			err := n.r.Step(node, tt.m)
			if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want ErrRefused with %q", err, tt.want)
			}
			if n.r.HasWork() {
				t.Error("a refused message made work")
			}
			if diff := cmp.Diff(before, n.r.Status(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("a refused message changed the status (-before +after):\n%s", diff)
			}
		})
	}
}

// A replica whose leader knows it to have more than it has, has forgotten: it stops.
func TestStepStopsAfterALoss(t *testing.T) {
	n := ledZone(t).nodes[2]
	for _, m := range []*raftpb.Message{
		from(1, 2, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Commit = new(uint64(12)) }),
		from(1, 2, raftpb.MsgHeartbeat, nil),
	} {
		err := n.r.Step(nodeOf(1), m)
		if lost := m.GetCommit() == 12; errors.Is(err, nexusraft.ErrCorrupt) != lost {
			t.Errorf("commit %d: got %v, want ErrCorrupt %v", m.GetCommit(), err, lost)
		}
		if work, err := n.r.Ready(); !n.r.HasWork() || !errors.Is(err, nexusraft.ErrCorrupt) || !work.Empty() ||
			!strings.Contains(err.Error(), "ends at 11") {
			t.Errorf("got %+v, %v; want no work any more, and why", work, err)
		}
	}
}

// TestStepTakes: what looks odd and is none of Step's refusals.
func TestStepTakes(t *testing.T) {
	stale := func(m *raftpb.Message) { m.Term, m.Commit = new(uint64(1)), new(uint64(99)) }
	for _, tt := range []struct {
		name string
		m    *raftpb.Message
	}{
		{"a heartbeat of an earlier term, whatever it commits", from(1, 2, raftpb.MsgHeartbeat, stale)},
		{"an append whose commit is beyond its entries", from(1, 2, raftpb.MsgApp, func(m *raftpb.Message) {
			appends(11, 2, entryAt(12, 2))(m)
			m.Commit = new(uint64(99))
		})},
		{"an append from a place beyond the log", from(1, 2, raftpb.MsgApp, appends(40, 2, entryAt(41, 2)))},
		{"a heartbeat from a leader without a record here", from(7, 2, raftpb.MsgHeartbeat,
			func(m *raftpb.Message) { m.Term = new(uint64(5)) })},
		{"an answer to a leader that is none any more", from(1, 2, raftpb.MsgAppResp,
			func(m *raftpb.Message) { m.Index = new(uint64(11)) })},
		{"an answer from a replica that raft does not know", from(7, 1, raftpb.MsgAppResp,
			func(m *raftpb.Message) { m.Index = new(uint64(11)) })},
		{"a joint configuration", from(1, 2, raftpb.MsgSnap, configuration(&raftpb.ConfState{
			Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3}, Learners: []uint64{4},
			AutoLeave: new(true),
		}))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[tt.m.GetTo()]
			if err := n.r.Step(nodeOf(tt.m.GetFrom()), tt.m); err != nil {
				t.Fatalf("refused: %v", err)
			}
			w.run(n)
			if n.r == nil {
				t.Fatalf("it stopped the replica: %s", w.told())
			}
			if s := n.r.Status(); s.Commit > s.LastIndex {
				t.Errorf("got commit %d beyond the last index %d", s.Commit, s.LastIndex)
			}
		})
	}
}

// TestHeartbeatBehindTruncation: what was stepped since the last round may have cut the
// log, and a commit beyond the cut must not reach raft.
func TestHeartbeatBehindTruncation(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  func(*raftpb.Message)
		typ  raftpb.MessageType
	}{
		{"by an append", appends(11, 2, entryAt(12, 3)), raftpb.MsgApp},
		{"by a snapshot", snapshotWith(func(s *raftpb.Snapshot) {
			s.Metadata.Index, s.Metadata.Term = new(uint64(12)), new(uint64(3))
		}), raftpb.MsgSnap},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			w.cut[[2]uint64{1, 3}] = true
			n := w.nodes[2]
			step := func(m *raftpb.Message) {
				t.Helper()
				if err := n.r.Step(nodeOf(m.GetFrom()), m); err != nil && !errors.Is(err, nexusraft.ErrRefused) {
					t.Fatal(err)
				}
			}
			step(from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(12, 2), entryAt(13, 2), entryAt(14, 2))))
			w.run(n)
			cut := from(7, 2, tt.typ, tt.cut) // a leader that has no record here yet
			cut.Term = new(uint64(3))
			step(cut)
			beat := from(7, 2, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Commit = new(uint64(14)) })
			beat.Term = new(uint64(3))
			step(beat)
			w.run(n)
			if got := n.r.Status(); got.LastIndex != 12 || got.Commit > 12 {
				t.Errorf("got last index %d and commit %d, want 12 and at most 12", got.LastIndex, got.Commit)
			}
		})
	}
}

// TestReadContexts: the answers to reads that were asked are taken.
func TestReadContexts(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.told()
	contexts := make(map[string]bool)
	w.sent = func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgHeartbeat && len(m.GetContext()) > 0 {
			contexts[string(m.GetContext())] = true
		}
	}
	n.group.Read(reading{n, "first"}, time.Time{})
	w.run(n)
	n.group.Read(reading{n, "second"}, time.Time{})
	w.tick(n)
	if len(contexts) != 2 {
		t.Fatalf("%d questions are under way, want 2", len(contexts))
	}
	w.stabilize()
	for _, want := range []string{`serves read "first" at 11`, `serves read "second" at 11`} {
		if out := w.told(); !strings.Contains(out, want) {
			t.Errorf("got no %s in:\n%s", want, out)
		} else {
			w.out.WriteString(out)
		}
	}
}

// TestForgedReadContexts: raft would count up to reads that it does not have. What was
// asked in an earlier term does not count.
func TestForgedReadContexts(t *testing.T) {
	w := ledZone(t)
	for range 3 {
		w.nodes[1].group.Read(reading{w.nodes[1], "read"}, time.Time{})
		w.run(w.nodes[1])
		w.stabilize()
	}
	if out := w.told(); strings.Count(out, `1 serves read "read"`) != 3 {
		t.Fatalf("not all of three reads are served:\n%s", out)
	}
	for _, to := range []nexusraft.ReplicaID{2, 1} {
		old := w.nodes[uint64(3-to)]
		must(zone.TransferLeader(old.r, to))
		w.run(old)
		w.stabilize()
	}
	r := w.nodes[1].r
	if s := r.Status(); s.State != nexusraft.Leader || s.Term != 4 {
		t.Fatalf("it is %s at term %d, want leader at 4", s.State, s.Term)
	}
	for _, id := range []uint64{2, 3} {
		m := from(id, 1, raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = []byte{1, 0, 0, 0, 0, 0, 0, 0} })
		m.Term = new(uint64(4))
		if err := r.Step(nodeOf(id), m); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got error %v, want ErrRefused", err)
		}
	}
}
