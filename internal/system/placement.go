package system

import (
	"cmp"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// A zone without a shape has a replica on each node of the cluster. One with a shape has a placement, which names
// its replicas: those that it was made with, until the record is changed. The change is the decision alone. While
// it is under way (moving) the zone's leader makes the zone's own conf what the placement says, and then reports
// that: from then on the nodes that are not in the placement drop what they have. Before that, none does: of a zone
// under way a node can't know whether the others do without its replica.
//
// A replica that was removed never comes back (I12). A node that has left a zone may come back, by a replica of
// another ID, which a change gives it that comes after the report. If a change that is given up for another one has
// removed a replica that is now wanted after all, the leader reports that instead, and the node gets another ID.

// HostedBy returns the replica that a zone has or is to have on a node, and the version of the zones' table from
// which on it has that; ok is false if it is to have none there. While the zone is under way those count, too, that are
// to go, and those that nodes got before they knew that it has a shape, also nodes that joined meanwhile.
func HostedBy(z *pb.ZoneRecord, node nexusraft.NodeID) (replica nexusraft.ReplicaID, version uint64, ok bool) {
	if z.GetShape() == nil {
		return ReplicaOf(nexusraft.ZoneID(z.GetId()), node), z.GetVersion(), true
	}
	for _, some := range [][]*pb.PlacedReplica{z.GetPlacement(), z.GetLeaving()} {
		if p := find(some, uint64(node)); p != nil {
			return nexusraft.ReplicaID(p.GetReplica()), p.GetVersion(), true
		}
	}
	if z.GetEverywhere() {
		return ReplicaOf(nexusraft.ZoneID(z.GetId()), node), z.GetVersion(), true
	}
	return 0, 0, false
}

// PlacedOn returns the replica that a zone is to have on a node; ok is false if it is to have none there.
func PlacedOn(z *pb.ZoneRecord, node nexusraft.NodeID) (replica nexusraft.ReplicaID, ok bool) {
	if z.GetShape() == nil {
		return ReplicaOf(nexusraft.ZoneID(z.GetId()), node), true
	}
	if p := find(z.GetPlacement(), uint64(node)); p != nil {
		return nexusraft.ReplicaID(p.GetReplica()), true
	}
	return 0, false
}

// Drops reports whether a node is to drop a replica that it has of a zone: the zone does without it for ever. One whose
// ID can't be read, 0, may be that of the placement, and what that has promised is not known: it is kept as it is.
func Drops(z *pb.ZoneRecord, node nexusraft.NodeID, replica nexusraft.ReplicaID) bool {
	switch to, placed := PlacedOn(z, node); {
	case z.GetShape() == nil:
		return false
	case placed:
		return replica != 0 && replica != to
	}
	return !z.GetMoving()
}

// Placement returns the replicas that a zone with a shape is to have, ascending by node.
func Placement(z *pb.ZoneRecord) (members []nexusraft.Member) {
	for _, p := range z.GetPlacement() {
		members = append(members, nexusraft.Member{
			Replica: nexusraft.ReplicaID(p.GetReplica()), Node: nexusraft.NodeID(p.GetNode()), Name: p.GetName(),
			Address: p.GetAddress(), Role: wire.RoleFromProto(p.GetRole()),
		})
	}
	return members
}

// KnownTo returns the replicas that a replica of a node that was placed later knows when it begins, ascending: those
// of the other nodes that the zone has or is to have, of which one leads it.
func KnownTo(z *pb.ZoneRecord, node nexusraft.NodeID) []nexusraft.Member {
	var known nexusraft.Membership
	both := &pb.ZoneRecord{Placement: slices.Concat(z.GetPlacement(), z.GetLeaving())}
	for _, m := range Placement(both) {
		if m.Node != node {
			known = known.With(m)
		}
	}
	return known.Members
}

// PlanOf returns what a zone is meant to be.
func PlanOf(z *pb.ZoneRecord) nexusraft.ZonePlan {
	return nexusraft.ZonePlan{
		Shape: wire.ShapeFromProto(z.GetShape()), Spare: z.GetSpare(), Preferred: nexusraft.NodeID(z.GetPreferred()),
	}
}

func setPlan(z *pb.ZoneRecord, plan nexusraft.ZonePlan) {
	z.Spare, z.Preferred = plan.Spare, uint64(plan.Preferred)
	if plan.Shape != (nexusraft.Shape{}) {
		z.Shape = wire.ShapeToProto(plan.Shape)
	}
}

func find(all []*pb.PlacedReplica, node uint64) *pb.PlacedReplica {
	i := slices.IndexFunc(all, func(p *pb.PlacedReplica) bool { return p.GetNode() == node })
	if i < 0 {
		return nil
	}
	return all[i]
}

// placing is how a placement is chosen.
type placing struct {
	version uint64 // of the zones' table, as the command makes it
	loads   *Loads
	old     *pb.ZoneRecord // as it was before; nil: the zone is made
	avoid   []uint64       // nodes that get none now
	with    uint64         // comes before those that have none; 0: none does
	short   bool           // places may stay empty
}

// place chooses the replicas of a zone by its shape, among nodes, which are all that may have one: the one that is to
// lead, then those that have a replica or are to take a place, then those that have the fewest, of all zones with a
// shape, then by ID. It passes over those to avoid and those that the zone was told to leave.
func place(base nexusraft.Reader, z *pb.ZoneRecord, nodes []*pb.Member, how placing) error {
	had := how.had(nodes)
	nodes = without(nodes, slices.Concat(how.avoid, z.GetOff()))
	if err := checkPreferred(PlanOf(z), nodes); err != nil {
		return err
	}
	loads, err := how.loads.of(base)
	if err != nil {
		return err
	}
	rank := func(n *pb.Member) (r [2]int) {
		switch _, on := PlacedOn(how.old, nexusraft.NodeID(n.GetNode())); {
		case n.GetNode() == z.GetPreferred():
		case how.old != nil && on, how.with != 0 && n.GetNode() == how.with:
			r[0] = 1
		default:
			r[0] = 2
		}
		r[1] = loads[n.GetNode()]
		return r
	}
	slices.SortStableFunc(nodes, func(a, b *pb.Member) int {
		x, y := rank(a), rank(b)
		return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	z.Placement = nil
	left := wire.ShapeFromProto(z.GetShape())
	for _, n := range nodes {
		room, role := &left.Members, pb.Role_ROLE_MEMBER
		if n.GetRole() == pb.Role_ROLE_WITNESS {
			room, role = &left.Witnesses, pb.Role_ROLE_WITNESS
		}
		if *room == 0 {
			continue
		}
		*room--
		z.Placement = append(z.Placement, how.replica(z, had, n, role))
	}
	slices.SortFunc(z.Placement, byNode)
	z.Everywhere = how.old != nil && (how.old.GetShape() == nil || how.old.GetEverywhere())
	z.Leaving = slices.DeleteFunc(had, func(p *pb.PlacedReplica) bool { return find(z.Placement, p.GetNode()) != nil })
	return enough(z, left, how.short)
}

// without returns a copy of nodes that lacks some.
func without(nodes []*pb.Member, some []uint64) []*pb.Member {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *pb.Member) bool { return slices.Contains(some, n.GetNode()) })
}

func byNode(a, b *pb.PlacedReplica) int { return cmp.Compare(a.GetNode(), b.GetNode()) }

// had returns the replicas that the zone may have, ascending by node: of one that had no shape, on each node, however
// silent. One that is forgotten here would be dropped while its vote counts.
func (h placing) had(nodes []*pb.Member) (had []*pb.PlacedReplica) {
	if h.old == nil {
		return nil
	}
	had = slices.Concat(h.old.GetPlacement(), h.old.GetLeaving())
	for _, n := range nodes {
		if _, _, ok := HostedBy(h.old, nexusraft.NodeID(n.GetNode())); !ok || find(had, n.GetNode()) != nil {
			continue
		}
		role := n.GetRole()
		if role == pb.Role_ROLE_LEARNER {
			role = pb.Role_ROLE_MEMBER
		}
		had = append(had, h.first(h.old, n, role, h.old.GetVersion()))
	}
	slices.SortFunc(had, byNode)
	return had
}

// replica is what a node gets, or has.
func (h placing) replica(z *pb.ZoneRecord, had []*pb.PlacedReplica, n *pb.Member, role pb.Role) *pb.PlacedReplica {
	if p := find(had, n.GetNode()); p != nil {
		return p
	}
	p := h.first(z, n, role, h.version)
	if h.old != nil {
		p.Replica = uint64(laterReplica(nexusraft.ZoneID(z.GetId()), nexusraft.NodeID(n.GetNode()), h.version))
	}
	return p
}

func (h placing) first(z *pb.ZoneRecord, n *pb.Member, role pb.Role, version uint64) *pb.PlacedReplica {
	return &pb.PlacedReplica{
		Node: n.GetNode(), Replica: uint64(ReplicaOf(nexusraft.ZoneID(z.GetId()), nexusraft.NodeID(n.GetNode()))), Role: role,
		Name: n.GetName(), Address: n.GetAddress(), Version: version,
	}
}

// enough refuses a placement with empty places, unless it may have some and the zone works all the same.
func enough(z *pb.ZoneRecord, empty nexusraft.Shape, short bool) error {
	shape := wire.ShapeFromProto(z.GetShape())
	full, witnesses := shape.Members-empty.Members, shape.Witnesses-empty.Witnesses
	switch {
	case empty == nexusraft.Shape{}:
		return nil
	case !short && empty.Witnesses > 0:
		return fmt.Errorf("%w: a zone of shape %v needs a witness that it can be placed on, and the cluster has none",
			nexusraft.ErrRefused, shape)
	case !short:
		return fmt.Errorf("%w: a zone of shape %v needs %d nodes that hold data, and the cluster has %d that it can be "+
			"placed on", nexusraft.ErrRefused, shape, shape.Members, full)
	case full == 0:
		return fmt.Errorf("%w: no other node is there to hold the zone's data", nexusraft.ErrRefused)
	case witnesses >= full:
		return fmt.Errorf("%w: only %d of %d voters would hold data, and more than half must; let another node join, or "+
			"reshape the zone to %v first", nexusraft.ErrRefused, full, full+witnesses, nexusraft.Shape{Members: full})
	}
	return nil
}

// checkPreferred refuses a node that can't lead.
func checkPreferred(plan nexusraft.ZonePlan, nodes []*pb.Member) error {
	if plan.Preferred == 0 {
		return nil
	}
	i := slices.IndexFunc(nodes, func(n *pb.Member) bool { return n.GetNode() == uint64(plan.Preferred) })
	if i < 0 || nodes[i].GetRole() == pb.Role_ROLE_WITNESS {
		return fmt.Errorf("%w: node %v, which is to lead, is no node of the cluster that holds data", nexusraft.ErrRefused,
			plan.Preferred)
	}
	return nil
}

// checkNodes refuses nodes that nothing can be placed on.
func checkNodes(nodes []*pb.Member) error {
	if len(nodes) > nexusraft.MaxMembers {
		return fmt.Errorf("%w: %d nodes, limit %d", nexusraft.ErrRefused, len(nodes), nexusraft.MaxMembers)
	}
	for i, n := range nodes {
		_, known := roles[n.GetRole()]
		switch {
		case n.GetNode() == 0 || i > 0 && nodes[i-1].GetNode() >= n.GetNode():
			return fmt.Errorf("%w: the nodes of a zone do not ascend", nexusraft.ErrRefused)
		case !known:
			return fmt.Errorf("%w: node %v has the role %v", nexusraft.ErrRefused, nexusraft.NodeID(n.GetNode()), n.GetRole())
		case len(n.GetName()) > nexusraft.MaxNameBytes || len(n.GetAddress()) > nexusraft.MaxAddressBytes:
			return fmt.Errorf("%w: node %v has a name over %d or an address over %d bytes", nexusraft.ErrRefused,
				nexusraft.NodeID(n.GetNode()), nexusraft.MaxNameBytes, nexusraft.MaxAddressBytes)
		}
	}
	return nil
}

// roles are those that a node may have in the root zone.
var roles = map[pb.Role]bool{pb.Role_ROLE_MEMBER: true, pb.Role_ROLE_LEARNER: true, pb.Role_ROLE_WITNESS: true}
