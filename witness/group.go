package witness

import (
	"fmt"
	"log/slog"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// group is one zone on the worker, which alone touches it, and the owner of its driver.Group.
type group struct {
	id      nexusraft.ZoneID
	log     *Log
	group   *driver.Group
	replica *zone.Replica // the group's
	logger  *slog.Logger
	update  Update // of the round under way
	sync    bool   // it must be on the disk before anything is told of it
	ended   error  // why it takes no part any more, though its witness goes on; nil while it does

	connect func(nexusraft.Membership)

	errRemoved func(nexusraft.ZoneID) error // says that this witness was removed
}

func newGroup(
	log *Log, incarnation nexusraft.Incarnation, c Config, connect func(nexusraft.Membership),
	vouched func(nexusraft.NodeID) bool, errRemoved func(nexusraft.ZoneID) error, signals zone.Signals,
) (_ *group, err error) {
	o := log.Origin()
	g := &group{
		id: o.Zone, log: log, logger: c.Logger.With("zone", o.Zone),
		connect: connect, errRemoved: errRemoved,
	}
	g.group, err = driver.NewGroup(driver.Config{Owner: g, Config: zone.Config{
		Zone: o.Zone, Replica: o.Replica, Incarnation: incarnation, Witness: true,
		Storage: log, Applied: log.Applied(), Membership: log.Membership(),
		Vouched: vouched, Signals: signals, ElectionTicks: c.ElectionTicks, Logger: zone.NewLogger(c.Logger, o.Zone),
	}})
	if err != nil {
		return nil, err
	}
	g.replica = g.group.Replica()
	if o.Zone != nexusraft.RootZone {
		if err := g.Ended(); err != nil { // before it was opened
			return nil, err
		}
	}
	connect(log.Membership())
	return g, nil
}

// Began implements driver.Owner.
func (g *group) Began(*zone.Work) { g.update = Update{} }

// Apply implements driver.Owner: only conf changes mean something here.
func (g *group) Apply(c *zone.Committed, _ bool) (driver.Applied, error) {
	g.update.Applied = c.Index
	if c.ConfChange == nil {
		return driver.Applied{}, nil
	}
	cs, members, err := g.group.ApplyConfChange(c.ConfChange)
	if err != nil {
		return driver.Applied{}, fmt.Errorf("apply the conf change at %d: %w", c.Index, err)
	}
	g.update.ConfState, g.update.Membership = cs, &members
	return driver.Applied{}, nil
}

// Held implements driver.Owner.
func (g *group) Held() int { return 0 }

// Stage implements driver.Owner.
func (g *group) Stage(p *driver.Part) error {
	g.update.Snapshot, g.update.Append, g.update.HardState = p.Work.Snapshot, p.Work.Append, p.Work.HardState
	g.sync = p.MustSync
	return nil
}

// Written implements driver.Owner.
func (g *group) Written(p *driver.Part) {
	if p.Snapshot() != nil || g.update.Membership != nil {
		g.connect(g.log.Membership())
	}
}

// Refusal implements driver.Owner: nobody proposes here.
func (g *group) Refusal(err error) error { return err }

// Ended implements driver.Owner. A witness that was removed from the root zone ends; one that was
// removed from another zone keeps that zone's log, and takes no part in the zone any more.
func (g *group) Ended() error {
	if !g.log.Membership().IsRemoved(g.log.Origin().Replica) {
		return nil
	}
	err := g.errRemoved(g.id)
	if g.id == nexusraft.RootZone {
		return err
	}
	g.logger.Info("removed from a zone", "err", err)
	g.stop(err)
	return nil
}

// stop ends the group and no other. Whatever waits is answered by err.
func (g *group) stop(err error) {
	g.ended = err
	g.group.Stop(err)
}

// Failed implements driver.Owner: no state machine can.
func (g *group) Failed(err error) { g.logger.Error("zone stopped on this node", "err", err) }

func (g *group) status() nexusraft.ZoneStatus {
	st := g.replica.Status()
	st.FirstIndex = g.log.record.Applied + 1
	return st
}
