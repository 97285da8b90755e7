package system

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

func createZone(name, machine string, nodes ...uint64) *pb.NodeCommand {
	c := &pb.CreateZone{Name: name, Machine: machine}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, &pb.Member{Node: n, Address: "a:1", Role: pb.Role_ROLE_MEMBER})
	}
	return &pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: c}}
}

func deleteZone(id uint64, name string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteZone{DeleteZone: &pb.DeleteZone{Id: id, Name: name}}}
}

func raiseVersion(minor uint32) *pb.NodeCommand {
	return &pb.NodeCommand{
		Kind: &pb.NodeCommand_RaiseClusterVersion{RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: minor}},
	}
}

// applied applies a command as a replica does, and returns its refusal.
func applied(t rapid.TB, base *storage.Overlay, c *pb.NodeCommand) (Result, error) {
	t.Helper()
	effects := storage.NewOverlay(base)
	r, err := Apply(effects, nil, 1, 5, own(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if r.Refused == nil {
		effects.MergeInto(base)
	}
	return r, r.Refused
}

// There are no zones before every node knows of them, and the version never goes back.
func TestClusterVersion(t *testing.T) {
	base := emptyState(t)
	_, err := applied(t, base, createZone("a-zone", "kv", 1))
	const says = "need a cluster of version 4, and this one has 3"
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), says) {
		t.Errorf("create at version 3: got %v", err)
	}
	for _, x := range []struct{ raise, want uint32 }{{4, 4}, {3, 4}, {4, 4}, {6, 6}, {0, 6}} {
		if _, err := applied(t, base, raiseVersion(x.raise)); err != nil {
			t.Errorf("raise to %d: %v", x.raise, err)
		}
		if got, err := ClusterVersion(base); got != x.want || err != nil {
			t.Errorf("raised to %d: got %d, %v, want %d", x.raise, got, err, x.want)
		}
	}
	if _, err := applied(t, base, createZone("a-zone", "kv", 1)); err != nil {
		t.Errorf("create: %v", err)
	}
}

func TestCreateZoneRefuses(t *testing.T) {
	base := emptyState(t)
	if _, err := applied(t, base, raiseVersion(ZonesVersion)); err != nil {
		t.Fatal(err)
	}
	witness := func(c *pb.NodeCommand, i int) *pb.NodeCommand {
		c.GetCreateZone().Nodes[i].Role = pb.Role_ROLE_WITNESS
		return c
	}
	learner := createZone("a-zone", "kv", 1)
	learner.GetCreateZone().Nodes[0].Role = pb.Role_ROLE_LEARNER
	long := createZone("a-zone", "kv", 1)
	long.GetCreateZone().Nodes[0].Address = strings.Repeat("a", nexusraft.MaxAddressBytes+1)
	many := make([]uint64, nexusraft.MaxMembers+1)
	for i := range many {
		many[i] = uint64(i + 1)
	}
	before := dump(t, base)
	for what, c := range map[string]*pb.NodeCommand{
		"no name": createZone("", "kv", 1), "no machine": createZone("a-zone", "", 1),
		"no nodes":         createZone("a-zone", "kv"),
		"an ID for a name": createZone("abc", "kv", 1), "the root zone's name": createZone("root", "kv", 1),
		"a node twice": createZone("a-zone", "kv", 1, 1), "out of order": createZone("a-zone", "kv", 2, 1),
		"no node": createZone("a-zone", "kv", 0), "a witness alone": witness(createZone("a-zone", "kv", 1), 0),
		"witnesses are half": witness(createZone("a-zone", "kv", 1, 2), 1), "a learner": learner,
		"a long address": long, "too many nodes": createZone("a-zone", "kv", many...),
	} {
		if _, err := applied(t, base, c); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", what, err)
		}
	}
	if dump(t, base) != before {
		t.Error("what was refused has changed the state")
	}
}

// A model: zones by name, and the last ID. Whatever is made and deleted, names are unique, IDs ascend, the
// table counts right, and a zone of the same name and state machine is the answer.
func TestZonesModel(t *testing.T) {
	empty := emptyState(t)
	rapid.Check(t, func(t *rapid.T) {
		base := storage.NewOverlay(empty)
		if _, err := applied(t, base, raiseVersion(ZonesVersion)); err != nil {
			t.Fatal(err)
		}
		names := []string{"z-a", "z-b", "z-c"}
		machines := map[string]string{}
		ids := map[string]uint64{}
		last, changes := uint64(1), uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			machine := rapid.SampledFrom([]string{"kv", "other"}).Draw(t, "machine")
			if rapid.Bool().Draw(t, "create") {
				r, err := applied(t, base, createZone(name, machine, 1, 2))
				exists := ids[name] != 0
				if (err != nil) != (exists && machines[name] != machine) {
					t.Fatalf("create %s: %v", name, err)
				}
				if err != nil {
					continue
				}
				if r.Zones == exists {
					t.Fatalf("create %s: tells of a change: %t", name, r.Zones)
				}
				if !exists {
					last, changes = last+1, changes+1
					ids[name], machines[name] = last, machine
				}
				answer, _ := CutAnswer(r.Answer)
				z, err := decode[pb.ZoneRecord](answer, zoneRecord)
				if err != nil || z.GetId() != ids[name] || z.GetMachine() != machine || len(z.GetMembers()) != 2 {
					t.Fatalf("create %s: answer %v, %v", name, z, err)
				}
				continue
			}
			id := rapid.Uint64Range(0, last+1).Draw(t, "id")
			r, err := applied(t, base, deleteZone(id, name))
			if (err == nil) != (id != 0 && ids[name] == id) {
				t.Fatalf("delete %d as %s: %v, where it is %d", id, name, err, ids[name])
			}
			if err == nil {
				changes++
				delete(ids, name)
				if r.Zone.Record != nil || uint64(r.Zone.Zone) != id {
					t.Fatalf("delete %d tells of %+v", id, r.Zone)
				}
			}
		}
		table, err := ZoneTable(base)
		count := uint64(len(ids))
		if err != nil || table.GetLastId() != last || table.GetCount() != count || table.GetVersion() != changes {
			t.Fatalf("table %v, %v; want last %d, count %d, version %d", table, err, last, len(ids), changes)
		}
		all, err := Zones(base, nexusraft.RootZone, 100)
		if err != nil || len(all) != len(ids) {
			t.Fatalf("zones %v, %v", all, err)
		}
		for _, z := range all {
			named, err := ZoneNamed(base, z.GetName())
			if err != nil || named.GetId() != z.GetId() || ids[z.GetName()] != z.GetId() {
				t.Fatalf("zone %v, by its name %v, %v", z, named, err)
			}
		}
	})
}

func TestZonesPages(t *testing.T) {
	base := emptyState(t)
	if _, err := applied(t, base, raiseVersion(ZonesVersion)); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := applied(t, base, createZone(fmt.Sprintf("z-%d", i), "kv", 1)); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	for after := nexusraft.ZoneID(0); ; {
		page, err := Zones(base, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, z := range page {
			got = append(got, z.GetId())
		}
		after = nexusraft.ZoneID(page[len(page)-1].GetId())
	}
	if want := []uint64{2, 3, 4, 5, 6, 7, 8, 9, 10, 11}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if page, err := Zones(base, math.MaxUint64, 3); err != nil || page != nil {
		t.Errorf("after the last: %v, %v", page, err)
	}
}

// The IDs of replicas follow from zone and node, and are ones that raft takes.
func TestReplicaOf(t *testing.T) {
	if got, want := ReplicaOf(2, 3).String(), "23113de70f913e0e"; got != want {
		t.Errorf("got %v, want %v: it is for ever", got, want)
	}
	seen := make(map[nexusraft.ReplicaID]bool)
	for z := range nexusraft.ZoneID(100) {
		for n := range nexusraft.NodeID(100) {
			id := ReplicaOf(z, n)
			if id == 0 || id >= math.MaxUint64-1 || seen[id] {
				t.Errorf("zone %v, node %v: replica %v", z, n, id)
			}
			seen[id] = true
		}
	}
}

// A creation and a deletion are each told once, in bytes that are for ever (I4); what changes nothing or is
// refused tells nothing.
func TestZonesAreTold(t *testing.T) {
	base := emptyState(t)
	for _, c := range []*pb.NodeCommand{
		raiseVersion(ZonesVersion), createZone("orders", "kv", 1, 2),
		createZone("orders", "kv", 1), createZone("orders", "x", 1),
		deleteZone(2, "users"), deleteZone(3, "orders"), deleteZone(2, "orders"), deleteZone(2, "orders"),
		createZone("orders", "kv", 1),
	} {
		before, _ := stored(t, base)
		r, _ := applied(t, base, c)
		if after, _ := stored(t, base); (after.Next > before.Next) != r.Events {
			t.Errorf("%v: there are new events: %t, it says %t", c, after.Next > before.Next, r.Events)
		}
	}
	_, events := stored(t, base)
	want := []Event{
		{Time: 5, Topic: "zone", Type: "created", Payload: []byte("\x08\x02\x12\x06orders\x1a\x02kv\x20\x05")},
		{Time: 5, Topic: "zone", Type: "deleted", Payload: []byte("\x08\x02\x12\x06orders\x1a\x02kv\x20\x05")},
		{Time: 5, Topic: "zone", Type: "created", Payload: []byte("\x08\x03\x12\x06orders\x1a\x02kv\x20\x05")},
	}
	if d := cmp.Diff(want, events); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	m := &pb.ZoneInfo{}
	if err := proto.Unmarshal(events[2].Payload, m); err != nil || m.GetId() != 3 || m.GetName() != "orders" ||
		m.GetMachine() != "kv" || m.GetCreatedNanos() != 5 {
		t.Errorf("a client reads %v, %v", m, err)
	}
}
