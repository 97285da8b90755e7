package worker

import (
	"cmp"
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

const elsewhere nexusraft.NodeID = 77 // a node of which nothing but its ID is there

func (w *idleWorker) placeable() []*pb.Member {
	nodes := []*pb.Member{
		{Node: uint64(w.o.Peering.Self().Node), Address: "127.0.0.1:1", Role: pb.Role_ROLE_MEMBER},
		{Node: uint64(elsewhere), Address: "127.0.0.1:2", Role: pb.Role_ROLE_MEMBER},
	}
	slices.SortFunc(nodes, func(a, b *pb.Member) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	return nodes
}

// createHere makes a zone whose only replica is here.
func (w *idleWorker) createHere(name string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{
		Name: name, Machine: "keeping", Nodes: w.placeable(), Shape: &pb.Shape{Members: 1},
		Preferred: uint64(w.o.Peering.Self().Node),
	}}}
}

func (w *idleWorker) moveOff(id nexusraft.ZoneID, name string, node nexusraft.NodeID) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_ReshapeZone{ReshapeZone: &pb.ReshapeZone{
		Id: uint64(id), Name: name, Off: uint64(node), Nodes: w.placeable(), Returns: true,
	}}}
}

func reported(id nexusraft.ZoneID, changed uint64) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{ReportZone: &pb.ReportZone{Id: uint64(id), Changed: changed}}}
}

func (w *idleWorker) record(t *testing.T, id nexusraft.ZoneID) (z *pb.ZoneRecord) {
	t.Helper()
	err := w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		z, err = system.FindZone(r, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// A replica stays while its zone is under way, and goes once that has been reported; who asks for the zone then hears
// where it is. It comes back as another one, also if all that is in one round.
func TestReplicaGoesAndComesBack(t *testing.T) {
	disk := storage.NewMemFS()
	w := foundingWorker(t, disk)
	w.does(t, raise(), w.createHere("a-zone"))
	self, first := w.o.Peering.Self().Node, w.zones[2].self
	w.does(t, w.moveOff(2, "a-zone", self))
	w.turns(t)
	if g := w.zones[2]; g == nil || g.self != first || !g.placement.moving {
		t.Fatalf("under way: got %+v", g)
	}
	w.does(t, reported(2, w.record(t, 2).GetChanged()))
	w.turns(t)
	_, err := w.o.Replicas.View(2)
	if ask, ok := errors.AsType[*nexusraft.NotLeaderError](err); !ok || ask.Leader != elsewhere || w.zones[2] != nil {
		t.Errorf("reported: got %v, want node %v to be asked", err, elsewhere)
	}
	back := w.record(t, 2).GetChanged() + 2
	w.does(t, w.moveOff(2, "a-zone", elsewhere), reported(2, back))
	w.turns(t)
	second := w.zones[2].self
	if want, _ := system.PlacedOn(w.record(t, 2), self); second != want || second == first {
		t.Errorf("back: got replica %v, want %v, not %v", second, want, first)
	}
	w.does(t, w.moveOff(2, "a-zone", self), reported(2, back+2), w.moveOff(2, "a-zone", elsewhere), reported(2, back+4))
	w.turns(t)
	third := w.zones[2].self
	if want, _ := system.PlacedOn(w.record(t, 2), self); third != want || third == second {
		t.Errorf("away and back in one round: got replica %v, want %v, not %v", third, want, second)
	}
	w.does(t, w.moveOff(2, "a-zone", self), reported(2, back+6), deletion(2, "a-zone"))
	w.turns(t)
	if _, err := w.o.Replicas.View(2); !errors.Is(err, nexusraft.ErrZoneNotFound) || w.zones[2] != nil {
		t.Errorf("away and deleted in one round: got %v", err)
	}
}

// What a zone has come to is said once a quorum has confirmed that the leader leads, of the record that it went by: a
// leader that was deposed meanwhile, or has a newer record, says nothing.
func TestArrivalIsConfirmed(t *testing.T) {
	w := foundingWorker(t, storage.NewMemFS())
	said := 0
	w.o.Placed = func(Placed) { said++ }
	w.does(t, raise(), w.createHere("a-zone"))
	w.elects(t, 2)
	self := w.o.Peering.Self().Node
	w.does(t, w.moveOff(2, "a-zone", self), &pb.NodeCommand{Kind: &pb.NodeCommand_ReshapeZone{ReshapeZone: &pb.ReshapeZone{
		Id: 2, Name: "a-zone", Off: uint64(elsewhere), Nodes: w.placeable(), Instead: true, Returns: true,
	}}})
	g := w.zones[2]
	for range 3 * w.o.ElectionTicks {
		if g.tick(); g.group.Reads() > 0 {
			break
		}
		w.turns(t)
	}
	if said != 0 || g.group.Reads() != 1 {
		t.Fatalf("said %d times before a quorum was asked, %d reads wait", said, g.group.Reads())
	}
	(&arrival{g, g.placement}).Serve(nexusraft.ErrNoQuorum)
	(&arrival{g, placementOf(w.record(t, 2))}).Serve(nil)
	if said != 0 {
		t.Errorf("said %d times by a leader that was deposed, or goes by another record", said)
	}
	w.turns(t)
	if said != 1 {
		t.Errorf("confirmed, it was said %d times", said)
	}
}

// A leader of a zone that is where it is to be says so, again and again while the record says that it is under way.
func TestLeaderReportsThatAZoneIsThere(t *testing.T) {
	w := foundingWorker(t, storage.NewMemFS())
	var said []Placed
	w.o.Placed = func(p Placed) { said = append(said, p) }
	w.does(t, raise(), w.createHere("a-zone"))
	w.elects(t, 2)
	self := w.o.Peering.Self().Node
	w.does(t, w.moveOff(2, "a-zone", self), &pb.NodeCommand{Kind: &pb.NodeCommand_ReshapeZone{ReshapeZone: &pb.ReshapeZone{
		Id: 2, Name: "a-zone", Off: uint64(elsewhere), Nodes: w.placeable(), Instead: true, Returns: true,
	}}})
	changed := w.record(t, 2).GetChanged()
	for range 3 * w.o.ElectionTicks {
		w.zones[2].tick()
		w.turns(t)
	}
	if len(said) < 2 || said[0].Zone != 2 || said[0].Changed != changed || said[0].Removed != nil {
		t.Errorf("got %+v, want it said of change %d", said, changed)
	}
	w.does(t, reported(2, changed))
	w.turns(t)
	n := len(said)
	for range 3 * w.o.ElectionTicks {
		w.zones[2].tick()
		w.turns(t)
	}
	if len(said) != n || w.zones[2].placement.moving {
		t.Errorf("it goes on to say so once that is recorded: %+v", said[n:])
	}
}

// settles has a zone's leader tick until it has found that there is nothing to plan.
func (w *idleWorker) settles(t *testing.T, id nexusraft.ZoneID) *group {
	t.Helper()
	g := w.zones[id]
	for range 5 * w.o.ElectionTicks {
		if g.tendMembership(); g.settled.placement != nil {
			return g
		}
		w.turns(t)
	}
	t.Fatalf("zone %v does not come to rest: it has %v", id, g.replica.Membership())
	return nil
}

// A leader plans nothing for a zone that is where it is to be, until its record or its replicas change: then with the
// next tick.
func TestNothingIsPlannedForAZoneThatIsThere(t *testing.T) {
	w := foundingWorker(t, storage.NewMemFS())
	w.does(t, raise(), w.createHere("a-zone"))
	w.elects(t, 2)
	g := w.settles(t, 2)
	g.settled.ticks = -1000
	if n := testing.AllocsPerRun(100, g.tendMembership); n != 0 {
		t.Errorf("a tick allocates %v times: it plans", n)
	}
	g.change(nexusraft.Member{ // as an earlier leader may have left it
		Replica: 99, Node: elsewhere, Address: "127.0.0.1:2", Role: nexusraft.RoleLearner,
	})
	w.turns(t)
	if _, in := g.replica.Membership().Node(elsewhere); !in || g.settled.placement != nil {
		t.Fatalf("another replica has come: %v; settled: %v", in, g.settled)
	}
	w.settles(t, 2)
	if _, in := g.replica.Membership().Node(elsewhere); in {
		t.Error("another replica has come, and nothing is planned")
	}
	g.settled.ticks, g.pause = -1000, 0
	w.does(t, w.moveOff(2, "a-zone", w.o.Peering.Self().Node))
	if g.tendMembership(); !g.changing {
		t.Error("the record has changed, and nothing is planned with the next tick")
	}
}

// Addresses, of which no change of the zone tells, are looked at in each election timeout.
func TestAddressesAreLookedAtAgain(t *testing.T) {
	w := foundingWorker(t, storage.NewMemFS())
	w.does(t, raise(), w.createHere("a-zone"))
	w.elects(t, 2)
	g, looks := w.settles(t, 2), 0
	for range 3 * w.o.ElectionTicks {
		before := g.settled.ticks
		if g.tendMembership(); g.settled.ticks < before {
			looks++
		}
	}
	if looks != 3 {
		t.Errorf("in three election timeouts it looks %d times, want 3", looks)
	}
}
