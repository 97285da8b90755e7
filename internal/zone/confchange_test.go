package zone_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

func TestConfChangeIsRefused(t *testing.T) {
	elsewhere := record(2, nexusraft.RoleMember)
	elsewhere.Node = nodeOf(8)
	second := record(8, nexusraft.RoleLearner)
	second.Node = nodeOf(2)
	again := record(8, nexusraft.RoleLearner)
	again.Node = nodeOf(9)
	set := func(m ...nexusraft.Member) zone.ConfChange { return zone.ConfChange{Set: m} }
	remove := func(ids ...nexusraft.ReplicaID) zone.ConfChange { return zone.ConfChange{Remove: ids} }

	for _, tt := range []struct {
		name   string
		change zone.ConfChange
		want   string
	}{
		{"nothing", zone.ConfChange{}, "empty"},
		{"a removed replica", set(record(9, nexusraft.RoleLearner)), "never used again"},
		{"a removed node", set(again), "never used again"},
		{"a second replica of a node", set(second), "two replicas"},
		{"a replica on another node", set(elsewhere), "node"},
		{"removing nobody", remove(8), "has no replica"},
		{"a record without a node", set(nexusraft.Member{Replica: 8, Role: nexusraft.RoleLearner}), "no node"},
		{"an unknown role", set(record(8, "observer")), "unknown role"},
		{"raft's own identity", set(record(^uint64(0), nexusraft.RoleLearner)), "reserved"},
		{"no voter left", remove(1, 2, 3), "fewer than half"},
		{"witnesses are half", remove(2), "fewer than half"},
		{
			"witnesses are more than half", set(record(8, nexusraft.RoleWitness), record(7, nexusraft.RoleWitness)),
			"fewer than half",
		},
		{"a second witness", set(record(8, nexusraft.RoleWitness)), "fewer than half"},
		{"a witness alone", remove(1, 2), "fewer than half"},
		{"a witness that becomes a member", set(record(3, nexusraft.RoleMember)), "witness"},
		{"a witness that becomes a learner", set(record(3, nexusraft.RoleLearner)), "witness"},
		{
			"a learner that becomes a witness", set(record(4, nexusraft.RoleWitness), record(5, nexusraft.RoleMember)),
			"witness",
		},
		{"a member that becomes a witness", zone.ConfChange{
			Set:    []nexusraft.Member{record(2, nexusraft.RoleWitness), record(8, nexusraft.RoleMember)},
			Remove: []nexusraft.ReplicaID{3},
		}, "witness"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ledZone(t)
			n := w.nodes[1]
			n.r.SetMembership(n.r.Membership().
				With(record(4, nexusraft.RoleLearner)).With(record(9, nexusraft.RoleLearner)).Without(9))
			err := w.change(n, tt.change)
			if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want ErrRefused with %q", err, tt.want)
			}
			if n.r.HasWork() {
				t.Error("a refused change was appended")
			}
		})
	}
}

func TestConfChangeElsewhereThanOnTheLeader(t *testing.T) {
	w := ledZone(t)
	err := w.change(w.nodes[2], zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}})
	if !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("got error %v, want ErrNotLeader", err)
	}
}

// TestSecondConfChange: raft swaps a change it refuses for an empty entry, in silence.
func TestSecondConfChange(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	if err := w.change(n, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}}); err != nil {
		t.Fatal(err)
	}
	err := w.change(n, zone.ConfChange{Set: []nexusraft.Member{record(5, nexusraft.RoleLearner)}})
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("got error %v, want ErrRefused", err)
	}
	w.run(n)
	w.stabilize()
	if _, ok := n.r.Membership().Replica(5); ok {
		t.Error("the refused change was applied")
	}
	if _, ok := n.r.Membership().Replica(4); !ok {
		t.Error("the first change was not applied")
	}
	if out := w.told(); strings.Count(out, "tells proposal 2: nexusraft: refused") != 1 {
		t.Errorf("the refused proposal was not told its end:\n%s", out)
	}
}

// TestMembershipFollowsTheLog: records are the same on every replica, and a removed one
// leaves a tombstone.
func TestMembershipFollowsTheLog(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.add(4, false, newDisk(nil, nexusraft.Membership{}))
	for _, c := range []zone.ConfChange{
		{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}},
		{Set: []nexusraft.Member{record(4, nexusraft.RoleMember)}, Remove: []nexusraft.ReplicaID{2}}, // joint
	} {
		if err := w.change(n, c); err != nil {
			t.Fatal(err)
		}
		w.run(n)
		for range 3 {
			w.tick(n)
			w.stabilize()
		}
	}
	want := nexusraft.Membership{
		Shape: nexusraft.DefaultShape,
		Members: []nexusraft.Member{
			record(1, nexusraft.RoleMember), record(3, nexusraft.RoleWitness),
			record(4, nexusraft.RoleMember),
		},
		Removed: []nexusraft.Tombstone{{Replica: 2, Node: nodeOf(2)}},
	}
	for _, id := range []uint64{1, 3, 4} {
		if diff := cmp.Diff(want, w.nodes[id].r.Membership()); diff != "" {
			t.Errorf("membership of %d (-want +got):\n%s", id, diff)
		}
		if got := w.nodes[id].disk.conf; len(got.GetVoters()) != 3 || len(got.GetVotersOutgoing()) != 0 {
			t.Errorf("got configuration %v of %d, want three voters and no outgoing ones", got, id)
		}
	}
}

// TestApplyConfChangeCorrupt: what can't be applied stops the zone and never panics.
func TestApplyConfChangeCorrupt(t *testing.T) {
	encode := func(c *raftpb.ConfChangeV2) []byte {
		b, err := proto.Marshal(c)
		must(err)
		return b
	}
	removeAll := &raftpb.ConfChangeV2{}
	for _, id := range []uint64{1, 2, 3} {
		removeAll.Changes = append(removeAll.Changes, &raftpb.ConfChangeSingle{
			Type:   raftpb.ConfChangeRemoveNode.Enum(),
			NodeId: new(id),
		})
	}
	for _, tt := range []struct {
		name string
		e    *raftpb.Entry
	}{
		{"an old conf change", &raftpb.Entry{Type: raftpb.EntryConfChange.Enum()}},
		{"no protobuf", &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte{0xff}}},
		{"no records", &raftpb.Entry{
			Type: raftpb.EntryConfChangeV2.Enum(), Data: encode(&raftpb.ConfChangeV2{Context: []byte("{")}),
		}},
		{"leaving what it is not in", &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum()}},
		{"removing every voter", &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: encode(removeAll)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := ledZone(t).nodes[2]
			before := n.r.Membership()
			if _, _, err := n.r.ApplyConfChange(tt.e); !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("got error %v, want ErrCorrupt", err)
			}
			if diff := cmp.Diff(before, n.r.Membership()); diff != "" {
				t.Errorf("it changed the records:\n%s", diff)
			}
		})
	}
}

// TestOutdated: the leader finds records that should change, one at a time; nobody else does.
func TestOutdated(t *testing.T) {
	w := ledZone(t)
	moved := func(m nexusraft.Member) nexusraft.Member {
		if m.Replica == 2 {
			m.Address = "moved:1"
		}
		return m
	}
	same := func(m nexusraft.Member) nexusraft.Member { return m }
	if m, ok := zone.Outdated(w.nodes[1].r, same); ok {
		t.Errorf("%v is outdated, want none", m)
	}
	if m, ok := zone.Outdated(w.nodes[1].r, moved); !ok || m.Replica != 2 || m.Address != "moved:1" {
		t.Errorf("after a move %v is outdated, %v; want replica 2 with its address", m, ok)
	}
	if m, ok := zone.Outdated(w.nodes[2].r, moved); ok {
		t.Errorf("on a follower %v is outdated", m)
	}
}

func TestPromotable(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	w.add(4, false, newDisk(nil, nexusraft.Membership{}))
	if err := w.change(n, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}}); err != nil {
		t.Fatal(err)
	}
	w.run(n)
	check := func(when string, want ...nexusraft.Member) {
		t.Helper()
		if diff := cmp.Diff(want, zone.Promotable(n.r)); diff != "" {
			t.Errorf("promotable %s (-want +got):\n%s", when, diff)
		}
	}
	check("before the learner has anything")
	for range 3 {
		w.tick(n)
		w.stabilize()
	}
	check("while the shape has no room")
	roomy := n.r.Membership()
	roomy.Shape.Members = 3
	n.r.SetMembership(roomy)
	check("with room", record(4, nexusraft.RoleLearner))
	w.cut[[2]uint64{4, 1}] = true
	must(w.propose(n, "x"))
	w.run(n)
	w.stabilize()
	for range 4 {
		w.tick(n)
		w.stabilize()
	}
	check("while it lacks what was committed a while ago")
	if got := zone.Promotable(w.nodes[2].r); got != nil {
		t.Errorf("got promotable %v on a follower", got)
	}
}

// TestTombstonesAreBounded: a change whose records could not be read any more is refused.
func TestTombstonesAreBounded(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	members := n.r.Membership()
	for id := nexusraft.ReplicaID(1000); len(members.Encode()) < nexusraft.MaxMembershipBytes; id++ {
		members.Removed = append(members.Removed, nexusraft.Tombstone{Replica: id, Node: nexusraft.NodeID(id)})
	}
	n.r.SetMembership(members)
	err := w.change(n, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}})
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "new cluster") {
		t.Errorf("got error %v, want ErrRefused that says what to do", err)
	}
	if n.r.HasWork() {
		t.Error("a refused change was appended")
	}
}
