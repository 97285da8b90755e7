package worker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/change"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// placement is what the root zone's record says of where a zone is to be; see system.HostedBy. It is not changed.
type placement struct {
	shaped    bool // it has replicas on some nodes; else on all of them
	shape     nexusraft.Shape
	moving    bool
	changed   uint64             // pb.ZoneRecord.changed
	members   []nexusraft.Member // of a zone with a shape
	preferred nexusraft.NodeID   // 0: any
	willing   int                // for how many ticks the preferred node could have led
}

// Placed is what a zone under way to a placement has come to, as its leader says.
type Placed struct {
	Zone    nexusraft.ZoneID
	Changed uint64                // of the record that the leader went by
	Removed []nexusraft.ReplicaID // the placement has these, and they are gone for ever; none: the zone is there
}

func placementOf(z *pb.ZoneRecord) *placement {
	return &placement{
		shaped: z.GetShape() != nil, shape: system.PlanOf(z).Shape, moving: z.GetMoving(), changed: z.GetChanged(),
		members: system.Placement(z), preferred: nexusraft.NodeID(z.GetPreferred()),
	}
}

// moves reports whether the zone's leader waits for something that no message wakes it for.
func (g *group) moves() bool {
	p := g.placement
	return p != nil && (p.moving || p.willing > 0)
}

// settled is what a leader has found when it planned, until a record or a replica of the zone changes: there is nothing
// to plan.
type settled struct {
	placement *placement // nil: there may be something
	ticks     int        // since it was found, or looked at again: an address may have changed
}

// rests reports whether there is nothing to plan, or look at, for a zone with a shape. Most zones are so nearly always,
// and they are many.
func (g *group) rests() bool {
	s := &g.settled
	if s.placement != g.placement {
		return false
	}
	s.ticks++
	return s.ticks < g.w.o.ElectionTicks
}

// tendPlacement takes, on the leader, one step of a zone with a shape to where it is to be.
func (g *group) tendPlacement() {
	p := g.placement
	if g.rests() {
		g.prefer()
		return
	}
	if m, ok := zone.Moved(g.replica, g.w.current); ok {
		g.change(m)
		return
	}
	// Also where the record says that the zone is there: a leader that went by an older one may have taken it elsewhere.
	switch next := zone.PlanApproach(g.replica, p.members); {
	case next.Reached && !p.moving:
		g.settled = settled{placement: p}
		g.prefer()
	case next.Change != nil:
		g.logger.Info("the zone moves", "set", len(next.Change.Set), "remove", len(next.Change.Remove))
		g.changeTo(*next.Change)
	case next.Transfer != 0:
		g.pass(next.Transfer)
	case next.Reached, len(next.Removed) > 0:
		g.pause = g.w.o.ElectionTicks // then it is said again, if the record is still the same
		g.group.Read(&arrival{g, p}, time.Now())
	}
}

// arrival is a read that says what a zone has come to: once a quorum has confirmed that this replica leads, since what
// nodes keep for a zone on its way goes by that, and a leader that was deposed knows of no later change.
type arrival struct {
	g *group
	p *placement // which the leader went by
}

// Serve implements driver.Read.
func (a *arrival) Serve(err error) {
	if err != nil || a.g.placement != a.p {
		return
	}
	if next := zone.PlanApproach(a.g.replica, a.p.members); next.Reached || len(next.Removed) > 0 {
		a.g.w.o.Placed(Placed{Zone: a.g.id, Changed: a.p.changed, Removed: next.Removed})
	}
}

// Gone implements driver.Read: the read ends with the zone's next leader at the latest.
func (a *arrival) Gone() bool { _, leads := a.g.replica.Leader(); return !leads }

// pass has another member lead. For an election timeout raft holds the proposals back; for as long as that again the
// zone takes them if the member has not come to lead, and only then it is asked once more.
func (g *group) pass(to nexusraft.ReplicaID) {
	g.pause = 2 * g.w.o.ElectionTicks
	if _, err := change.Pass(g.replica, to); err != nil {
		g.logger.Debug("the leadership is not passed on yet", "replica", to, "err", err)
	}
}

// preferElections is for how many election timeouts a zone's preferred node could have led, without a break, before it
// is asked to: one that comes and goes would take the leadership along each time.
const preferElections = 10

// prefer hands a zone's leadership to the node that is to have it.
func (g *group) prefer() {
	p := g.placement
	if p == nil || p.preferred == 0 {
		return
	}
	if p.preferred == g.w.o.Peering.Self().Node {
		p.willing = 0
		return
	}
	replica, ok := zone.Preferred(g.replica, p.preferred)
	if !ok {
		p.willing = 0
		return
	}
	if p.willing++; p.willing <= preferElections*g.w.o.ElectionTicks {
		return
	}
	p.willing = 0
	g.pass(replica)
}

// followRecords takes over what has changed in the records of zones.
func (w *worker) followRecords() error {
	h := &w.hosting
	if len(h.changed) == 0 {
		return nil
	}
	changed := h.changed
	h.changed = nil
	return w.readRecords(func(r nexusraft.Reader) error {
		for _, id := range changed {
			z, err := system.FindZone(r, id)
			if err != nil {
				return err
			}
			if z == nil { // deleted since
				continue
			}
			if err := w.followRecord(z); err != nil {
				return err
			}
		}
		return nil
	})
}

// followRecord takes over a zone's record: what its leader goes by, and whether there is to be a replica here.
func (w *worker) followRecord(z *pb.ZoneRecord) error {
	h, id := &w.hosting, nexusraft.ZoneID(z.GetId())
	if g := w.zones[id]; g != nil {
		g.placement = placementOf(z)
		w.neighbors.Wake(g.group)
	}
	if !w.o.Replicas.Has(id) {
		h.seen = min(h.seen, id-1)
		return nil
	}
	replica, err := w.replicaHere(id)
	if err != nil {
		return err
	}
	if system.Drops(z, w.o.Peering.Self().Node, replica) {
		h.deleted = append(h.deleted, id)
		h.seen = min(h.seen, id-1)
	}
	return nil
}

// replicaHere returns the ID of this node's replica of a zone, which need not run; 0 of one whose log can't be read, as
// nobody knows what it has voted.
func (w *worker) replicaHere(id nexusraft.ZoneID) (nexusraft.ReplicaID, error) {
	if g := w.zones[id]; g != nil {
		return g.self, nil
	}
	log, err := raftlog.Open(w.o.Dir.Raft, id)
	switch {
	case errors.Is(err, nexusraft.ErrCorrupt), errors.Is(err, nexusraft.ErrZoneNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("open the log of zone %v: %w", id, err)
	}
	return log.Meta().Replica, nil
}

// elsewhere reports whether a zone is to have no replica here, and notes where it has.
func (w *worker) elsewhere(z *pb.ZoneRecord) bool {
	id := nexusraft.ZoneID(z.GetId())
	_, here := system.PlacedOn(z, w.o.Peering.Self().Node)
	if here {
		w.o.Replicas.Elsewhere(id, nil)
	} else {
		w.o.Replicas.Elsewhere(id, w.whereIs(z))
	}
	return !here
}

// whereIs names the nodes to ask for a zone: those that are to hold its data.
func (w *worker) whereIs(z *pb.ZoneRecord) (ask []*nexusraft.NotLeaderError) {
	for _, m := range system.Placement(z) {
		if m.Role == nexusraft.RoleMember {
			m = w.current(m)
			ask = append(ask, &nexusraft.NotLeaderError{
				Zone: nexusraft.ZoneID(z.GetId()), Leader: m.Node, Address: m.Address,
			})
		}
	}
	return ask
}

// whyDropped says why a zone has no replica here any more, and whom to ask for it if it has others.
func (w *worker) whyDropped(id nexusraft.ZoneID) (ask []*nexusraft.NotLeaderError, why error) {
	var z *pb.ZoneRecord
	err := w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		z, err = system.FindZone(r, id)
		return err
	})
	if err == nil && z != nil {
		if ask = w.whereIs(z); len(ask) > 0 {
			return ask, fmt.Errorf("the zone was moved away from this node: %w", ask[0])
		}
	}
	return nil, fmt.Errorf("%w: zone %v was deleted", nexusraft.ErrZoneNotFound, id)
}

// leave ends a replica that a conf change has removed from a zone with a shape. What it has stored goes once the zone
// has reported that it does without.
func (w *worker) leave(g *group) {
	g.logger.Info("the zone has left this node", "index", g.log.Applied())
	e := g.hint()
	if e.Leader == 0 {
		for _, m := range g.replica.Membership().Members {
			if m.Role == nexusraft.RoleMember {
				e.Leader, e.Address = m.Node, w.current(m).Address
			}
		}
	}
	w.o.Replicas.Leave(g.id, e)
	g.stop(e)
	w.o.Forwards.Tick(g.id, 0, 1)
	if w.zones[g.id] == g {
		delete(w.zones, g.id)
		w.neighbors.Forget(g.group)
		w.neighbors.Change()
	}
}

// foundersFor returns what a replica of this node begins with: the zone's first voters, or, one that was placed later,
// the replicas that there are now.
func (w *worker) foundersFor(z *pb.ZoneRecord, replica nexusraft.ReplicaID) []nexusraft.Member {
	founders := foundersOf(z)
	founds := func(m nexusraft.Member) bool { return m.Replica == replica }
	if z.GetShape() == nil || slices.ContainsFunc(founders, founds) {
		return founders
	}
	return system.KnownTo(z, w.o.Peering.Self().Node)
}
