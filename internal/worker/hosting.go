package worker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// toHost is what the worker has yet to do so that the node has a replica of each zone that the root
// zone's state has a record of, and of no other.
type toHost struct {
	look    bool               // there is something to do
	compare bool               // every replica with the records: what changed is not known
	deleted []nexusraft.ZoneID // zones whose records are gone, or have no replica here any more
	changed []nexusraft.ZoneID // zones whose records have changed
	seen    nexusraft.ZoneID   // each zone with a record up to this one has its replica
}

// maxHosted is how many zones a round makes or drops, so that the others wait for no more.
const maxHosted = 64

// host makes and drops replicas, as the root zone's records ask for, and reports whether there are
// more to come. Without room on the disk none is made until there is, and none at all once the root zone
// has stopped on this node: its records can't be read, and the other zones go on.
func (w *worker) host() (more bool, err error) {
	h := &w.hosting
	if !h.look || w.zones[nexusraft.RootZone] == nil {
		return false, nil
	}
	if h.compare {
		if err := w.compareZones(); err != nil {
			return false, err
		}
	}
	if err := w.followRecords(); err != nil {
		return false, err
	}
	if err := w.dropZones(); err != nil {
		return false, err
	}
	if w.full != nil {
		return len(h.deleted) > 0, nil // looked at again by the next turn, a tick from now at the latest
	}
	made, err := 0, w.keepEarlierOut()
	if err == nil {
		made, err = w.makeZones()
	}
	if errors.Is(err, nexusraft.ErrDiskFull) { // it has come to be full since the last drain
		w.batch.Reset()
		return false, nil
	}
	h.look = made == maxHosted || len(h.deleted) > 0
	return h.look, err
}

// keepEarlierOut makes the directory one that no earlier release opens, once the cluster's version is one of
// which those know nothing: they would pass over commands of sessions, for example, as if there were none.
func (w *worker) keepEarlierOut() error {
	var version uint32
	err := w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		version, err = system.ClusterVersion(r)
		return err
	})
	if err != nil || version < system.ZonesVersion {
		return err
	}
	return w.o.Dir.RequireZones()
}

// compareZones finds the zones of this node that were deleted.
func (w *worker) compareZones() error {
	h := &w.hosting
	h.compare, h.deleted, h.changed, h.seen = false, nil, nil, nexusraft.RootZone
	w.o.Replicas.ForgetElsewhere()
	return w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) error {
		for _, id := range w.o.Replicas.Zones() {
			if id == nexusraft.RootZone {
				continue
			}
			z, err := system.FindZone(r, id)
			if err != nil {
				return err
			}
			if z == nil {
				h.deleted = append(h.deleted, id)
			} else if err := w.followRecord(z); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropZones drops some of the zones that were deleted: their calls end, then their data goes. Without a
// sync: what a crash brings back is dropped when the node opens.
func (w *worker) dropZones() error {
	h := &w.hosting
	now := h.deleted[:min(len(h.deleted), maxHosted)]
	slices.Sort(now)
	for _, id := range slices.Compact(slices.Clone(now)) { // a zone may have left this node and be deleted then
		ask, why := w.whyDropped(id)
		if g := w.zones[id]; g != nil {
			delete(w.zones, id)
			w.neighbors.Forget(g.group)
			g.stop(why)
		}
		w.o.Forwards.Tick(id, 0, 1) // ends the calls: no tick of the zone comes any more that would
		if w.o.Replicas.Withdraw(id) {
			w.o.ZonesChanged.Notify()
			w.o.Logger.Info("replica dropped", "zone", id, "reason", why)
		}
		w.o.Replicas.Elsewhere(id, ask)
		if err := w.o.Dir.DropZone(w.batch, id); err != nil {
			return err
		}
	}
	h.deleted = h.deleted[len(now):]
	return w.Commit(nil, false)
}

// makeZones makes replicas of zones that have a record and none here, and returns how many records it
// has looked at.
func (w *worker) makeZones() (looked int, err error) {
	h := &w.hosting
	var records []*pb.ZoneRecord
	err = w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		records, err = system.Zones(r, h.seen, maxHosted)
		return err
	})
	if err != nil || len(records) == 0 {
		return 0, err
	}
	var fresh []*pb.ZoneRecord
	for _, z := range records {
		if w.o.Replicas.Has(nexusraft.ZoneID(z.GetId())) || w.elsewhere(z) {
			continue
		}
		if err := w.stageZone(z); err != nil {
			return 0, err
		}
		fresh = append(fresh, z)
	}
	if err := w.commitZones(len(fresh)); err != nil {
		return 0, err
	}
	for _, z := range fresh {
		if err := w.openZone(z); err != nil {
			return 0, err
		}
		w.elect(nexusraft.ZoneID(z.GetId()))
	}
	h.seen = nexusraft.ZoneID(records[len(records)-1].GetId())
	w.o.ZonesChanged.Notify()
	return len(records), nil
}

// commitZones stores the staged replicas of so many zones.
func (w *worker) commitZones(made int) error {
	if made == 0 {
		return nil
	}
	return w.Commit(nil, true)
}

// electTicks is how many ticks after it has made a replica the leader of the root zone has a new zone
// elect it: the other nodes have made theirs by then. Without that an election timeout would pass.
const electTicks = 2

// elect has a new zone elect this node, if it leads the root zone.
func (w *worker) elect(id nexusraft.ZoneID) {
	if root, g := w.zones[nexusraft.RootZone], w.zones[id]; g != nil && root.replica.TermApplied() {
		g.campaign = electTicks
	}
}

// stageZone stages a zone's replica.
func (w *worker) stageZone(z *pb.ZoneRecord) error {
	id := nexusraft.ZoneID(z.GetId())
	replica, _ := system.PlacedOn(z, w.o.Peering.Self().Node)
	return w.o.Dir.StageZone(w.batch, id, replica, w.foundersFor(z, replica), system.FoundingDigest())
}

func foundersOf(z *pb.ZoneRecord) (members []nexusraft.Member) {
	for _, m := range z.GetMembers() {
		members = append(members, wire.MemberFromProto(m))
	}
	return members
}

// openZone has the worker host a zone other than the root zone, by its record. One that can't be opened stops
// on this node alone, and the others go on.
func (w *worker) openZone(z *pb.ZoneRecord) error {
	id := nexusraft.ZoneID(z.GetId())
	if w.machine(z.GetMachine()) == nil {
		w.unopened(z, fmt.Errorf("%w: it runs the state machine %q, and this program has none of that name (it has %q): "+
			"run the release that has it", nexusraft.ErrRefused, z.GetMachine(), slices.Sorted(maps.Keys(w.o.Machines))))
		return nil
	}
	g, err := openGroup(w, id, z.GetMachine())
	removed := err == nil && g.replica.Membership().IsRemoved(g.self)
	if err == nil && !removed {
		err = g.openMachine()
	}
	switch {
	case errors.Is(err, nexusraft.ErrCorrupt), errors.Is(err, errMachine):
		w.unopened(z, err)
		return nil
	case err != nil:
		return err
	case removed && z.GetShape() != nil:
		w.leave(g)
		return nil
	case removed:
		w.unopened(z, g.errRemoved(g.log.Applied()))
		return nil
	}
	g.placement = placementOf(z)
	w.add(g)
	w.o.Peering.Connect(g.replica.Membership())
	return nil
}

// unopened publishes that a zone of this node does not run, and why.
func (w *worker) unopened(z *pb.ZoneRecord, err error) {
	id := nexusraft.ZoneID(z.GetId())
	w.o.Logger.Error("zone does not run on this node", "zone", id, "name", z.GetName(), "err", err)
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape, Members: foundersOf(z)}
	if log, err := raftlog.Open(w.o.Dir.Raft, id); err == nil {
		members = log.Meta().Membership // as it was when the zone last ran here
	}
	w.o.Replicas.Publish(id, replicas.Known{
		Members: members, Term: new(atomic.Uint64), Fresh: new(driver.Freshness), Events: new(events.Notifier),
	})
	w.o.Replicas.Fail(id, err)
	w.o.Events.ZoneStopped(id, err.Error())
}

// openAll opens the root zone, and then by its records the other zones that there are replicas of here.
// What was made or deleted while the node was away is done by the first turn.
func (w *worker) openAll() error {
	zones, err := raftlog.Zones(w.o.Dir.Raft)
	if err != nil || len(zones) == 0 {
		return err
	}
	root, err := openGroup(w, nexusraft.RootZone, "")
	if err != nil {
		return err
	}
	unfit := root.openMachine()
	if unfit != nil && !errors.Is(unfit, errMachine) && !isDiverged(unfit) {
		return unfit
	}
	w.add(root)
	w.o.Peering.Connect(root.replica.Membership())
	w.hosting.look, w.hosting.compare = true, true
	for _, id := range zones {
		if id == nexusraft.RootZone {
			continue
		}
		var z *pb.ZoneRecord
		err := w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
			z, err = system.FindZone(r, id)
			return err
		})
		if err == nil && z == nil { // it was deleted
			w.unopened(&pb.ZoneRecord{Id: uint64(id)}, nexusraft.ErrZoneNotFound)
			continue
		}
		if err == nil {
			err = w.openZone(z)
		}
		if err != nil {
			return err
		}
	}
	if unfit != nil {
		w.fail(root, unfit) // not before: the others are opened by its records
	}
	return nil
}
