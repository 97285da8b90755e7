package node

import (
	"context"
	"errors"
	"fmt"
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
	deleted []nexusraft.ZoneID // zones whose records are gone
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
	err := w.node.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		version, err = system.ClusterVersion(r)
		return err
	})
	if err != nil || version < system.ZonesVersion {
		return err
	}
	return w.node.dir.RequireZones()
}

// compareZones finds the zones of this node that were deleted.
func (w *worker) compareZones() error {
	h := &w.hosting
	h.compare, h.deleted, h.seen = false, nil, nexusraft.RootZone
	return w.node.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		for _, id := range w.node.replicas.Zones() {
			if id == nexusraft.RootZone {
				continue
			}
			z, err := system.FindZone(r, id)
			if err != nil {
				return err
			}
			if z == nil {
				h.deleted = append(h.deleted, id)
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
	for _, id := range now {
		if g := w.zones[id]; g != nil {
			delete(w.zones, id)
			w.neighbors.Forget(g.group)
			g.stop(fmt.Errorf("%w: zone %v was deleted", nexusraft.ErrZoneNotFound, id))
		}
		w.node.forwards.Tick(id, 0, 1) // ends the calls: no tick of the zone comes any more that would
		if w.node.replicas.Withdraw(id) {
			w.node.zonesChanged.Notify()
			w.node.logger.Info("zone deleted", "zone", id)
		}
		if err := w.node.dir.DropZone(w.batch, id); err != nil {
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
	err = w.node.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		records, err = system.Zones(r, h.seen, maxHosted)
		return err
	})
	if err != nil || len(records) == 0 {
		return 0, err
	}
	var fresh []*pb.ZoneRecord
	for _, z := range records {
		if w.node.replicas.Has(nexusraft.ZoneID(z.GetId())) {
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
	w.node.zonesChanged.Notify()
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
	return w.node.dir.StageZone(w.batch, id, system.ReplicaOf(id, w.node.ID()), foundersOf(z),
		system.FoundingDigest())
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
	if w.node.machine(z.GetMachine()) == nil {
		w.unopened(z, fmt.Errorf("%w: it runs the state machine %q, and this program has none of that name (it has %q): "+
			"run the release that has it", nexusraft.ErrRefused, z.GetMachine(), w.node.machines()))
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
	case removed:
		w.unopened(z, g.errRemoved(g.log.Applied()))
		return nil
	}
	w.add(g)
	w.node.peering.Connect(g.replica.Membership())
	return nil
}

// unopened publishes that a zone of this node does not run, and why.
func (w *worker) unopened(z *pb.ZoneRecord, err error) {
	id := nexusraft.ZoneID(z.GetId())
	w.node.logger.Error("zone does not run on this node", "zone", id, "name", z.GetName(), "err", err)
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape, Members: foundersOf(z)}
	if log, err := raftlog.Open(w.node.dir.Raft, id); err == nil {
		members = log.Meta().Membership // as it was when the zone last ran here
	}
	w.node.replicas.Publish(id, replicas.Known{
		Members: members, Term: new(atomic.Uint64), Fresh: new(driver.Freshness), Events: new(events.Notifier),
	})
	w.node.replicas.Fail(id, err)
	w.node.events.ZoneStopped(id, err.Error())
}

// openAll opens the root zone, and then by its records the other zones that there are replicas of here.
// What was made or deleted while the node was away is done by the first turn.
func (w *worker) openAll() error {
	zones, err := raftlog.Zones(w.node.dir.Raft)
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
	w.node.peering.Connect(root.replica.Membership())
	w.hosting.look, w.hosting.compare = true, true
	for _, id := range zones {
		if id == nexusraft.RootZone {
			continue
		}
		var z *pb.ZoneRecord
		err := w.node.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
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

// ZoneSpec says what a zone is to be.
type ZoneSpec struct {
	// Machine is which state machine it runs, by its name in Config.Machines, of every member.
	Machine string
}

// CreateZone makes a zone with a replica on each node of the cluster, and returns it once this node
// has its own; if there is one of this name and state machine, that. The zone is complete or there is
// none, whatever happens meanwhile: nodes that are away make their replicas when they come back. Its
// leader is elected in a moment; Propose waits for that.
//
// Names are as nexusraft.ValidateZoneName has them. Errors are those of Zone.Propose, and ErrRefused
// with the reason: the name, a state machine that this node does not have or another one than the
// zone's, too many zones, or a node of an earlier release in the cluster.
func (n *Node) CreateZone(ctx context.Context, name string, spec ZoneSpec) (*Zone, error) {
	z, err := zoneKeeper{n}.Create(ctx, name, spec.Machine)
	if err != nil {
		return nil, err
	}
	for {
		changed := n.zonesChanged.Wait() // before the zone is looked for, so that nothing falls in between
		found, err := n.Zone(z.ID)
		if !errors.Is(err, nexusraft.ErrZoneNotFound) {
			return found, err
		}
		if err := n.deleted(z); err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-n.ended:
			return nil, n.errEnded()
		case <-ctx.Done():
			return nil, fmt.Errorf("zone %q is made, and not on this node yet: %w: %w", name, nexusraft.ErrUncertain,
				context.Cause(ctx))
		}
	}
}

// deleted returns ErrZoneNotFound if a zone that was made is there no more, as far as this node knows.
func (n *Node) deleted(z nexusraft.ZoneInfo) error {
	gone := false
	err := n.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		table, err := system.ZoneTable(r)
		if err != nil || table.GetLastId() < uint64(z.ID) { // the record is still on its way
			return err
		}
		record, err := system.FindZone(r, z.ID)
		gone = record == nil
		return err
	})
	if err == nil && gone {
		err = fmt.Errorf("%w: zone %q was made, and deleted meanwhile", nexusraft.ErrZoneNotFound, z.Name)
	}
	return err
}

// DeleteZone deletes a zone and its data on all nodes, for ever; a node that is away does so when it comes back.
// The name is the zone's, so that the wrong one is not deleted. Calls that wait for the zone end with
// ErrZoneNotFound. Errors are those of Zone.Propose, and ErrRefused if there is no such zone, or it is
// the root zone.
func (n *Node) DeleteZone(ctx context.Context, id nexusraft.ZoneID, name string) error {
	return zoneKeeper{n}.Delete(ctx, id, name)
}

// Zones returns the cluster's zones but for the root zone, by ID, as a quorum of that knows them. Errors
// are those of Zone.Read.
func (n *Node) Zones(ctx context.Context) (all []nexusraft.ZoneInfo, err error) {
	for more := true; more; {
		var page []nexusraft.ZoneInfo
		after := nexusraft.RootZone
		if len(all) > 0 {
			after = all[len(all)-1].ID
		}
		if page, more, err = (zoneKeeper{n}).List(ctx, after, ""); err != nil {
			return nil, err
		}
		all = append(all, page...)
	}
	return all, nil
}

// zoneKeeper is what a node does about zones for callers of its own program and for clients.
type zoneKeeper struct{ *Node }

// Create implements rpc.ZoneKeeper.
func (n zoneKeeper) Create(ctx context.Context, name, machine string) (nexusraft.ZoneInfo, error) {
	if n.config.Machines[machine] == nil {
		return nexusraft.ZoneInfo{}, fmt.Errorf("create zone %q: %w: this program has no state machine %q; it has %q",
			nexusraft.Printable(name), nexusraft.ErrRefused, nexusraft.Printable(machine), n.machines())
	}
	return n.registry.Create(ctx, name, machine)
}

// Delete implements rpc.ZoneKeeper.
func (n zoneKeeper) Delete(ctx context.Context, id nexusraft.ZoneID, name string) error {
	return n.registry.Delete(ctx, id, name)
}

// List implements rpc.ZoneKeeper.
func (n zoneKeeper) List(
	ctx context.Context, after nexusraft.ZoneID, name string,
) ([]nexusraft.ZoneInfo, bool, error) {
	return n.registry.List(ctx, after, name)
}
