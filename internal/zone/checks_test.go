package zone

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
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
func from(sender, to uint64, typ pb.MessageType, edit func(*pb.Message)) *pb.Message {
	m := &pb.Message{Type: typ.Enum(), From: new(sender), To: new(to), Term: new(uint64(2))}
	if edit != nil {
		edit(m)
	}
	return m
}

func appends(index, logTerm uint64, entries ...*pb.Entry) func(*pb.Message) {
	return func(m *pb.Message) {
		m.Index, m.LogTerm, m.Commit, m.Entries = new(index), new(logTerm), new(index), entries
	}
}

func entryAt(index, term uint64) *pb.Entry {
	return &pb.Entry{Type: pb.EntryNormal.Enum(), Index: new(index), Term: new(term)}
}

// snapshotWith is a snapshot that replica 2 of ledZone would take, but for the edit.
func snapshotWith(edit func(*pb.Snapshot)) func(*pb.Message) {
	return func(m *pb.Message) {
		members := nexusraft.Membership{}.
			With(record(1, nexusraft.RoleMember)).With(record(2, nexusraft.RoleMember)).
			With(record(3, nexusraft.RoleWitness)).With(record(4, nexusraft.RoleLearner))
		m.Snapshot = &pb.Snapshot{Data: members.Encode(), Metadata: &pb.SnapshotMetadata{
			Index: new(uint64(50)), Term: new(uint64(2)),
			ConfState: &pb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}},
		}}
		edit(m.Snapshot)
	}
}

func configuration(cs *pb.ConfState) func(*pb.Message) {
	return snapshotWith(func(s *pb.Snapshot) { s.Metadata.ConfState = cs })
}

// refusals are messages that raft would panic on or believe, though they can't be. The
// sender's node is its own unless node is set.
var refusals = []struct {
	name string
	m    *pb.Message
	node nexusraft.NodeID
	want string // part of the error
}{
	{"a proposal", from(1, 2, pb.MsgProp, nil), 0, "never come from outside"},
	{"a request to transfer", from(1, 2, pb.MsgTransferLeader, nil), 0, "never come from outside"},
	{"a request to forget the leader", from(1, 2, pb.MsgForgetLeader, nil), 0, "never come from outside"},
	{"a request to campaign", from(1, 2, pb.MsgHup, nil), 0, "never come from outside"},
	{"a local message", from(1, 2, pb.MsgStorageAppendResp, nil), 0, "never come from outside"},
	{"an unknown type", from(1, 2, pb.MessageType(99), nil), 0, "never come from outside"},

	{"for another replica", from(1, 3, pb.MsgHeartbeat, nil), 0, "this replica is"},
	{"from nobody", from(0, 2, pb.MsgHeartbeat, nil), nodeOf(1), "can't be"},
	{"from itself", from(2, 2, pb.MsgHeartbeat, nil), 0, "can't be"},
	{"from raft's append thread", from(math.MaxUint64, 2, pb.MsgHeartbeat, nil), 0, "can't be"},
	{"from raft's apply thread", from(math.MaxUint64-1, 2, pb.MsgHeartbeat, nil), 0, "can't be"},
	{"from another replica's node", from(1, 2, pb.MsgHeartbeat, nil), nodeOf(3), "belongs to node"},
	{"from a removed replica", from(9, 2, pb.MsgVote, nil), 0, "was removed"},
	{"without a term", from(1, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Term = nil }), 0, "term is 0"},
	{"of the last term of all", from(1, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Term = new(uint64(math.MaxUint64)) }), 0, "term"},
	{"a vote for the last term of all", from(1, 2, pb.MsgVote, func(m *pb.Message) { m.Term = new(uint64(math.MaxUint64)) }), 0, "term"},

	{"a commit that was never acknowledged, of a stranger", from(8, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(12)) }), 0, "its log ends at 11"},
	{"entries with a gap", from(1, 2, pb.MsgApp, appends(11, 2, entryAt(13, 2))), 0, "where 12 is expected"},
	{"entries twice", from(1, 2, pb.MsgApp, appends(11, 2, entryAt(12, 2), entryAt(12, 2))), 0, "where 13 is expected"},
	{"a term that goes back", from(1, 2, pb.MsgApp, appends(11, 2, entryAt(12, 1))), 0, "has term 1"},
	{"a term to come", from(1, 2, pb.MsgApp, appends(11, 2, entryAt(12, 3))), 0, "has term 3"},
	{"an old conf change", from(1, 2, pb.MsgApp, appends(11, 2, &pb.Entry{
		Type: pb.EntryConfChange.Enum(), Index: new(uint64(12)), Term: new(uint64(2)),
	})), 0, "has type"},
	{"an answer to no read", from(1, 2, pb.MsgReadIndexResp, nil), 0, "0 contexts"},

	{"no snapshot in it", from(1, 2, pb.MsgSnap, nil), 0, "without index"},
	{"a snapshot of nothing", from(1, 2, pb.MsgSnap, snapshotWith(func(s *pb.Snapshot) { s.Metadata.Index = nil })), 0, "without index"},
	{"a snapshot of no term", from(1, 2, pb.MsgSnap, snapshotWith(func(s *pb.Snapshot) { s.Metadata.Term = nil })), 0, "without index"},
	{"a snapshot of a later term", from(1, 2, pb.MsgSnap, snapshotWith(func(s *pb.Snapshot) { s.Metadata.Term = new(uint64(3)) })), 0, "term"},
	{"a snapshot at the end of all", from(1, 2, pb.MsgSnap, snapshotWith(func(s *pb.Snapshot) { s.Metadata.Index = new(uint64(math.MaxUint64)) })), 0, "index"},
	{"a snapshot without records", from(1, 2, pb.MsgSnap, snapshotWith(func(s *pb.Snapshot) { s.Data = nil })), 0, "corrupt"},
	{"a snapshot without voters", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{Learners: []uint64{2}})), 0, "voters"},
	{"a snapshot for others", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{Voters: []uint64{1, 3}})), 0, "has no replica"},
	{"a voter without a record", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{Voters: []uint64{1, 2, 8}})), 0, "no record"},
	{"a voter twice", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{Voters: []uint64{1, 2, 2}})), 0, "configuration"},
	{"a voter that learns", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{2}})), 0, "configuration"},
	{"an outgoing voter twice", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3, 3},
	})), 0, "configuration"},
	{"an outgoing voter that learns", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 4}, Learners: []uint64{4},
	})), 0, "configuration"},
	{"a learner next that does not vote", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
		Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{4},
	})), 0, "configuration"},
	{"a learner next that votes on", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
		Voters: []uint64{1, 2, 3}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3},
	})), 0, "configuration"},
	{"leaving a joint configuration that it is not in", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
		Voters: []uint64{1, 2, 3}, AutoLeave: new(true),
	})), 0, "configuration"},

	{"an acknowledgement of what was never sent", from(2, 1, pb.MsgAppResp, func(m *pb.Message) { m.Index = new(uint64(12)) }), 0, "this log ends at 11"},
	{"a torn read context", from(2, 1, pb.MsgHeartbeatResp, func(m *pb.Message) { m.Context = []byte("abc") }), 0, "context of 3 bytes"},
	{"a read that was never asked", from(2, 1, pb.MsgHeartbeatResp, func(m *pb.Message) { m.Context = []byte{9, 0, 0, 0, 0, 0, 0, 0} }), 0, "read"},
	{"a read without a context", from(2, 1, pb.MsgReadIndex, nil), 0, "0 contexts"},
}

func TestStepRefuses(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[2]
			if tt.m.GetTo() == 1 {
				n = w.nodes[1]
			}
			n.r.members = n.r.members.With(record(9, nexusraft.RoleLearner)).Without(9)
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
	for _, m := range []*pb.Message{
		from(1, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(12)) }),
		from(1, 2, pb.MsgHeartbeat, nil),
	} {
		err := n.r.Step(nodeOf(1), m)
		if lost := m.GetCommit() == 12; errors.Is(err, nexusraft.ErrCorrupt) != lost {
			t.Errorf("commit %d: got %v, want ErrCorrupt %v", m.GetCommit(), err, lost)
		}
		if work, err := n.r.Ready(); !n.r.HasWork() || !errors.Is(err, nexusraft.ErrCorrupt) || !work.Empty() || !strings.Contains(err.Error(), "ends at 11") {
			t.Errorf("got %+v, %v; want no work any more, and why", work, err)
		}
	}
}

// TestStepTakes: what looks odd and is none of Step's refusals.
func TestStepTakes(t *testing.T) {
	stale := func(m *pb.Message) { m.Term, m.Commit = new(uint64(1)), new(uint64(99)) }
	for _, tt := range []struct {
		name string
		m    *pb.Message
	}{
		{"a heartbeat of an earlier term, whatever it commits", from(1, 2, pb.MsgHeartbeat, stale)},
		{"an append whose commit is beyond its entries", from(1, 2, pb.MsgApp, func(m *pb.Message) {
			appends(11, 2, entryAt(12, 2))(m)
			m.Commit = new(uint64(99))
		})},
		{"an append from a place beyond the log", from(1, 2, pb.MsgApp, appends(40, 2, entryAt(41, 2)))},
		{"a heartbeat from a leader without a record here", from(7, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Term = new(uint64(5)) })},
		{"an answer to a leader that is none any more", from(1, 2, pb.MsgAppResp, func(m *pb.Message) { m.Index = new(uint64(11)) })},
		{"an answer from a replica that raft does not know", from(7, 1, pb.MsgAppResp, func(m *pb.Message) { m.Index = new(uint64(11)) })},
		{"a joint configuration", from(1, 2, pb.MsgSnap, configuration(&pb.ConfState{
			Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3}, Learners: []uint64{4}, AutoLeave: new(true),
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
		cut  func(*pb.Message)
		typ  pb.MessageType
	}{
		{"by an append", appends(11, 2, entryAt(12, 3)), pb.MsgApp},
		{"by a snapshot", snapshotWith(func(s *pb.Snapshot) {
			s.Metadata.Index, s.Metadata.Term = new(uint64(12)), new(uint64(3))
		}), pb.MsgSnap},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			w.cut[[2]uint64{1, 3}] = true
			n := w.nodes[2]
			step := func(m *pb.Message) {
				t.Helper()
				if err := n.r.Step(nodeOf(m.GetFrom()), m); err != nil && !errors.Is(err, nexusraft.ErrRefused) {
					t.Fatal(err)
				}
			}
			step(from(1, 2, pb.MsgApp, appends(11, 2, entryAt(12, 2), entryAt(13, 2), entryAt(14, 2))))
			w.run(n)
			cut := from(3, 2, tt.typ, tt.cut)
			cut.Term = new(uint64(3))
			step(cut)
			beat := from(3, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(14)) })
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
	n.r.Read([]byte("first"))
	n.r.Read([]byte("second"))
	w.run(n)
	w.stabilize()
	for _, want := range []string{`read "first" from 11`, `read "second" from 11`} {
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
		w.nodes[1].r.Read([]byte("read"))
	}
	w.run(w.nodes[1])
	w.stabilize()
	for _, to := range []nexusraft.ReplicaID{2, 1} {
		old := w.nodes[uint64(3-to)]
		must(old.r.TransferLeader(to))
		w.run(old)
		w.stabilize()
	}
	r := w.nodes[1].r
	if s := r.Status(); s.State != nexusraft.Leader || s.Term != 4 {
		t.Fatalf("it is %s at term %d, want leader at 4", s.State, s.Term)
	}
	for _, id := range []uint64{2, 3} {
		m := from(id, 1, pb.MsgHeartbeatResp, func(m *pb.Message) { m.Context = []byte{1, 0, 0, 0, 0, 0, 0, 0} })
		m.Term = new(uint64(4))
		if err := r.Step(nodeOf(id), m); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got error %v, want ErrRefused", err)
		}
	}
}
