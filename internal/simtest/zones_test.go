package simtest

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// keeper makes and deletes zones at random, by commands of the root zone. One thing at a time; a command
// is proposed until the root zone's records show that it was applied.
type keeper struct {
	root *sim
	on   bool
	wish *zoneWish // nil: none
	made int       // names given

	ended   []*sim // zones that were deleted
	created int
}

// zoneWish is a zone that is to be there, or not.
type zoneWish struct {
	name    string
	command []byte
}

const mostZones = 3 // besides the root zone

func (k *keeper) step() {
	if k == nil || k.root.now%tickSteps != 0 {
		return
	}
	if k.on && k.wish == nil && k.root.percent(6) {
		k.begin()
	}
	if n := k.root.leader(); k.wish != nil && n != nil && k.root.now%(3*tickSteps) == 0 {
		n.commands = append(n.commands, k.wish)
	}
}

func (k *keeper) begin() {
	s, c := k.root, &pb.NodeCommand{}
	if others := s.zones[1:]; len(others) == mostZones || len(others) > 0 && s.percent(40) {
		z := others[s.rng.IntN(len(others))].zone
		name := s.oracle.ledger.zones[z]
		k.wish = &zoneWish{name: name}
		c.Kind = &pb.NodeCommand_DeleteZone{DeleteZone: &pb.DeleteZone{Id: uint64(z), Name: name}}
	} else {
		k.made++
		k.wish = &zoneWish{name: fmt.Sprintf("zone-%d", k.made)}
		c.Kind = &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{
			Name: k.wish.name, Machine: "registers", Nodes: k.founders(),
		}}
	}
	var err error
	k.wish.command, err = proto.Marshal(c)
	s.must(s.nodes[0], "make a command of zones", err)
	s.eventf("zone %s is to be made, or deleted", k.wish.name)
}

// founders are the root zone's nodes, ascending.
func (k *keeper) founders() (all []*pb.Member) {
	for _, n := range k.root.nodes {
		role := pb.Role_ROLE_MEMBER
		if n.witness {
			role = pb.Role_ROLE_WITNESS
		}
		all = append(all, &pb.Member{Node: uint64(n.id), Name: n.name, Address: n.record().Address, Role: role})
	}
	slices.SortFunc(all, func(a, b *pb.Member) int {
		if a.GetNode() < b.GetNode() {
			return -1
		}
		return 1
	})
	return all
}

func (w *zoneWish) envelope() zone.Envelope { return zone.Envelope{Own: true, Command: w.command} }

func (w *zoneWish) left() bool { return false }

// applied and refused change nothing: what counts is what the records show.
func (w *zoneWish) applied(*node, nexusraft.Result, error) {}

func (w *zoneWish) refused(*node, error) {}

// follow takes over what a committed command of the root zone has made of its records.
func (k *keeper) follow(zones map[nexusraft.ZoneID]string) {
	s := k.root
	for _, z := range slices.Clone(s.zones[1:]) {
		if _, ok := zones[z.zone]; !ok {
			s.eventf("zone %v is deleted", z.zone)
			s.zones = slices.DeleteFunc(s.zones, func(x *sim) bool { return x == z })
			k.ended, k.wish = append(k.ended, z), nil
		}
	}
	for id := range zones { // one at most is new
		if !slices.ContainsFunc(s.zones, func(z *sim) bool { return z.zone == id }) {
			s.eventf("zone %v is made", id)
			k.wish = nil
			k.created++
			k.populate(s.world.add(id, zone.FoundingIndex))
		}
	}
}

// populate gives a zone its replicas, which the processes have yet to make, and its clients.
func (k *keeper) populate(z *sim) {
	for _, x := range k.root.nodes {
		n := &node{process: x.process, s: z, replica: system.ReplicaOf(z.zone, x.id)}
		z.nodes = append(z.nodes, n)
	}
	z.admin.done = true
	z.clients.add(2)
	z.callers.add(1)
}

// zone returns the zone of an ID, deleted or not.
func (k *keeper) zone(id nexusraft.ZoneID) *sim {
	all := slices.Concat(k.root.zones, k.ended)
	return all[slices.IndexFunc(all, func(z *sim) bool { return z.zone == id })]
}

// on returns the zone's replica on a process.
func (s *sim) on(p *process) *node {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *node) bool { return n.process == p })]
}

// newRootZone begins a run with several zones, of which the root zone is the first.
func newRootZone(t *testing.T, seed uint64) *sim {
	t.Helper()
	state, err := system.Founding(pki.Pair{})
	if err != nil {
		t.Fatal(err)
	}
	s := newWorld(t, seed).add(nexusraft.RootZone, nexusraft.Index(200+seed%50))
	s.keeper = &keeper{root: s}
	s.oracle.ledger.zones = make(map[nexusraft.ZoneID]string)
	s.begin(false, state...)
	return s
}

// zoneChaos is chaos with zones that come and go.
func zoneChaos(t *testing.T, seed uint64) *sim {
	s := newRootZone(t, seed)
	s.stepTime = sessionMinute / 4
	s.clients.add(1)
	s.callers.add(1)
	s.partBytes = int(seed % 4 / 3)
	s.until("in sync for the first time", 400, s.inSync)
	s.keeper.on, s.faults.on = true, true
	s.run(200)
	s.keeper.on = false
	s.faults.stop()
	s.until("every zone is as it was asked for", 400, func() bool { return s.keeper.wish == nil })
	for _, n := range s.nodes {
		if n.driver != nil {
			n.crash(s.percent(50), 1)
		}
	}
	s.until("each node hosts the zones that there are", 400, s.hosted)
	for _, z := range s.zones {
		z.settle()
	}
	for _, z := range s.keeper.ended {
		z.checkHistory()
	}
	if !s.hosted() {
		s.fatalf("not every node hosts the zones that there are")
	}
	return s
}

// hosted reports whether each process runs the zones that there are, and has no others on its disk.
func (s *sim) hosted() bool {
	for _, x := range s.nodes {
		var want, running []nexusraft.ZoneID
		for _, z := range s.zones {
			want = append(want, z.zone)
		}
		for n := range x.running {
			running = append(running, n.s.zone)
		}
		slices.Sort(want)
		slices.Sort(running)
		stored := running
		if d, ok := x.device.(*memberDevice); ok && x.driver != nil {
			var err error
			stored, err = raftlog.Zones(d.raft)
			s.must(x, "list the zones", err)
		}
		if !slices.Equal(want, running) || !slices.Equal(want, stored) {
			return false
		}
	}
	return true
}

// TestZoneChaos: zones are made and deleted while everything breaks, and share disks, syncs and crashes. Each
// of them keeps all rules; a zone is on all nodes or on none in the end; what was deleted leaves nothing.
func TestZoneChaos(t *testing.T) {
	created, deleted, shared := 0, 0, 0
	forSeeds(t, 20, func(t *testing.T, seed uint64) {
		s := zoneChaos(t, seed)
		created, deleted, shared = created+s.keeper.created, deleted+len(s.keeper.ended), shared+s.shared
	})
	t.Logf("%d zones made, %d deleted; %d writes with one zone that must be synced and one that not", created, deleted,
		shared)
	if rareHappens() && (created < 20 || deleted < 10 || shared < 20) {
		t.Errorf("%d zones made, %d deleted, %d shared writes, want more", created, deleted, shared)
	}
}
