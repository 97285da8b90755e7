package hosting

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// modelWitness takes over pages by the rules of a real one: a zone that it hosts it keeps as it is while it is there.
type modelWitness struct {
	version uint64
	hosts   map[nexusraft.ZoneID]nexusraft.ReplicaID
}

func (w *modelWitness) takeOver(page transport.HostedZones) error {
	if err := page.Validate(); err != nil {
		return err
	}
	gone := func(id nexusraft.ZoneID, _ nexusraft.ReplicaID) bool { return !slices.Contains(page.Live, id) }
	maps.DeleteFunc(w.hosts, gone)
	for _, z := range page.Created {
		if _, hosted := w.hosts[z.Zone]; !hosted && z.Version > w.version {
			w.hosts[z.Zone] = z.Replica
		}
	}
	for _, id := range page.Live {
		if w.hosts[id] == 0 {
			return fmt.Errorf("zone %v is there, and it is not told how to make it", id)
		}
	}
	if page.Version <= w.version {
		return fmt.Errorf("told of version %d, after %d", page.Version, w.version)
	}
	w.version = page.Version
	return nil
}

// Whenever a witness is told, and however much it has missed, it comes to host the replicas that zones have or may have
// on it, and no others: an earlier replica of a zone is gone before it gets another one.
func TestWitnessFollowsPlacements(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root := newTellingRoot(t)
		s := New(Options{Zone: root})
		w := &modelWitness{hosts: make(map[nexusraft.ZoneID]nexusraft.ReplicaID)}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			changeZones(rt, root)
			if rapid.Bool().Draw(rt, "told") {
				follow(rt, s, root, w)
			}
		}
		follow(rt, s, root, w)
	})
}

// follow tells the witness all that it does not know.
func follow(t *rapid.T, s *Registry, root *tellingRoot, w *modelWitness) {
	table, err := system.ZoneTable(root.state)
	if err != nil {
		t.Fatal(err)
	}
	for w.version < table.GetVersion() {
		page, err := s.page(witness1, w.version)
		if err == nil {
			err = w.takeOver(page)
		}
		if err != nil {
			t.Fatalf("version %d of %d: %v: %+v", w.version, table.GetVersion(), err, page)
		}
	}
	all, err := system.Zones(root.state, nexusraft.RootZone, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[nexusraft.ZoneID]nexusraft.ReplicaID)
	for _, z := range all {
		if replica, _, ok := system.HostedBy(z, witness1); ok {
			want[nexusraft.ZoneID(z.GetId())] = replica
		}
	}
	if !maps.Equal(w.hosts, want) {
		t.Fatalf("the witness hosts %v, want %v", w.hosts, want)
	}
}

// changeZones makes a zone, or changes or deletes one of those that are there.
func changeZones(t *rapid.T, root *tellingRoot) {
	all, _ := system.Zones(root.state, nexusraft.RootZone, math.MaxInt)
	shape := rapid.SampledFrom([]nexusraft.Shape{{Members: 1}, {Members: 2, Witnesses: 1}, {Members: 3}}).Draw(t, "shape")
	if len(all) == 0 || rapid.IntRange(0, 3).Draw(t, "make") == 0 {
		table, _ := system.ZoneTable(root.state)
		c := &pb.CreateZone{Name: fmt.Sprintf("zone-%d", table.GetLastId()), Machine: "kv", Nodes: nodesOf(root.members)}
		if rapid.Bool().Draw(t, "shaped") {
			c.Shape = wire.ShapeToProto(shape)
		}
		root.command(&pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: c}})
		return
	}
	z := rapid.SampledFrom(all).Draw(t, "zone")
	switch {
	case rapid.IntRange(0, 7).Draw(t, "delete") == 0:
		root.delete(nexusraft.ZoneID(z.GetId()), z.GetName())
	case !z.GetMoving():
		root.command(reshaping(&pb.ReshapeZone{
			Id: z.GetId(), Name: z.GetName(), Shape: wire.ShapeToProto(shape), Nodes: nodesOf(root.members),
		}))
	default:
		c := &pb.ReportZone{Id: z.GetId(), Changed: z.GetChanged()}
		if rapid.Bool().Draw(t, "removed") {
			for _, p := range z.GetPlacement() {
				c.Removed = append(c.Removed, p.GetReplica())
			}
		}
		root.command(&pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{ReportZone: c}})
	}
}

// A zone is changed where it has to be, and left alone where nothing can be done.
func TestMendedPlacements(t *testing.T) {
	root := newTellingRoot(t).members // members 0x11, 0x21 and 0x41, and witness 0x31
	place := func(shape nexusraft.Shape, nodes ...uint64) *pb.ZoneRecord {
		z := &pb.ZoneRecord{Id: 2, Name: "a-zone", Shape: wire.ShapeToProto(shape)}
		for _, node := range nodes {
			role := pb.Role_ROLE_MEMBER
			if node == uint64(witness1) || node == uint64(witness2) {
				role = pb.Role_ROLE_WITNESS
			}
			z.Placement = append(z.Placement, &pb.PlacedReplica{Node: node, Replica: node, Role: role})
		}
		return z
	}
	spare := func(z *pb.ZoneRecord) *pb.ZoneRecord { z.Spare = true; return z }
	moving := func(z *pb.ZoneRecord) *pb.ZoneRecord { z.Moving = true; return z }
	trio, three := nexusraft.DefaultShape, nexusraft.Shape{Members: 3}
	for name, tc := range map[string]struct {
		z      *pb.ZoneRecord
		lost   nexusraft.NodeID
		off    uint64
		refill bool
	}{
		"whole":                       {place(trio, 0x11, 0x21, 0x31), 0, 0, false},
		"a node is lost":              {place(trio, 0x11, 0x21, 0x31), 0x21, 0, false},
		"and there is a spare":        {spare(place(trio, 0x11, 0x21, 0x31)), 0x21, 0x21, false},
		"also while it moves":         {moving(spare(place(trio, 0x11, 0x21, 0x31))), 0x21, 0x21, false},
		"but nobody to be it":         {spare(place(three, 0x11, 0x21, 0x41)), 0x21, 0, false},
		"the spare is lost as well":   {spare(place(trio, 0x11, 0x21, 0x31)), 0x41, 0, false},
		"the witness is lost":         {spare(place(trio, 0x11, 0x21, 0x31)), 0x31, 0, false},
		"a node has left the cluster": {place(trio, 0x11, 0x51, 0x31), 0, 0x51, false},
		"a place is empty":            {place(three, 0x11, 0x21), 0, 0, true},
		"which nobody can take":       {place(three, 0x11, 0x21), 0x41, 0, false},
		"while it moves":              {moving(place(three, 0x11, 0x21)), 0, 0, false},
		"the witness is missing":      {place(trio, 0x11, 0x21), 0, 0, true},
	} {
		lost := map[nexusraft.NodeID]bool{tc.lost: true}
		c := mend(tc.z, root, lost, lost)
		if c.GetOff() != tc.off || c.GetRefill() != tc.refill || (c != nil) != (tc.off != 0 || tc.refill) {
			t.Errorf("%s: got %v, want off %#x, refill %v", name, c, tc.off, tc.refill)
		}
	}
}
