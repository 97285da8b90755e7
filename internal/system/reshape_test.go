package system

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

// clusterNodes are so many nodes that hold data, 1 to full, of which the third and later are learners of the root zone,
// and witnesses from 101 on.
func clusterNodes(full, witnesses int) (nodes []*pb.Member) {
	for i := range full + witnesses {
		m := &pb.Member{Node: uint64(i + 1), Name: fmt.Sprintf("n%d", i+1), Address: "a:1", Role: pb.Role_ROLE_MEMBER}
		switch {
		case i >= full:
			m.Node, m.Role = uint64(101+i-full), pb.Role_ROLE_WITNESS
		case i >= 2:
			m.Role = pb.Role_ROLE_LEARNER
		}
		nodes = append(nodes, m)
	}
	return nodes
}

func createShaped(name string, members, witnesses uint32, nodes []*pb.Member) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{
		Name: name, Machine: "kv", Nodes: nodes, Shape: &pb.Shape{Members: members, Witnesses: witnesses},
	}}}
}

func reshaped(id uint64, name string, members, witnesses uint32, nodes []*pb.Member) *pb.ReshapeZone {
	return &pb.ReshapeZone{Id: id, Name: name, Shape: &pb.Shape{Members: members, Witnesses: witnesses}, Nodes: nodes}
}

func reshapeCommand(c *pb.ReshapeZone) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_ReshapeZone{ReshapeZone: c}}
}

func reportCommand(id, changed uint64, removed ...uint64) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{
		ReportZone: &pb.ReportZone{Id: id, Changed: changed, Removed: removed},
	}}
}

func zonesState(t rapid.TB, base *storage.Overlay) *storage.Overlay {
	t.Helper()
	if _, err := applied(t, base, raiseVersion(ZonesVersion)); err != nil {
		t.Fatal(err)
	}
	return base
}

// must applies a command that is not refused, and returns the zone's record after it.
func must(t rapid.TB, base *storage.Overlay, id uint64, c *pb.NodeCommand) *pb.ZoneRecord {
	t.Helper()
	if _, err := applied(t, base, c); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	z, err := FindZone(base, nexusraft.ZoneID(id))
	if err != nil || z == nil {
		t.Fatalf("zone %d: got %v, %v", id, z, err)
	}
	return z
}

func nodesOn(z *pb.ZoneRecord) (nodes []uint64) {
	for _, p := range z.GetPlacement() {
		nodes = append(nodes, p.GetNode())
	}
	return nodes
}

// A zone is placed on the nodes that have the fewest, and begins with what it is placed on.
func TestShapedZoneIsPlaced(t *testing.T) {
	base := zonesState(t, emptyState(t))
	nodes := clusterNodes(4, 1)
	for i, tc := range []struct {
		members, witnesses uint32
		want               []uint64
	}{
		{1, 0, []uint64{1}},
		{1, 0, []uint64{2}},
		{3, 0, []uint64{1, 3, 4}},
		{2, 1, []uint64{2, 3, 101}},
		{4, 1, []uint64{1, 2, 3, 4, 101}},
		{1, 0, []uint64{4}},
	} {
		id := uint64(i + 2)
		z := must(t, base, id, createShaped(fmt.Sprintf("zone-%d", i), tc.members, tc.witnesses, nodes))
		if got := nodesOn(z); !slices.Equal(got, tc.want) || z.GetMoving() {
			t.Errorf("%d+%d: got %v, moving %v; want %v", tc.members, tc.witnesses, got, z.GetMoving(), tc.want)
		}
		if len(z.GetMembers()) != len(tc.want) {
			t.Errorf("%d+%d: it begins with %v", tc.members, tc.witnesses, z.GetMembers())
		}
		for _, m := range z.GetMembers() {
			if p := find(z.GetPlacement(), m.GetNode()); p.GetReplica() != m.GetReplica() || p.GetRole() != m.GetRole() {
				t.Errorf("%d+%d: it begins with %v, and is to have %v", tc.members, tc.witnesses, m, p)
			}
		}
	}
}

func TestShapesRefused(t *testing.T) {
	base := zonesState(t, emptyState(t))
	nodes := clusterNodes(4, 1)
	must(t, base, 2, createShaped("a-zone", 3, 0, nodes))
	must(t, base, 3, createZone("everywhere", "kv", 1, 2))
	preferring := func(c *pb.ReshapeZone, node uint64) *pb.ReshapeZone { c.Preferred = node; return c }
	for _, x := range []struct {
		members, witnesses uint32
		says               string
	}{
		{2, 0, "1, 2+1, 3, 4+1 or 5"},
		{4, 0, "1, 2+1, 3, 4+1 or 5"},
		{6, 0, "1, 2+1, 3, 4+1 or 5"},
		{0, 1, "would be witnesses"},
		{1, 1, "would be witnesses"},
		{2, 2, "would be witnesses"},
		{3, 1, "1, 2+1, 3, 4+1 or 5"},
		{1 << 31, 0, "1, 2+1, 3, 4+1 or 5"},
		{5, 0, "needs 5 nodes that hold data, and the cluster has 4"},
	} {
		for _, c := range []*pb.NodeCommand{
			createShaped("fresh", x.members, x.witnesses, nodes),
			reshapeCommand(reshaped(2, "a-zone", x.members, x.witnesses, nodes)),
			reshapeCommand(reshaped(3, "everywhere", x.members, x.witnesses, nodes)),
		} {
			_, err := applied(t, base, c)
			if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v: got %v, want it to say %q", c, err, x.says)
			}
		}
	}
	noWitness := clusterNodes(4, 0)
	for _, x := range []struct {
		c    *pb.ReshapeZone
		says string
	}{
		{reshaped(1, "root", 3, 0, nodes), "root zone is on all nodes"},
		{reshaped(9, "a-zone", 1, 0, nodes), "there is no zone 9"},
		{reshaped(2, "everywhere", 1, 0, nodes), `is called "a-zone"`},
		{reshaped(2, "a-zone", 2, 1, noWitness), "the cluster has none"},
		{reshaped(2, "a-zone", 0, 0, nodes), "can't have a replica on each node again"},
		{reshaped(2, "a-zone", 1, 0, nil), "needs 1 nodes that hold data, and the cluster has 0"},
		{reshaped(2, "a-zone", 1, 0, []*pb.Member{nodes[1], nodes[0]}), "do not ascend"},
		{preferring(reshaped(2, "a-zone", 1, 0, nodes), 101), "is no node of the cluster that holds data"},
		{preferring(reshaped(2, "a-zone", 3, 0, nodes), 77), "is no node of the cluster that holds data"},
		{&pb.ReshapeZone{Id: 3, Name: "everywhere", Off: 1, Nodes: nodes}, "has a replica on each node"},
		{
			&pb.ReshapeZone{Id: 2, Name: "a-zone", Shape: &pb.Shape{Members: 1}, Checked: true, Changed: 5, Nodes: nodes},
			"meanwhile",
		},
	} {
		_, err := applied(t, base, reshapeCommand(x.c))
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%v: got %v, want it to say %q", x.c, err, x.says)
		}
	}
}

// A change is under way until the zone's leader reports that it is done, and one at a time; the same asked for again is
// no other one.
func TestReshapeIsUnderWayUntilReported(t *testing.T) {
	base := zonesState(t, emptyState(t))
	nodes := clusterNodes(4, 1)
	first := must(t, base, 2, createShaped("a-zone", 3, 0, nodes))
	if again := must(t, base, 2, reshapeCommand(reshaped(2, "a-zone", 3, 0, nodes))); !proto.Equal(first, again) {
		t.Errorf("the shape that it has: got %v, want %v", again, first)
	}
	to := reshapeCommand(reshaped(2, "a-zone", 1, 0, nodes))
	z := must(t, base, 2, to)
	if !z.GetMoving() || !slices.Equal(nodesOn(z), []uint64{1}) || len(z.GetLeaving()) != 2 {
		t.Errorf("under way: got %v", z)
	}
	if again := must(t, base, 2, to); !proto.Equal(z, again) {
		t.Errorf("the same again: got %v, want %v", again, z)
	}
	other := reshaped(2, "a-zone", 2, 1, nodes)
	if _, err := applied(t, base, reshapeCommand(other)); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("another one: got %v", err)
	}
	for _, c := range []*pb.NodeCommand{reportCommand(2, z.GetChanged()-1), reportCommand(2, 0), reportCommand(7, 1)} {
		if _, err := applied(t, base, c); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%v: got %v", c, err)
		}
	}
	other.Instead = true
	z = must(t, base, 2, reshapeCommand(other))
	if !z.GetMoving() || z.GetPlacement()[0].GetReplica() != first.GetPlacement()[0].GetReplica() {
		t.Errorf("instead: got %v, from %v", z, first)
	}
	z = must(t, base, 2, reportCommand(2, z.GetChanged()))
	if z.GetMoving() || len(z.GetLeaving()) > 0 {
		t.Errorf("reported: got %v", z)
	}
	if _, err := applied(t, base, deleteZone(2, "a-zone")); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := applied(t, base, reportCommand(2, z.GetChanged())); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("report of a zone that was deleted: got %v", err)
	}
}

// A node that leaves the cluster takes no place, and one that nobody can take stays empty if the zone works so.
func TestZoneLeavesANode(t *testing.T) {
	base := zonesState(t, emptyState(t))
	off := func(id uint64, name string, node uint64, nodes []*pb.Member) *pb.NodeCommand {
		return reshapeCommand(&pb.ReshapeZone{Id: id, Name: name, Off: node, Nodes: nodes})
	}
	three := must(t, base, 2, createShaped("three", 3, 0, clusterNodes(3, 1)))
	z := must(t, base, 2, off(2, "three", 2, clusterNodes(4, 1)))
	if !slices.Equal(nodesOn(z), []uint64{1, 3, 4}) || PlanOf(z) != PlanOf(three) {
		t.Errorf("another node takes the place: got %v", z)
	}
	must(t, base, 2, reportCommand(2, z.GetChanged()))
	refill := reshapeCommand(&pb.ReshapeZone{Id: 2, Name: "three", Refill: true, Nodes: clusterNodes(4, 1)})
	z = must(t, base, 2, off(2, "three", 3, clusterNodes(4, 1)))
	if !slices.Equal(nodesOn(z), []uint64{1, 4}) {
		t.Errorf("nobody takes the place: got %v", z)
	}
	must(t, base, 2, reportCommand(2, z.GetChanged()))
	if z = must(t, base, 2, refill); !slices.Equal(nodesOn(z), []uint64{1, 4}) || z.GetMoving() {
		t.Errorf("filled by a node that it has left: got %v", z)
	}
	z = must(t, base, 2, reshapeCommand(reshaped(2, "three", 3, 0, clusterNodes(4, 1))))
	if was := find(three.GetPlacement(), 2).GetReplica(); !slices.Equal(nodesOn(z), []uint64{1, 2, 4}) ||
		find(z.GetPlacement(), 2).GetReplica() == was || !z.GetMoving() {
		t.Errorf("asked for again, a node that comes back gets another replica: got %v", z)
	}
	must(t, base, 2, reportCommand(2, z.GetChanged()))

	must(t, base, 3, createShaped("two", 2, 1, clusterNodes(2, 1)))
	if _, err := applied(t, base, off(3, "two", 1, clusterNodes(2, 1))); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("1+1: got %v", err)
	}
	if z = must(t, base, 3, off(3, "two", 101, clusterNodes(2, 1))); !slices.Equal(nodesOn(z), []uint64{1, 2}) {
		t.Errorf("without the witness: got %v", z)
	}
	must(t, base, 4, createShaped("one", 1, 0, clusterNodes(1, 0)))
	if _, err := applied(t, base, off(4, "one", 1, clusterNodes(1, 1))); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("the last member: got %v", err)
	}
}

// A zone remembers which nodes it has left until a plan is asked for, or they leave the cluster; one that was only lost
// may take a place again.
func TestZoneRemembersWhatItHasLeft(t *testing.T) {
	nodes, returns := clusterNodes(4, 1), true
	for name, tc := range map[string]struct {
		c    *pb.ReshapeZone
		want []uint64
	}{
		"the same plan, full as it is": {reshaped(2, "a-zone", 3, 0, nodes), nil},
		"another plan":                 {reshaped(2, "a-zone", 1, 0, nodes), nil},
		"off another one":              {&pb.ReshapeZone{Off: 3, Nodes: nodes}, []uint64{2, 3}},
		"off one that has gone since":  {&pb.ReshapeZone{Off: 3, Nodes: slices.Delete(slices.Clone(nodes), 1, 3)}, nil},
		"off one that is lost":         {&pb.ReshapeZone{Off: 4, Nodes: nodes, Returns: returns}, []uint64{2}},
		"off itself again":             {&pb.ReshapeZone{Off: 2, Nodes: nodes}, []uint64{2}},
	} {
		base := zonesState(t, emptyState(t))
		must(t, base, 2, createShaped("a-zone", 3, 0, clusterNodes(3, 1)))
		z := must(t, base, 2, reshapeCommand(&pb.ReshapeZone{Id: 2, Name: "a-zone", Off: 2, Nodes: nodes}))
		must(t, base, 2, reportCommand(2, z.GetChanged()))
		tc.c.Id, tc.c.Name = 2, "a-zone"
		z = must(t, base, 2, reshapeCommand(tc.c))
		if !slices.Equal(z.GetOff(), tc.want) {
			t.Errorf("%s: got %v, want %v", name, z.GetOff(), tc.want)
		}
	}
}

// Whatever is asked for, a replica of a zone with a shape has an ID that no earlier one had, and while a zone is under
// way no node that has a replica is told to drop it, unless its leader has said that it was removed.
func TestPlacementsNeverUseAnIDTwice(t *testing.T) {
	empty := zonesState(t, emptyState(t))
	rapid.Check(t, func(t *rapid.T) {
		base := storage.NewOverlay(empty)
		shapes := []nexusraft.Shape{
			{Members: 1}, {Members: 2, Witnesses: 1}, {Members: 3}, {Members: 4, Witnesses: 1}, {Members: 5},
		}
		if rapid.Bool().Draw(t, "everywhere") {
			must(t, base, 2, createZone("a-zone", "kv", 1, 2))
		} else {
			must(t, base, 2, createShaped("a-zone", 3, 0, clusterNodes(6, 1)))
		}
		before, _ := FindZone(base, 2)
		dropped := make(map[nexusraft.ReplicaID]bool)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			removed := make(map[nexusraft.ReplicaID]bool)
			c := drawChange(t, before, shapes, removed)
			if _, err := applied(t, base, c); err != nil && !errors.Is(err, nexusraft.ErrRefused) {
				t.Fatal(err)
			}
			z, _ := FindZone(base, 2)
			for node := range nexusraft.NodeID(110) {
				old, _, had := HostedBy(before, node)
				if before.GetShape() == nil && (node == 0 || node > 6 && node != 101) {
					continue // no node of the cluster
				}
				if now, _, _ := HostedBy(z, node); had && z.GetMoving() && now != old && !removed[old] {
					t.Fatalf("%v: node %v is not to have %v any more\nbefore %v\nafter  %v", c, node, old, before, z)
				}
				if had && Drops(z, node, old) {
					if z.GetMoving() && !removed[old] {
						t.Fatalf("%v: node %v drops %v\nbefore %v\nafter  %v", c, node, old, before, z)
					}
					dropped[old] = true
				}
				if now, has := PlacedOn(z, node); has && dropped[now] {
					t.Fatalf("%v: node %v gets %v again\nbefore %v\nafter  %v", c, node, now, before, z)
				}
			}
			before = z
		}
	})
}

// drawChange is a change, or a report, that is asked for in any state of a zone.
func drawChange(
	t *rapid.T, z *pb.ZoneRecord, shapes []nexusraft.Shape, removed map[nexusraft.ReplicaID]bool,
) *pb.NodeCommand {
	nodes := clusterNodes(6, 1)
	if rapid.Bool().Draw(t, "joining") { // the proposer does not know of it yet
		nodes = slices.Delete(nodes, 5, 6)
	}
	avoid := rapid.SliceOfN(rapid.SampledFrom([]uint64{1, 2, 3, 4, 5, 6, 101}), 0, 3).Draw(t, "avoid")
	switch rapid.SampledFrom([]string{"reshape", "off", "refill", "report", "removed"}).Draw(t, "what") {
	case "report":
		return reportCommand(2, z.GetChanged())
	case "removed":
		if len(z.GetPlacement()) == 0 {
			return reportCommand(2, z.GetChanged(), 1)
		}
		replica := rapid.SampledFrom(z.GetPlacement()).Draw(t, "replica").GetReplica()
		removed[nexusraft.ReplicaID(replica)] = true
		return reportCommand(2, z.GetChanged(), replica)
	case "off":
		return reshapeCommand(&pb.ReshapeZone{
			Id: 2, Name: "a-zone", Off: rapid.Uint64Range(1, 6).Draw(t, "node"), Nodes: nodes,
			Instead: rapid.Bool().Draw(t, "instead"), Returns: rapid.Bool().Draw(t, "returns"), Avoid: avoid,
		})
	case "refill":
		return reshapeCommand(&pb.ReshapeZone{Id: 2, Name: "a-zone", Refill: true, Nodes: nodes, Avoid: avoid})
	}
	s := rapid.SampledFrom(shapes).Draw(t, "shape")
	c := reshaped(2, "a-zone", uint32(s.Members), uint32(s.Witnesses), nodes)
	c.Avoid = avoid
	c.Instead, c.Preferred = rapid.Bool().Draw(t, "instead"), rapid.Uint64Range(0, 6).Draw(t, "preferred")
	return reshapeCommand(c)
}

func TestWhoDropsAReplica(t *testing.T) {
	one := &pb.Shape{Members: 1}
	placed := &pb.ZoneRecord{Id: 2, Shape: one, Placement: []*pb.PlacedReplica{{Node: 1, Replica: 11}}}
	for name, tc := range map[string]struct {
		z       *pb.ZoneRecord
		replica nexusraft.ReplicaID
		want    bool
	}{
		"on each node":                         {&pb.ZoneRecord{Id: 2}, 7, false},
		"on each node, and it can't be read":   {&pb.ZoneRecord{Id: 2}, 0, false},
		"placed":                               {placed, 11, false},
		"placed, and it can't be read":         {placed, 0, false},
		"another one is placed":                {placed, 12, true},
		"not placed":                           {&pb.ZoneRecord{Id: 2, Shape: one}, 11, true},
		"not placed, and it can't be read":     {&pb.ZoneRecord{Id: 2, Shape: one}, 0, true},
		"not placed, and the zone is on a way": {&pb.ZoneRecord{Id: 2, Shape: one, Moving: true}, 11, false},
	} {
		if got := Drops(tc.z, 1, tc.replica); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// A node that is named takes the place, though others have fewer replicas; where it can't, nobody does.
func TestNamedNodeTakesThePlace(t *testing.T) {
	for name, tc := range map[string]struct {
		off, with uint64
		avoid     []uint64
		want      []uint64 // nil: it is refused
	}{
		"any":                     {2, 0, nil, []uint64{1, 4, 101}},
		"the one with more":       {2, 3, nil, []uint64{1, 3, 101}},
		"that it was told to":     {2, 5, nil, []uint64{1, 5, 101}},
		"a witness by another":    {101, 102, nil, []uint64{1, 2, 102}},
		"one that is silent":      {2, 3, []uint64{3}, nil},
		"no node":                 {2, 7, nil, nil},
		"a witness for a member":  {2, 102, nil, nil},
		"a member for a witness":  {101, 3, nil, nil},
		"it has a replica":        {2, 1, nil, nil},
		"of a node that has none": {3, 4, nil, nil},
		"it has taken it already": {3, 1, nil, []uint64{1, 2, 101}},
	} {
		base, nodes := zonesState(t, emptyState(t)), clusterNodes(5, 2)
		if tc.with != 0 && RequireNamedPlace(base) == nil {
			t.Error("a cluster of an earlier version names nodes that take a place")
		}
		if _, err := applied(t, base, raiseVersion(NamedPlaceVersion)); err != nil {
			t.Fatal(err)
		}
		must(t, base, 2, createShaped("a-zone", 2, 1, nodes))
		for i := range 5 { // node 3 has many
			c := createShaped(fmt.Sprintf("zone-%d", i), 1, 0, nodes)
			c.GetCreateZone().Preferred = 3
			must(t, base, uint64(i+3), c)
		}
		told := must(t, base, 2, reshapeCommand(&pb.ReshapeZone{Id: 2, Name: "a-zone", Nodes: nodes, Off: 5}))
		told.Off = []uint64{5} // as a node that it had
		if _, _, err := storeZone(base, told, told.GetPlacement()); err != nil {
			t.Fatal(err)
		}
		_, err := applied(t, base, reshapeCommand(&pb.ReshapeZone{
			Id: 2, Name: "a-zone", Nodes: nodes, Off: tc.off, With: tc.with, Avoid: tc.avoid,
		}))
		z, _ := FindZone(base, 2)
		switch {
		case tc.want == nil && (!errors.Is(err, nexusraft.ErrRefused) || !proto.Equal(z, told)):
			t.Errorf("%s: got %v, %v, want it refused", name, err, nodesOn(z))
		case tc.want != nil && (err != nil || !slices.Equal(nodesOn(z), tc.want)):
			t.Errorf("%s: got %v, %v, want %v", name, err, nodesOn(z), tc.want)
		case slices.Contains(z.GetOff(), tc.with) && tc.want != nil:
			t.Errorf("%s: it is told to stay off the node that it is placed on: %v", name, z)
		}
	}
}
