package system

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Reshapable returns the record of a zone whose replicas may be changed, or ErrRefused with the reason: there is none
// of this ID, it is the root zone, or the cluster has a version that knows no zones.
func Reshapable(r nexusraft.Reader, id nexusraft.ZoneID) (*pb.ZoneRecord, error) {
	if id == nexusraft.RootZone {
		return nil, fmt.Errorf("%w: the root zone is on all nodes of the cluster; nexus-raft member promote and remove "+
			"change its members", nexusraft.ErrRefused)
	}
	if err := requireVersion(r, ZonesVersion, "zones besides the root zone"); err != nil {
		return nil, err
	}
	z, err := FindZone(r, id)
	if err == nil && z == nil {
		err = unknownZone(r, id)
	}
	return z, err
}

// RequireNamedPlace refuses a change that names the node that takes a place, in a cluster whose version is below
// NamedPlaceVersion: earlier releases would give the place to another one.
func RequireNamedPlace(r nexusraft.Reader) error {
	return requireVersion(r, NamedPlaceVersion, "changes that name the node that takes a place")
}

// applyReshapeZone returns the record as it is then, and what has changed; nil if nothing. A change that asks for what
// there is, or for what is under way, is none: so it may be asked for again.
func applyReshapeZone(
	base nexusraft.ReadWriter, loads *Loads, now int64, c *pb.ReshapeZone,
) (answer []byte, changed *ZoneChange, err error) {
	id := nexusraft.ZoneID(c.GetId())
	old, err := Reshapable(base, id)
	if err == nil && c.GetWith() != 0 {
		err = RequireNamedPlace(base)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case old.GetName() != c.GetName():
		return nil, nil, fmt.Errorf("%w: zone %v is called %q, not %q", nexusraft.ErrRefused, id, old.GetName(),
			nexusraft.Printable(c.GetName()))
	case c.GetChecked() && c.GetChanged() != old.GetChanged():
		return nil, nil, fmt.Errorf("%w: the placement of zone %v was changed meanwhile", nexusraft.ErrRefused, id)
	}
	plan, err := askedPlan(old, c)
	if err != nil {
		return nil, nil, err
	}
	z, err := reshape(base, loads, old, plan, c)
	if err != nil {
		return nil, nil, err
	}
	if z == nil {
		answer, err = encode(old, zoneRecord)
		return answer, nil, err
	}
	if answer, changed, err = storeZone(base, z, old.GetPlacement()); err != nil {
		return nil, nil, err
	}
	return answer, changed, publishZone(base, now, zoneReshaped, z)
}

// askedPlan returns what a zone is to be, by a command.
func askedPlan(old *pb.ZoneRecord, c *pb.ReshapeZone) (nexusraft.ZonePlan, error) {
	plan := PlanOf(old)
	if c.GetOff() != 0 || c.GetRefill() {
		if plan.Shape == (nexusraft.Shape{}) {
			return plan, fmt.Errorf("%w: zone %q has a replica on each node, and leaves one with it; give it a shape first, or "+
				"remove the node", nexusraft.ErrRefused, old.GetName())
		}
		if checkPreferred(plan, without(c.GetNodes(), passedOver(c))) != nil {
			plan.Preferred = 0
		}
		return plan, nil
	}
	was := plan.Shape
	plan = nexusraft.ZonePlan{
		Shape: wire.ShapeFromProto(c.GetShape()), Spare: c.GetSpare(), Preferred: nexusraft.NodeID(c.GetPreferred()),
	}
	if was != (nexusraft.Shape{}) && plan.Shape == (nexusraft.Shape{}) {
		return plan, fmt.Errorf("%w: zone %q has a shape, and can't have a replica on each node again; ask for a larger "+
			"shape", nexusraft.ErrRefused, old.GetName())
	}
	return plan, plan.Validate()
}

// reshape returns a zone's record by another plan; nil if there is nothing to change.
func reshape(
	base nexusraft.ReadWriter, loads *Loads, old *pb.ZoneRecord, plan nexusraft.ZonePlan, c *pb.ReshapeZone,
) (*pb.ZoneRecord, error) {
	off := nexusraft.NodeID(c.GetOff())
	stays := off == 0 || find(old.GetPlacement(), uint64(off)) == nil
	full := len(old.GetPlacement()) == plan.Shape.Members+plan.Shape.Witnesses
	left := leftBy(old, c)
	same := plan == PlanOf(old) && (off != 0 || slices.Equal(left, old.GetOff()))
	if stays && same && (old.GetMoving() || full || off != 0) {
		if with := c.GetWith(); with != 0 && find(old.GetPlacement(), with) == nil {
			return nil, fmt.Errorf("%w: node %v is not on zone %q any more, and node %v has not taken its place",
				nexusraft.ErrRefused, off, old.GetName(), nexusraft.NodeID(with))
		}
		return nil, nil
	}
	if old.GetMoving() && !c.GetInstead() {
		return nil, fmt.Errorf("%w: zone %q is still under way to another placement; nexus-raft zone show says how far; "+
			"wait, or ask for the change --instead of that one", nexusraft.ErrRefused, old.GetName())
	}
	if err := checkNodes(c.GetNodes()); err != nil {
		return nil, err
	}
	t, err := ZoneTable(base)
	if err != nil {
		return nil, err
	}
	z := proto.CloneOf(old)
	setPlan(z, plan)
	z.Off = left
	if plan.Shape == (nexusraft.Shape{}) {
		err = checkPreferred(plan, c.GetNodes())
	} else {
		err = place(base, z, c.GetNodes(), placing{
			version: t.GetVersion() + 1, loads: loads, old: old, avoid: passedOver(c), short: off != 0 || c.GetRefill(),
			with: c.GetWith(),
		})
	}
	if err == nil {
		err = takesPlace(old, z, c)
	}
	if err != nil {
		return nil, err
	}
	z.Moving = old.GetMoving() || !sameReplicas(old, z)
	if proto.Equal(z, old) { // an empty place that nobody can fill
		return nil, nil
	}
	z.Changed = t.GetVersion() + 1
	return z, nil
}

// takesPlace refuses a placement in which another node, or none, takes the place that one is to take.
func takesPlace(old, z *pb.ZoneRecord, c *pb.ReshapeZone) error {
	with := c.GetWith()
	if with == 0 {
		return nil
	}
	if find(old.GetPlacement(), with) != nil {
		return fmt.Errorf("%w: node %v is on zone %q already, and can't take the place of node %v there",
			nexusraft.ErrRefused, nexusraft.NodeID(with), old.GetName(), nexusraft.NodeID(c.GetOff()))
	}
	left, takes := find(old.GetPlacement(), c.GetOff()), find(z.GetPlacement(), with)
	if takes != nil && (left == nil || left.GetRole() == takes.GetRole()) {
		return nil
	}
	return fmt.Errorf("%w: node %v can't take the place of node %v in zone %q: it is to be a node of the cluster of the "+
		"same kind, member or witness, that is not silent", nexusraft.ErrRefused, nexusraft.NodeID(with),
		nexusraft.NodeID(c.GetOff()), z.GetName())
}

// leftBy returns the nodes that a zone is told to leave, by a command: those that it was told before, unless a plan is
// asked for, without those that have left the cluster.
func leftBy(old *pb.ZoneRecord, c *pb.ReshapeZone) (left []uint64) {
	if c.GetOff() == 0 && !c.GetRefill() {
		return nil
	}
	for _, n := range c.GetNodes() {
		was := slices.Contains(old.GetOff(), n.GetNode()) && n.GetNode() != c.GetWith()
		if was || n.GetNode() == c.GetOff() && !c.GetReturns() {
			left = append(left, n.GetNode())
		}
	}
	return left
}

// passedOver are the nodes that get no replica by a command.
func passedOver(c *pb.ReshapeZone) []uint64 { return slices.Concat(c.GetAvoid(), []uint64{c.GetOff()}) }

// sameReplicas reports whether a zone is to have the replicas that it has.
func sameReplicas(old, z *pb.ZoneRecord) bool {
	same := func(a, b *pb.PlacedReplica) bool { return a.GetReplica() == b.GetReplica() }
	return (old.GetShape() == nil) == (z.GetShape() == nil) &&
		slices.EqualFunc(old.GetPlacement(), z.GetPlacement(), same)
}

// storeZone stores a record that was changed, and counts that. had is its placement before.
func storeZone(
	base nexusraft.ReadWriter, z *pb.ZoneRecord, had []*pb.PlacedReplica,
) (stored []byte, changed *ZoneChange, err error) {
	t, err := ZoneTable(base)
	if err != nil {
		return nil, nil, err
	}
	changed = &ZoneChange{Zone: nexusraft.ZoneID(z.GetId()), Record: z, From: t.GetVersion(), had: had}
	t.Version = max(t.GetVersion()+1, z.GetChanged())
	changed.To = t.GetVersion()
	if err := set(base, zoneTableKey, t, zoneTableRecord); err != nil {
		return nil, nil, err
	}
	if stored, err = encode(z, zoneRecord); err != nil {
		return nil, nil, err
	}
	return stored, changed, base.Set(zoneKey(changed.Zone), stored)
}

// applyReportZone ends a zone's way to its placement, or gives other IDs to replicas that were removed.
func applyReportZone(base nexusraft.ReadWriter, now int64, c *pb.ReportZone) (changed *ZoneChange, err error) {
	id := nexusraft.ZoneID(c.GetId())
	z, err := FindZone(base, id)
	switch {
	case err != nil:
		return nil, err
	case z == nil:
		return nil, unknownZone(base, id)
	case !z.GetMoving() && len(c.GetRemoved()) == 0 || z.GetChanged() != c.GetChanged():
		return nil, fmt.Errorf("%w: zone %v is not under way to this placement any more", nexusraft.ErrRefused, id)
	}
	if len(c.GetRemoved()) > 0 {
		return renew(base, z, c.GetRemoved())
	}
	z.Moving, z.Leaving, z.Everywhere = false, nil, false
	if _, changed, err = storeZone(base, z, z.GetPlacement()); err != nil {
		return nil, err
	}
	return changed, publishZone(base, now, zonePlaced, z)
}

// renew gives other IDs to replicas of a placement. It leaves a version out, as of which a witness, which knows no
// replicas by their IDs, is told that it has none.
func renew(base nexusraft.ReadWriter, z *pb.ZoneRecord, removed []uint64) (changed *ZoneChange, err error) {
	t, err := ZoneTable(base)
	if err != nil {
		return nil, err
	}
	version, some := t.GetVersion()+2, false
	for _, p := range z.GetPlacement() {
		if slices.Contains(removed, p.GetReplica()) {
			p.Replica = uint64(laterReplica(nexusraft.ZoneID(z.GetId()), nexusraft.NodeID(p.GetNode()), version))
			p.Version, some = version, true
		}
	}
	if !some {
		return nil, fmt.Errorf("%w: no such replica is to be in zone %q", nexusraft.ErrRefused, z.GetName())
	}
	z.Changed, z.Moving = version, true
	_, changed, err = storeZone(base, z, z.GetPlacement()) // the same nodes
	return changed, err
}

func describeReshape(c *pb.ReshapeZone) string {
	name, id := c.GetName(), nexusraft.ZoneID(c.GetId())
	switch {
	case c.GetOff() != 0:
		return fmt.Sprintf("zone %q (%v) is to leave node %v", name, id, nexusraft.NodeID(c.GetOff()))
	case c.GetRefill():
		return fmt.Sprintf("empty places of zone %q (%v) are to be filled", name, id)
	}
	return fmt.Sprintf("zone %q (%v) is to be of shape %v", name, id, wire.ShapeFromProto(c.GetShape()))
}

func describeReport(c *pb.ReportZone) string {
	if n := len(c.GetRemoved()); n > 0 {
		return fmt.Sprintf("%d replicas of zone %v get other IDs", n, nexusraft.ZoneID(c.GetId()))
	}
	return fmt.Sprintf("zone %v is where it was placed", nexusraft.ZoneID(c.GetId()))
}
