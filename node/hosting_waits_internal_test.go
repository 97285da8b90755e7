package node

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
func sharedZone(t *testing.T, lead bool) (*Node, *group, nexusraft.ReplicaID) {
	t.Helper()
	disk := storage.NewMemFS()
	n := foundingNode(t, disk)
	o := &outbox{t: t, disk: disk, zone: 2}
	n.worker.out.Network = o
	n.does(t, raise(), create("shared", n.ID(), leaderNode))
	g, peer := n.worker.zones[2], system.ReplicaOf(2, leaderNode)
	if !lead {
		return n, g, peer
	}
	if err := g.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	n.turns(t)
	for _, typ := range []raftpb.MessageType{raftpb.MsgPreVote, raftpb.MsgVote} {
		asked := o.take(typ)
		if len(asked) != 1 {
			t.Fatalf("%d %v have left, want one", len(asked), typ)
		}
		answer := raftpb.MsgPreVoteResp
		if typ == raftpb.MsgVote {
			answer = raftpb.MsgVoteResp
		}
		n.turnWith(t, driver.Inbound{Zone: 2, From: leaderNode, Message: &raftpb.Message{
			Type: answer.Enum(), From: new(uint64(peer)), To: new(uint64(g.self)), Term: asked[0].Term,
		}})
	}
	if _, self := g.replica.Leader(); !self {
		t.Fatal("the node does not lead")
	}
	return n, g, peer
}

// arrivedFor is a snapshot of zone 2 that has arrived from leaderNode.
func arrivedFor(t *testing.T, n *Node, g *group, peer nexusraft.ReplicaID) (*raftpb.Message, *snapshot.Received) {
	t.Helper()
	tree, err := n.dir.Store.Tree(datadir.NewStateTreeName(2))
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
func checkGone(t *testing.T, n *Node, g *group) {
	t.Helper()
	n.checkHosted(t)
	if n.replicas.Has(2) || n.worker.zones[2] != nil || n.worker.group(2) != nil {
		t.Error("the zone is known after it was deleted")
	}
	if _, err := n.Zone(2); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("look for the zone: %v, want ErrZoneNotFound", err)
	}
	n.worker.active.Add(g.group)
	if g.group.HasWork() {
		t.Error("the deleted zone has work")
	}
	if busy, err := n.worker.Turn(); busy || err != nil {
		t.Errorf("after the zone was deleted the worker is busy %t, %v", busy, err)
	}
	p := propose.New(2)
	p.Command = []byte("late")
	if err := n.worker.put(p); err != nil {
		t.Fatal(err)
	}
	n.turnWith(t, driver.Inbound{Zone: 2, From: leaderNode, Message: &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(system.ReplicaOf(2, leaderNode))), To: new(uint64(g.self)),
		Term: new(uint64(9)),
	}})
	if a := answerOf(t, "late proposal", p); !errors.Is(a.err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a late proposal: %v, want ErrZoneNotFound", a.err)
	}
}

// Whatever waits for a zone hears when it is deleted.
func TestDeletedZoneEndsWhatWaits(t *testing.T) {
	n, g, peer := sharedZone(t, true)
	proposed, r, at := propose.New(2), newRead(), newRead()
	proposed.Command = []byte("k")
	if err := n.worker.put(proposed); err != nil {
		t.Fatal(err)
	}
	g.group.Read(r, time.Now())
	g.group.ReadAt(at, 1<<40)
	n.turnWith(t)
	changed, err := eventSource{n}.Changed(2)
	if err != nil {
		t.Fatal(err)
	}
	forwarded, end, _ := n.forwards.Start(t.Context(), 2, leaderNode)
	defer end()
	g.sendSnapshot(leaderNode, &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(g.self)), To: new(uint64(peer)), Term: new(g.term.Load()),
		Snapshot: &raftpb.Snapshot{},
	})
	if len(g.sending) != 1 || len(r.ready) != 0 {
		t.Fatalf("%d snapshots are on their way, %d reads are answered", len(g.sending), len(r.ready))
	}
	n.turns(t)
	_, received := arrivedFor(t, n, g, peer)
	deleted := n.asks(t, deletion(2, "shared"))
	n.worker.loop.Drain()
	for busy := true; busy; { // without what Turn does at its end
		if busy, err = n.worker.active.Turn(n.worker.driver, nil); err != nil {
			t.Fatal(err)
		}
	}
	g.received = append(g.received, received) // as one that came in the moment before the zone goes
	if _, err := n.worker.host(); err != nil {
		t.Fatal(err)
	}
	n.turns(t)
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
	if _, err := (eventSource{n}).Changed(2); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a subscription goes on with %v, want ErrZoneNotFound", err)
	}
	answered(t, "call that was passed on to a leader", forwarded.Done())
	if err := snapshot.Drop(n.dir.Store, received.Tree); err != nil { // as InstallSnapshot does
		t.Fatal(err)
	}
	n.sending.Wait() // and its end comes to a zone that is gone
	n.turnWith(t)
	if len(g.sending) != 0 {
		t.Errorf("%d snapshots of the deleted zone are on their way", len(g.sending))
	}
	checkGone(t, n, g)
}

// A snapshot that comes in the round of the deletion is installed or not, and nothing of it is left; one
// that comes later is refused.
func TestDeletedZoneTakesNoSnapshot(t *testing.T) {
	n, g, peer := sharedZone(t, false)
	m, first := arrivedFor(t, n, g, peer)
	late, second := arrivedFor(t, n, g, peer)
	if err := n.putSnapshot(leaderNode, 2, m, first); err != nil {
		t.Fatal(err)
	}
	n.does(t, deletion(2, "shared"))
	if err := answered(t, "first snapshot", first.Ended()); err != nil {
		t.Errorf("the first snapshot was not installed: %v", err)
	}
	if err := n.putSnapshot(leaderNode, 2, late, second); err != nil {
		t.Fatal(err)
	}
	n.turnWith(t)
	if err := answered(t, "second snapshot", second.Ended()); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("the second snapshot: %v, want ErrZoneNotFound", err)
	}
	if err := snapshot.Drop(n.dir.Store, second.Tree); err != nil {
		t.Fatal(err)
	}
	checkGone(t, n, g)
}

// While the disk is full zones are dropped, in steps, and none is made, until there is room.
func TestFullDiskMakesNoZone(t *testing.T) {
	disk := storage.NewMemFS()
	n := foundingNode(t, disk)
	commands := []*pb.NodeCommand{raise()}
	for i := range 2*maxHosted + 1 {
		commands = append(commands, create(fmt.Sprint("many", i), n.ID()))
	}
	n.does(t, commands...)
	commands = nil
	for i := range 2*maxHosted + 1 {
		commands = append(commands, deletion(nexusraft.ZoneID(2+i), fmt.Sprint("many", i)))
	}
	last := nexusraft.ZoneID(2 + len(commands))
	calls := n.asks(t, append(commands, create("last", n.ID()))...)
	n.worker.loop.Drain() // and what follows is applied with the disk full
	n.worker.full = nexusraft.ErrDiskFull
	for left, busy := 2*maxHosted+1, true; busy; {
		var err error
		if busy, err = n.worker.Turn(); err != nil {
			t.Fatal(err)
		}
		now := len(n.worker.zones) - 1
		if n.replicas.Has(last) || left-now > maxHosted {
			t.Fatalf("a turn with a full disk has made the last zone: %t; of %d zones %d are left",
				n.replicas.Has(last), left, now)
		}
		left = now
	}
	for _, p := range calls {
		if a := answerOf(t, "command", p); a.err != nil {
			t.Fatal(a.err)
		}
	}
	if got := len(n.worker.zones); got != 1 {
		t.Errorf("%d zones are hosted, want the root zone alone", got)
	}
	n.turnWith(t) // which finds that there is room
	n.checkHosted(t)
	if !n.replicas.Has(last) {
		t.Error("with room again the zone is not made")
	}
}

// rootSnapshot is a snapshot of the root zone in whose state commands were applied.
func rootSnapshot(t *testing.T, n *Node, index nexusraft.Index, commands ...*pb.NodeCommand) arrived {
	t.Helper()
	m := snapshotAt(t, n, leaderNode, index)
	state := storage.NewOverlay(m.received.Tree)
	for _, c := range commands {
		data, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := system.Apply(state, 1, 1, data); err != nil || r.Refused != nil {
			t.Fatal(err, r.Refused)
		}
	}
	b := n.dir.Store.NewBatch()
	defer b.Close()
	if err := errors.Join(state.WriteTo(b, m.received.Tree), b.Commit(true)); err != nil {
		t.Fatal(err)
	}
	return m
}

// A snapshot of the root zone brings a node that was away all that it has missed, the deletions too.
func TestRootSnapshotJumpsOverZones(t *testing.T) {
	n := idleNode(t, true)
	err := n.peering.Admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: admittedMembers(n),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(n.ready)
	if err := n.worker.openAll(); err != nil {
		t.Fatal(err)
	}
	n.turns(t)
	history := []*pb.NodeCommand{raise(), create("one", n.ID()), create("two", n.ID()), create("three", n.ID())}
	check := func(index nexusraft.Index) {
		t.Helper()
		m := rootSnapshot(t, n, index, history...)
		m.offer(t, n)
		n.turnWith(t)
		if err := answered(t, "snapshot", m.received.Ended()); err != nil {
			t.Fatal(err)
		}
		want := append([]nexusraft.ZoneID{nexusraft.RootZone}, n.zoneState(t)...)
		for id := range nexusraft.ZoneID(300) {
			g := n.worker.zones[id]
			if has := slices.Contains(want, id); (g != nil) != has || n.replicas.Has(id) != has {
				t.Errorf("after the snapshot at %d: zone %v is hosted %t, known %t, want %t", index, id, g != nil,
					n.replicas.Has(id), has)
			}
		}
		names, err := n.dir.Store.Trees()
		if err != nil || len(names) != len(want)+2 { // and those of node and logs
			t.Errorf("after the snapshot at %d: trees %v, %v, for %d zones", index, names, err, len(want))
		}
	}
	check(20)
	third := n.worker.zones[4]
	history = append(history, deletion(2, "one"), create("two-b", n.ID()), create("one", leaderNode), deletion(3, "two"),
		create("gone", n.ID()), deletion(7, "gone"))
	check(40) // of which the node sees neither the creation nor the deletion of "gone"
	if n.worker.zones[4] != third {
		t.Error("a zone that stayed was opened anew")
	}
	if voters := n.worker.zones[6].log.Meta().ConfState.GetVoters(); len(voters) != 0 {
		t.Errorf("a zone of other nodes begins here with voters %v, want none", voters)
	}
	for i := range maxHosted + 9 {
		history = append(history, create(fmt.Sprint("many", i), n.ID()))
	}
	check(60)
	for i := range maxHosted + 5 {
		history = append(history, deletion(nexusraft.ZoneID(8+i), fmt.Sprint("many", i)))
	}
	check(80)
}
