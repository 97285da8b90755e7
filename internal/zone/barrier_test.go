package zone_test

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// TestConfChangeIsToldOnceItIsStored: a leader that applies less in a round than is committed must
// not tell of the commit of a conf change in the rounds before the one that applies it, and in
// that one only after the sync (I3).
func TestConfChangeIsToldOnceItIsStored(t *testing.T) {
	w := newWorld(t, 0)
	w.committed = 100
	w.found([]uint64{1, 2}, []uint64{3})
	elect(t, w, 1)
	n := w.nodes[1]
	must(w.propose(n, strings.Repeat("a", 200), strings.Repeat("b", 200), strings.Repeat("c", 200)))
	must(w.change(n, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}}))
	change := n.r.Status().LastIndex + 4
	w.run(n)
	w.deliver(func(m *raftpb.Message) bool { return m.GetTo() == 2 })
	for _, m := range w.queue { // both have all of it, and nothing is applied yet
		if m.GetTo() == 1 {
			must(w.step(n, m))
		}
	}
	rounds, told := 0, false
	w.sent = func(m *raftpb.Message) {
		if m.GetType() != raftpb.MsgApp && m.GetType() != raftpb.MsgHeartbeat {
			return
		}
		switch commit := nexusraft.Index(m.GetCommit()); {
		case !n.stored && commit >= change:
			t.Errorf("round %d, before its write: %s tells of the change at %d", rounds, w.message(m), change)
		case n.stored && commit > n.disk.applied:
			t.Errorf("round %d: %s tells of more than the %d entries that are applied", rounds, w.message(m), n.disk.applied)
		case n.stored:
			told = told || commit >= change
		}
	}
	for ; n.r.Applied() < change; rounds++ {
		n.group.Tick()
		w.turn(n)
	}
	if rounds < 3 || !told {
		t.Errorf("%d rounds, told %t: the test is void", rounds, told)
	}
}
