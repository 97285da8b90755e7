package simtest

import (
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// toldZones is what a member tells a witness: the zones that its root zone's state has a record of.
type toldZones struct {
	version uint64 // of their table
	records []*pb.ZoneRecord
}

// told returns what the root zone's state says on this member.
func (p *process) told() *toldZones {
	state := p.replicas[0].disk.(*memberDisk).state
	table, err := system.ZoneTable(state)
	p.w.must(p, "read the table of the zones", err)
	records, err := system.Zones(state, nexusraft.RootZone, 1<<10)
	p.w.must(p, "read the records of the zones", err)
	return &toldZones{table.GetVersion(), records}
}

// tellWitness has a member tell the witness of the zones, now and then.
func (p *process) tellWitness() {
	root := p.replicas[0]
	if root.s.keeper == nil || p.witness || p.w.percent(70) {
		return
	}
	p.w.net.tell(linkOf(root, root.s.witness()), p.told())
}

// takeOver has a witness follow what it was told, if that is news. All of it is on the disk at once.
func (p *process) takeOver(t *toldZones) {
	if t.version > p.version {
		p.version = t.version
		p.match(t.records)
	}
}

// host makes and drops replicas as the root zone's records ask for, between two rounds.
func (p *process) host() {
	if p.driver == nil || !p.hosting || p.witness || p.replicas[0].s.keeper == nil {
		return
	}
	p.hosting = false
	p.match(p.told().records)
}

// match makes and drops replicas until they are those of the records.
func (p *process) match(records []*pb.ZoneRecord) {
	for _, n := range p.replicas[1:] {
		has := func(z *pb.ZoneRecord) bool { return nexusraft.ZoneID(z.GetId()) == n.s.zone }
		if !n.dropped && !slices.ContainsFunc(records, has) {
			n.drop()
		}
	}
	k := p.replicas[0].s.keeper
	for _, z := range records {
		if n := k.zone(nexusraft.ZoneID(z.GetId())).on(p); n.disk == nil {
			n.create(z)
		}
	}
}

// create makes the replica of a zone that has a record, as all of its nodes do.
func (n *node) create(z *pb.ZoneRecord) {
	o := origin{index: zone.FoundingIndex, term: zone.FoundingTerm, members: nexusraft.Membership{
		Shape: nexusraft.DefaultShape,
	}}
	for _, m := range z.GetMembers() {
		o.members.Members = append(o.members.Members, wire.MemberFromProto(m))
	}
	if self, ok := o.members.Node(n.id); !ok || self.Replica != n.replica {
		n.s.fatalf("%s: the record has %v for it", n, self)
	}
	if d, ok := n.device.(*memberDevice); ok {
		d.found(n, o)
	} else {
		n.device.add(n, o)
	}
	n.shadow.begin(o)
	n.replicas = append(n.replicas, n)
	n.open()
}

// found is add for a zone that a node makes while it runs, with a synced write.
func (d *memberDevice) found(n *node, o origin) {
	n.disk = &memberDisk{memberDevice: d, n: n}
	d.write(true, func(dir *datadir.Dir) error {
		return dir.StageZone(d.batch, n.s.zone, n.replica, o.members.Members, system.FoundingDigest())
	})
	d.p.synced()
}

// write does a write between two rounds.
func (d *memberDevice) write(sync bool, stage func(*datadir.Dir) error) {
	d.batch = d.store.NewBatch()
	d.p.w.must(d.p, "stage zones", stage(&datadir.Dir{Store: d.store, Raft: d.raft}))
	d.commit(nil, sync)
}

// drop gives up the replica of a zone that was deleted. A crash may bring it back.
func (n *node) drop() {
	n.s.eventf("%s is dropped", n)
	if n.r != nil {
		n.others.Forget(n.group)
		n.group.Stop(fmt.Errorf("%w: it was deleted", nexusraft.ErrZoneNotFound))
	}
	n.r, n.group, n.calls, n.commands, n.dropped = nil, nil, nil, nil, true
	if d, ok := n.device.(*memberDevice); ok {
		d.write(false, func(dir *datadir.Dir) error { return dir.DropZone(d.batch, n.s.zone) })
	}
}
