package worker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// sharedZone is zone 2 of a node that leads its root zone alone: it shares the zone with leaderNode, which
// is away, and leads it if asked to.
func sharedZone(t *testing.T, lead bool) (*idleWorker, *group, nexusraft.ReplicaID) {
	t.Helper()
	disk := storage.NewMemFS()
	w := foundingWorker(t, disk)
	o := &outbox{t: t, disk: disk, zone: 2}
	w.out.Network = o
	w.does(t, raise(), create("shared", w.ID(), leaderNode))
	g, peer := w.zones[2], system.ReplicaOf(2, leaderNode)
	if !lead {
		return w, g, peer
	}
	if err := g.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	for _, typ := range []raftpb.MessageType{raftpb.MsgPreVote, raftpb.MsgVote} {
		asked := o.take(typ)
		if len(asked) != 1 {
			t.Fatalf("%d %v have left, want one", len(asked), typ)
		}
		answer := raftpb.MsgPreVoteResp
		if typ == raftpb.MsgVote {
			answer = raftpb.MsgVoteResp
		}
		w.turnWith(t, driver.Inbound{Zone: 2, From: leaderNode, Message: &raftpb.Message{
			Type: answer.Enum(), From: new(uint64(peer)), To: new(uint64(g.self)), Term: asked[0].Term,
		}})
	}
	if _, self := g.replica.Leader(); !self {
		t.Fatal("the node does not lead")
	}
	return w, g, peer
}

// arrivedFor is a snapshot of zone 2 that has arrived from leaderNode.
func arrivedFor(t *testing.T, w *idleWorker, g *group, peer nexusraft.ReplicaID) (*raftpb.Message, *snapshot.Received) {
	t.Helper()
	tree, err := w.o.Dir.Store.Tree(datadir.NewStateTreeName(2))
	if err != nil {
		t.Fatal(err)
	}
	meta := g.log.Meta()
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(peer)), To: new(uint64(g.self)), Term: new(uint64(2)),
		Snapshot: &raftpb.Snapshot{Data: meta.Membership.Encode(), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(20)), Term: new(uint64(2)), ConfState: meta.ConfState,
		}},
	}, snapshot.NewReceived(20, 2, tree)
}

// checkGone checks that a node has nothing of zone 2, and that nothing that comes for it makes a round.
func checkGone(t *testing.T, w *idleWorker, g *group) {
	t.Helper()
	w.checkHosted(t)
	if w.o.Replicas.Has(2) || w.zones[2] != nil || w.group(2) != nil {
		t.Error("the zone is known after it was deleted")
	}
	if _, err := w.o.Replicas.View(2); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("look for the zone: %v, want ErrZoneNotFound", err)
	}
	w.active.Add(g.group)
	if g.group.HasWork() {
		t.Error("the deleted zone has work")
	}
	if busy, err := w.Turn(); busy || err != nil {
		t.Errorf("after the zone was deleted the worker is busy %t, %v", busy, err)
	}
	p := propose.New(2)
	p.Command = []byte("late")
	if err := w.put(p); err != nil {
		t.Fatal(err)
	}
	w.turnWith(t, driver.Inbound{Zone: 2, From: leaderNode, Message: &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(system.ReplicaOf(2, leaderNode))), To: new(uint64(g.self)),
		Term: new(uint64(9)),
	}})
	if a := answerOf(t, "late proposal", p); !errors.Is(a.err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a late proposal: %v, want ErrZoneNotFound", a.err)
	}
}

// Whatever waits for a zone hears when it is deleted.
func TestDeletedZoneEndsWhatWaits(t *testing.T) {
	w, g, peer := sharedZone(t, true)
	proposed, r, at := propose.New(2), newRead(), newRead()
	proposed.Command = []byte("k")
	if err := w.put(proposed); err != nil {
		t.Fatal(err)
	}
	g.group.Read(r, time.Now())
	g.group.ReadAt(at, 1<<40)
	w.turnWith(t)
	known, err := w.o.Replicas.View(2)
	if err != nil {
		t.Fatal(err)
	}
	changed := known.Events.Wait()
	forwarded, end, _ := w.o.Forwards.Start(t.Context(), 2, leaderNode)
	defer end()
	g.sendSnapshot(leaderNode, &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(g.self)), To: new(uint64(peer)), Term: new(g.term.Load()),
		Snapshot: &raftpb.Snapshot{},
	})
	if len(g.sending) != 1 || len(r.ready) != 0 {
		t.Fatalf("%d snapshots are on their way, %d reads are answered", len(g.sending), len(r.ready))
	}
	w.turns(t)
	_, received := arrivedFor(t, w, g, peer)
	deleted := w.asks(t, deletion(2, "shared"))
	w.loop.Drain()
	for busy := true; busy; { // without what Turn does at its end
		if busy, err = w.active.Turn(w.driver, nil); err != nil {
			t.Fatal(err)
		}
	}
	g.received = append(g.received, received) // as one that came in the moment before the zone goes
	if _, err := w.host(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	if a := answerOf(t, "deletion", deleted[0]); a.err != nil {
		t.Fatal(a.err)
	}

	a := answerOf(t, "proposal", proposed)
	if !errors.Is(a.err, nexusraft.ErrUncertain) || !errors.Is(a.err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the proposal: %v, want ErrUncertain and ErrZoneNotFound", a.err)
	}
	if err := answered(t, "read", r.ready); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the read: %v, want ErrZoneNotFound", err)
	}
	if err := answered(t, "read at an index", at.ready); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the read at an index: %v, want ErrZoneNotFound", err)
	}
	if err := answered(t, "received snapshot", received.Ended()); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the received snapshot: %v, want ErrZoneNotFound", err)
	}
	answered(t, "subscription", changed)
	if _, err := w.o.Replicas.View(2); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a subscription goes on with %v, want ErrZoneNotFound", err)
	}
	answered(t, "call that was passed on to a leader", forwarded.Done())
	if err := snapshot.Drop(w.o.Dir.Store, received.Tree); err != nil { // as InstallSnapshot does
		t.Fatal(err)
	}
	w.o.Sending.Wait() // and its end comes to a zone that is gone
	w.turnWith(t)
	if len(g.sending) != 0 {
		t.Errorf("%d snapshots of the deleted zone are on their way", len(g.sending))
	}
	checkGone(t, w, g)
}

// A snapshot that comes in the round of the deletion is installed or not, and nothing of it is left; one
// that comes later is refused.
func TestDeletedZoneTakesNoSnapshot(t *testing.T) {
	w, g, peer := sharedZone(t, false)
	m, first := arrivedFor(t, w, g, peer)
	late, second := arrivedFor(t, w, g, peer)
	if err := w.putSnapshot(leaderNode, 2, m, first); err != nil {
		t.Fatal(err)
	}
	w.does(t, deletion(2, "shared"))
	if err := answered(t, "first snapshot", first.Ended()); err != nil {
		t.Errorf("the first snapshot was not installed: %v", err)
	}
	if err := w.putSnapshot(leaderNode, 2, late, second); err != nil {
		t.Fatal(err)
	}
	w.turnWith(t)
	if err := answered(t, "second snapshot", second.Ended()); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the second snapshot: %v, want ErrZoneNotFound", err)
	}
	if err := snapshot.Drop(w.o.Dir.Store, second.Tree); err != nil {
		t.Fatal(err)
	}
	checkGone(t, w, g)
}

// While the disk is full zones are dropped, in steps, and none is made, until there is room.
func TestFullDiskMakesNoZone(t *testing.T) {
	disk := storage.NewMemFS()
	w := foundingWorker(t, disk)
	commands := []*pb.NodeCommand{raise()}
	for i := range 2*maxHosted + 1 {
		commands = append(commands, create(fmt.Sprint("many", i), w.ID()))
	}
	w.does(t, commands...)
	commands = nil
	for i := range 2*maxHosted + 1 {
		commands = append(commands, deletion(nexusraft.ZoneID(2+i), fmt.Sprint("many", i)))
	}
	last := nexusraft.ZoneID(2 + len(commands))
	calls := w.asks(t, append(commands, create("last", w.ID()))...)
	w.loop.Drain() // and what follows is applied with the disk full
	w.full = nexusraft.ErrDiskFull
	for left, busy := 2*maxHosted+1, true; busy; {
		var err error
		if busy, err = w.Turn(); err != nil {
			t.Fatal(err)
		}
		now := len(w.zones) - 1
		if w.o.Replicas.Has(last) || left-now > maxHosted {
			t.Fatalf("a turn with a full disk has made the last zone: %t; of %d zones %d are left",
				w.o.Replicas.Has(last), left, now)
		}
		left = now
	}
	for _, p := range calls {
		if a := answerOf(t, "command", p); a.err != nil {
			t.Fatal(a.err)
		}
	}
	if got := len(w.zones); got != 1 {
		t.Errorf("%d zones are hosted, want the root zone alone", got)
	}
	w.turnWith(t) // which finds that there is room
	w.checkHosted(t)
	if !w.o.Replicas.Has(last) {
		t.Error("with room again the zone is not made")
	}
}

// rootSnapshot is a snapshot of the root zone in whose state commands were applied.
func rootSnapshot(t *testing.T, w *idleWorker, index nexusraft.Index, commands ...*pb.NodeCommand) arrived {
	t.Helper()
	m := snapshotAt(t, w, leaderNode, index)
	state := storage.NewOverlay(m.received.Tree)
	for _, c := range commands {
		data, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := system.Apply(state, nil, 1, 1, data); err != nil || r.Refused != nil {
			t.Fatal(err, r.Refused)
		}
	}
	b := w.o.Dir.Store.NewBatch()
	defer b.Close()
	if err := errors.Join(state.WriteTo(b, m.received.Tree), b.Commit(true)); err != nil {
		t.Fatal(err)
	}
	return m
}

// A snapshot of the root zone brings a node that was away all that it has missed, the deletions too.
func TestRootSnapshotJumpsOverZones(t *testing.T) {
	w := newIdleWorker(t, true)
	err := w.o.Peering.Admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: admittedMembers(w),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(w.ready)
	if err := w.openAll(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	history := []*pb.NodeCommand{raise(), create("one", w.ID()), create("two", w.ID()), create("three", w.ID())}
	check := func(index nexusraft.Index) {
		t.Helper()
		m := rootSnapshot(t, w, index, history...)
		m.offer(t, w)
		w.turnWith(t)
		if err := answered(t, "snapshot", m.received.Ended()); err != nil {
			t.Fatal(err)
		}
		want := append([]nexusraft.ZoneID{nexusraft.RootZone}, w.zoneState(t)...)
		for id := range nexusraft.ZoneID(300) {
			g := w.zones[id]
			if has := slices.Contains(want, id); (g != nil) != has || w.o.Replicas.Has(id) != has {
				t.Errorf("after the snapshot at %d: zone %v is hosted %t, known %t, want %t", index, id, g != nil,
					w.o.Replicas.Has(id), has)
			}
		}
		names, err := w.o.Dir.Store.Trees()
		if err != nil || len(names) != len(want)+2 { // and those of node and logs
			t.Errorf("after the snapshot at %d: trees %v, %v, for %d zones", index, names, err, len(want))
		}
	}
	check(20)
	third := w.zones[4]
	history = append(history, deletion(2, "one"), create("two-b", w.ID()), create("one", leaderNode), deletion(3, "two"),
		create("gone", w.ID()), deletion(7, "gone"))
	check(40) // of which the node sees neither the creation nor the deletion of "gone"
	if w.zones[4] != third {
		t.Error("a zone that stayed was opened anew")
	}
	if voters := w.zones[6].log.Meta().ConfState.GetVoters(); len(voters) != 0 {
		t.Errorf("a zone of other nodes begins here with voters %v, want none", voters)
	}
	for i := range maxHosted + 9 {
		history = append(history, create(fmt.Sprint("many", i), w.ID()))
	}
	check(60)
	for i := range maxHosted + 5 {
		history = append(history, deletion(nexusraft.ZoneID(8+i), fmt.Sprint("many", i)))
	}
	check(80)
}
