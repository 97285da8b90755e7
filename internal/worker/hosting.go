package worker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
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

// toHost is what a worker has yet to do so that the node has a replica of each zone that the root
// zone's state has a record of, and of no other: of those of its zones that are its own.
type toHost struct {
	zonesNews
	opened bool             // the zones that the directory had are open: nothing is made or dropped before
	seen   nexusraft.ZoneID // each zone with a record up to this one has its replica
}

// zonesNews is what has come of the root zone's records.
type zonesNews struct {
	look    bool               // there is something to do
	compare bool               // every replica with the records: what changed is not known
	deleted []nexusraft.ZoneID // zones whose records are gone, or have no replica here any more
	changed []nexusraft.ZoneID // zones whose records have changed
}

func (n *zonesNews) add(x zonesNews) {
	n.look, n.compare = n.look || x.look, n.compare || x.compare
	n.deleted, n.changed = append(n.deleted, x.deleted...), append(n.changed, x.changed...)
}

// toldOfZones is what the root zone's worker has told another one, which has not come to it yet.
type toldOfZones struct {
	mu   sync.Mutex // guards news
	news zonesNews
}

// tellOfZones ends a round of the root zone: it has each worker see to what has come of the zones' records.
func (w *worker) tellOfZones(root *group) {
	w.shared.leadsRoot.Store(root.replica.TermApplied())
	if !w.news.look {
		return
	}
	for _, x := range w.shared.workers {
		mine := w.news
		others := func(id nexusraft.ZoneID) bool { return !x.has(id) }
		mine.deleted = slices.DeleteFunc(slices.Clone(mine.deleted), others)
		mine.changed = slices.DeleteFunc(slices.Clone(mine.changed), others)
		x.told.add(mine)
		x.inbox.Wake()
	}
	w.news = zonesNews{}
}

func (t *toldOfZones) add(n zonesNews) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.news.add(n)
}

func (t *toldOfZones) take() (n zonesNews) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, t.news = t.news, n
	return n
}

// has reports whether a zone is this worker's.
func (w *worker) has(id nexusraft.ZoneID) bool { return w.shared.of(id) == w }

// errNoRecords is why a worker can't see to its zones.
var errNoRecords = errors.New("the root zone has stopped on this node")

// readRecords reads the root zone's state; the error is errNoRecords once that has stopped.
func (w *worker) readRecords(fn func(nexusraft.Reader) error) error {
	err := w.o.Replicas.Read(nexusraft.RootZone, fn)
	if err != nil && w.o.Replicas.Stopped(nexusraft.RootZone) {
		return errNoRecords
	}
	return err
}

// maxHosted is how many zones a round makes or drops, so that the others wait for no more.
const maxHosted = 64

// host makes and drops replicas, as the root zone's records ask for, and reports whether there are
// more to come. Without room on the disk none is made until there is, and none at all once the root zone
// has stopped on this node: its records can't be read, and the other zones go on.
func (w *worker) host() (more bool, err error) {
	h := &w.hosting
	h.add(w.told.take())
	if !h.look || !h.opened {
		return false, nil
	}
	if more, err = w.hostSome(); errors.Is(err, errNoRecords) {
		return false, nil
	}
	return more, err
}

// hostSome makes and drops some of the worker's replicas.
func (w *worker) hostSome() (more bool, err error) {
	h := &w.hosting
	if w.o.Replicas.Stopped(nexusraft.RootZone) {
		return false, errNoRecords
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
	err := w.readRecords(func(r nexusraft.Reader) (err error) {
		version, err = system.ClusterVersion(r)
		return err
	})
	if err != nil || version < system.ZonesVersion {
		return err
	}
	w.version = version
	return w.o.Dir.RequireZones()
}

// compareZones finds those of the worker's zones that were deleted.
func (w *worker) compareZones() error {
	h := &w.hosting
	h.compare, h.deleted, h.changed, h.seen = false, nil, nil, nexusraft.RootZone
	w.o.Replicas.ForgetElsewhere(w.has)
	return w.readRecords(func(r nexusraft.Reader) error {
		for _, id := range w.o.Replicas.Zones() {
			if id == nexusraft.RootZone || !w.has(id) {
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

// makeZones makes replicas of those of the worker's zones that have a record and none here, and returns how many
// records it has looked at.
func (w *worker) makeZones() (looked int, err error) {
	h := &w.hosting
	var records []*pb.ZoneRecord
	err = w.readRecords(func(r nexusraft.Reader) (err error) {
		records, err = system.Zones(r, h.seen, maxHosted)
		return err
	})
	if err != nil || len(records) == 0 {
		return 0, err
	}
	var fresh []*pb.ZoneRecord
	for _, z := range records {
		if id := nexusraft.ZoneID(z.GetId()); !w.has(id) || w.o.Replicas.Has(id) || w.elsewhere(z) {
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
	if g := w.zones[id]; g != nil && w.shared.leadsRoot.Load() {
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
		Members: members, Term: new(atomic.Uint64), Led: new(atomic.Bool), Fresh: new(driver.Freshness),
		Lease: new(driver.Lease), Events: new(events.Notifier), Applied: new(events.Notifier),
	})
	w.o.Replicas.Fail(id, err)
	w.o.Events.ZoneStopped(id, err.Error())
}

// openedRoot is what there is when the root zone is open, and the others are not.
type openedRoot struct {
	zones []nexusraft.ZoneID // of which there are replicas here
	root  *group             // nil: there are none
	unfit error              // why it is to stop once the others are open; nil: it is to run
}

// openRoot opens the root zone. It does not run yet: if it stopped, the others could not be opened by its records.
func (w *worker) openRoot() (o openedRoot, err error) {
	o.zones, err = raftlog.Zones(w.o.Dir.Raft)
	if err != nil || len(o.zones) == 0 {
		return o, err
	}
	if o.root, err = openGroup(w, nexusraft.RootZone, ""); err != nil {
		return o, err
	}
	if o.unfit = o.root.openMachine(); o.unfit != nil && !errors.Is(o.unfit, errMachine) && !isDiverged(o.unfit) {
		return o, o.unfit
	}
	w.o.Peering.Connect(o.root.replica.Membership())
	return o, nil
}

// beginRoot has the root zone run, or stop, once all other zones are open.
func (w *worker) beginRoot(o openedRoot) {
	if o.unfit != nil {
		w.fail(o.root, o.unfit)
	} else {
		w.add(o.root)
	}
}

// openZones opens those of the zones that are this worker's, by the root zone's records. What was made or deleted
// while the node was away is done by the next turn.
func (w *worker) openZones(zones []nexusraft.ZoneID) error {
	h := &w.hosting
	h.look, h.compare, h.opened = true, true, true
	for _, id := range zones {
		if id == nexusraft.RootZone || !w.has(id) {
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
	return nil
}
