package system

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// The root zone keeps the other zones: a table, a record of each by its ID, 8 bytes big-endian, and
// the ID of each by its name. A zone is there from the command on that makes its record: each node of
// the cluster makes its replica of the record, whenever it gets to read it, and all begin alike. So a
// creation is complete or it never was. IDs ascend and are not used again: one that was given and has
// no record was deleted, and needs no tombstone (I12).
var (
	zoneTableKey    = []byte{Prefix, 's', 'z'}
	zonePrefix      = []byte{Prefix, 'z', 'r'}
	zoneEnd         = []byte{Prefix, 'z', 'r' + 1}
	zoneNamesPrefix = []byte{Prefix, 'z', 'n'}
)

const (
	zoneTableRecord = "the table of the zones"
	zoneRecord      = "the record of a zone"
)

// Types of events of the topic "zone", which the root zone has.
const (
	topicZone    = "zone"
	zoneCreated  = "created"
	zoneReshaped = "reshaped" // it is to have other replicas, or another node is to lead
	zonePlaced   = "placed"   // it has them
	zoneDeleted  = "deleted"
)

func zoneKey(id nexusraft.ZoneID) []byte {
	return binary.BigEndian.AppendUint64(slices.Clone(zonePrefix), uint64(id))
}

func zoneNameKey(name string) []byte { return append(slices.Clone(zoneNamesPrefix), name...) }

// ZoneTable returns what the root zone keeps of all zones together.
func ZoneTable(r nexusraft.Reader) (*pb.ZoneTable, error) {
	b, ok, err := r.Get(zoneTableKey)
	if err != nil {
		return nil, err
	}
	if !ok {
		return &pb.ZoneTable{LastId: uint64(nexusraft.RootZone)}, nil
	}
	return decode[pb.ZoneTable](b, zoneTableRecord)
}

// FindZone returns the record of a zone; nil if there is none. The root zone has none.
func FindZone(r nexusraft.Reader, id nexusraft.ZoneID) (*pb.ZoneRecord, error) {
	b, ok, err := r.Get(zoneKey(id))
	if err != nil || !ok {
		return nil, err
	}
	return decode[pb.ZoneRecord](b, zoneRecord)
}

// ZoneNamed returns the record of the zone of a name; nil if there is none.
func ZoneNamed(r nexusraft.Reader, name string) (*pb.ZoneRecord, error) {
	b, ok, err := r.Get(zoneNameKey(name))
	if err != nil || !ok {
		return nil, err
	}
	if len(b) != 8 {
		return nil, fmt.Errorf("%w: the ID of zone %q has %d bytes", nexusraft.ErrCorrupt, name, len(b))
	}
	id := nexusraft.ZoneID(binary.BigEndian.Uint64(b))
	z, err := FindZone(r, id)
	if err == nil && z == nil {
		err = fmt.Errorf("%w: zone %q has no record", nexusraft.ErrCorrupt, name)
	}
	return z, err
}

// Zones returns the records of the zones after one, by ID, most of them at most; the root zone, which
// has none, is left out.
func Zones(r nexusraft.Reader, after nexusraft.ZoneID, most int) (all []*pb.ZoneRecord, err error) {
	if after == math.MaxUint64 {
		return nil, nil
	}
	for p, err := range r.Scan(zoneKey(after+1), zoneEnd) {
		if err != nil {
			return nil, err
		}
		z, err := decode[pb.ZoneRecord](p.Value, zoneRecord)
		if err != nil {
			return nil, err
		}
		if all = append(all, z); len(all) == most {
			break
		}
	}
	return all, nil
}

// ReplicaOf returns the ID of a node's first replica of a zone other than the root zone. It follows from the two:
// of a zone with a replica on each node, a node that was removed from it is never let in again, and a later replica of
// one with a shape has another ID, see laterReplica; so no ID is used twice (I5).
func ReplicaOf(zone nexusraft.ZoneID, node nexusraft.NodeID) nexusraft.ReplicaID {
	b := binary.BigEndian.AppendUint64([]byte("nexus-raft replica\x00"), uint64(zone))
	return replicaFrom(binary.BigEndian.AppendUint64(b, uint64(node)))
}

// laterReplica returns the ID of a replica that was placed after the zone was made, by the version of the zones'
// table as that has made it, which is never used twice.
func laterReplica(zone nexusraft.ZoneID, node nexusraft.NodeID, version uint64) nexusraft.ReplicaID {
	b := binary.BigEndian.AppendUint64([]byte("nexus-raft later replica\x00"), uint64(zone))
	b = binary.BigEndian.AppendUint64(b, uint64(node))
	return replicaFrom(binary.BigEndian.AppendUint64(b, version))
}

func replicaFrom(b []byte) nexusraft.ReplicaID {
	sum := sha256.Sum256(b)
	// 0 and the two largest are raft's own
	return nexusraft.ReplicaID(binary.BigEndian.Uint64(sum[:])%(math.MaxUint64-2) + 1)
}

// applyCreateZone returns the record, of the zone that was there if it is the same; made is nil then.
func applyCreateZone(
	base nexusraft.ReadWriter, loads *Loads, now int64, c *pb.CreateZone,
) (answer []byte, made *ZoneChange, err error) {
	if err := requireVersion(base, ZonesVersion, "zones besides the root zone"); err != nil {
		return nil, nil, err
	}
	if err := nexusraft.ValidateZoneName(c.GetName()); err != nil {
		return nil, nil, err
	}
	if err := nexusraft.ValidateMachineName(c.GetMachine()); err != nil {
		return nil, nil, err
	}
	old, err := ZoneNamed(base, c.GetName())
	switch {
	case err != nil:
		return nil, nil, err
	case old != nil && old.GetMachine() != c.GetMachine():
		return nil, nil, fmt.Errorf("%w: there is a zone %q already, and it runs the state machine %q", nexusraft.ErrRefused,
			old.GetName(), old.GetMachine())
	case old != nil:
		answer, err = encode(old, zoneRecord)
		return answer, nil, err
	}
	t, err := ZoneTable(base)
	if err != nil {
		return nil, nil, err
	}
	if t.GetCount() >= nexusraft.MaxZones {
		return nil, nil, fmt.Errorf("%w: there are %d zones, which is the limit; delete some", nexusraft.ErrRefused,
			t.GetCount())
	}
	t.LastId, t.Version, t.Count = t.GetLastId()+1, t.GetVersion()+1, t.GetCount()+1
	z := &pb.ZoneRecord{
		Id: t.GetLastId(), Name: c.GetName(), Machine: c.GetMachine(), Version: t.GetVersion(), CreatedNanos: now,
	}
	if err := foundZone(base, loads, z, c); err != nil {
		return nil, nil, err
	}
	if err := set(base, zoneTableKey, t, zoneTableRecord); err != nil {
		return nil, nil, err
	}
	if err := base.Set(zoneNameKey(z.GetName()), binary.BigEndian.AppendUint64(nil, z.GetId())); err != nil {
		return nil, nil, err
	}
	answer, err = encode(z, zoneRecord)
	if err != nil {
		return nil, nil, err
	}
	if err := base.Set(zoneKey(nexusraft.ZoneID(z.GetId())), answer); err != nil {
		return nil, nil, err
	}
	made = &ZoneChange{Zone: nexusraft.ZoneID(z.GetId()), Record: z, From: t.GetVersion() - 1, To: t.GetVersion()}
	return answer, made, publishZone(base, now, zoneCreated, z)
}

// foundZone decides which replicas a zone begins with.
func foundZone(base nexusraft.ReadWriter, loads *Loads, z *pb.ZoneRecord, c *pb.CreateZone) (err error) {
	plan := nexusraft.ZonePlan{
		Shape: wire.ShapeFromProto(c.GetShape()), Spare: c.GetSpare(), Preferred: nexusraft.NodeID(c.GetPreferred()),
	}
	if err := plan.Validate(); err != nil {
		return err
	}
	if plan.Shape == (nexusraft.Shape{}) {
		if err := checkPreferred(plan, c.GetNodes()); err != nil {
			return err
		}
		z.Preferred = c.GetPreferred()
		z.Members, err = zoneMembers(nexusraft.ZoneID(z.GetId()), c.GetNodes())
		return err
	}
	if err := checkNodes(c.GetNodes()); err != nil {
		return err
	}
	setPlan(z, plan)
	if err := place(base, z, c.GetNodes(), placing{version: z.GetVersion(), loads: loads}); err != nil {
		return err
	}
	var founders []*pb.Member
	for _, p := range z.GetPlacement() {
		founders = append(founders, &pb.Member{
			Node: p.GetNode(), Name: p.GetName(), Address: p.GetAddress(), Role: p.GetRole(),
		})
	}
	z.Members, err = zoneMembers(nexusraft.ZoneID(z.GetId()), founders)
	return err
}

// publishZone appends what has become of a zone to the root zone's events.
func publishZone(base nexusraft.ReadWriter, now int64, kind string, z *pb.ZoneRecord) error {
	_, err := publish(base, now, encodeEvent(now, topicZone, kind, encodeZoneInfo(z)))
	return err
}

// encodeZoneInfo is a pb.ZoneInfo, written field by field as encodeMember does.
func encodeZoneInfo(z *pb.ZoneRecord) []byte {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, z.GetId())
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendString(b, z.GetName())
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendString(b, z.GetMachine())
	b = protowire.AppendTag(b, 4, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(z.GetCreatedNanos()))
}

// zoneMembers returns the replicas that a zone begins with, ascending, or why they are none to begin with.
func zoneMembers(zone nexusraft.ZoneID, nodes []*pb.Member) (members []*pb.Member, err error) {
	full, witnesses := 0, 0
	for i, n := range nodes {
		switch n.GetRole() {
		case pb.Role_ROLE_MEMBER:
			full++
		case pb.Role_ROLE_WITNESS:
			witnesses++
		default:
			return nil, fmt.Errorf("%w: a zone does not begin with a replica of role %v", nexusraft.ErrRefused, n.GetRole())
		}
		if n.GetNode() == 0 || i > 0 && nodes[i-1].GetNode() >= n.GetNode() {
			return nil, fmt.Errorf("%w: the nodes of a zone do not ascend", nexusraft.ErrRefused)
		}
		if len(n.GetName()) > nexusraft.MaxNameBytes || len(n.GetAddress()) > nexusraft.MaxAddressBytes {
			return nil, fmt.Errorf("%w: node %v has a name over %d or an address over %d bytes", nexusraft.ErrRefused,
				nexusraft.NodeID(n.GetNode()), nexusraft.MaxNameBytes, nexusraft.MaxAddressBytes)
		}
		m := proto.CloneOf(n)
		m.Replica = uint64(ReplicaOf(zone, nexusraft.NodeID(n.GetNode())))
		members = append(members, m)
	}
	switch {
	case full == 0 || witnesses >= full:
		return nil, fmt.Errorf("%w: a zone begins with at least one member, and with fewer witnesses than members; these "+
			"are %d and %d", nexusraft.ErrRefused, full, witnesses)
	case len(members) > nexusraft.MaxMembers:
		return nil, fmt.Errorf("%w: a zone has %d replicas at most", nexusraft.ErrRefused, nexusraft.MaxMembers)
	}
	slices.SortFunc(members, func(a, b *pb.Member) int {
		if a.GetReplica() < b.GetReplica() {
			return -1
		}
		return 1
	})
	return members, nil
}

// applyDeleteZone deletes a zone's record; the nodes drop its data when they find it gone.
func applyDeleteZone(base nexusraft.ReadWriter, now int64, c *pb.DeleteZone) (*ZoneChange, error) {
	id := nexusraft.ZoneID(c.GetId())
	if id == nexusraft.RootZone {
		return nil, fmt.Errorf("%w: the root zone can't be deleted: the cluster's nodes, roles and zones are in it",
			nexusraft.ErrRefused)
	}
	z, err := FindZone(base, id)
	switch {
	case err != nil:
		return nil, err
	case z == nil:
		return nil, unknownZone(base, id)
	case z.GetName() != c.GetName():
		return nil, fmt.Errorf("%w: zone %v is called %q, not %q", nexusraft.ErrRefused, id, z.GetName(),
			nexusraft.Printable(c.GetName()))
	}
	t, err := ZoneTable(base)
	if err != nil {
		return nil, err
	}
	t.Version, t.Count = t.GetVersion()+1, t.GetCount()-1
	if err := set(base, zoneTableKey, t, zoneTableRecord); err != nil {
		return nil, err
	}
	if err := base.Delete(zoneNameKey(z.GetName())); err != nil {
		return nil, err
	}
	if err := base.Delete(zoneKey(id)); err != nil {
		return nil, err
	}
	gone := &ZoneChange{Zone: id, From: t.GetVersion() - 1, To: t.GetVersion(), had: z.GetPlacement()}
	return gone, publishZone(base, now, zoneDeleted, z)
}

// unknownZone refuses an ID without a record.
func unknownZone(base nexusraft.Reader, id nexusraft.ZoneID) error {
	t, err := ZoneTable(base)
	if err != nil {
		return err
	}
	if id != 0 && uint64(id) <= t.GetLastId() {
		return fmt.Errorf("%w: zone %v was deleted", nexusraft.ErrRefused, id)
	}
	return fmt.Errorf("%w: there is no zone %v", nexusraft.ErrRefused, id)
}
