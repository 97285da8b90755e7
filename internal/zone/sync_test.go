package zone_test

import (
	"fmt"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestLeavingMemberIsNotWaitedFor, and waited for again once it is heard of.
func TestLeavingMemberIsNotWaitedFor(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	expect := func(when string, want nexusraft.SyncState) {
		t.Helper()
		if got, _ := n.r.Sync(); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	w.cut[[2]uint64{1, 2}] = true
	must(w.propose(n, "x"))
	w.run(n)
	w.stabilize()
	expect("with an entry held", nexusraft.InSync)
	if got := n.r.Status().Commit; got != 11 {
		t.Fatalf("got commit %d, want 11: the entry is held", got)
	}
	active := func() bool {
		rows := n.r.Status().Replicas
		i := slices.IndexFunc(rows, func(s nexusraft.ReplicaStatus) bool { return s.Replica == 2 })
		return rows[i].Active
	}
	if !active() {
		t.Error("the member is not active before it says good-bye")
	}
	n.r.ReportLeaving(2)
	if active() { // nobody would hand the leadership to it
		t.Error("the member is active after it has said good-bye")
	}
	w.run(n)
	w.stabilize()
	expect("after the member said good-bye", nexusraft.Degraded)
	if got := n.r.Status().Commit; got != 12 {
		t.Errorf("got commit %d, want 12 without a tick", got)
	}
	clear(w.cut)
	for range 30 {
		w.tick(n)
		w.stabilize()
	}
	expect("after it came back", nexusraft.InSync)
}

func TestStatusOfTheGate(t *testing.T) {
	w := ledZone(t)
	s := w.nodes[1].r.Status()
	if got := fmt.Sprintf("%s since %d", s.Sync, s.SyncIndex); got != "in sync since 11" {
		t.Errorf("got %q, want in sync since 11", got)
	}
	if s := w.nodes[2].r.Status(); s.Sync != nexusraft.SyncUnknown || s.Replicas != nil {
		t.Errorf("got %q and %d replicas on a follower, want neither", s.Sync, len(s.Replicas))
	}
}
