package worker

import (
	"context"
	"errors"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/change"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Changer returns what makes changes of a zone.
func (x *Workers) Changer(id nexusraft.ZoneID) change.Changer {
	w := x.of(id)
	o := &w.o
	return change.Changer{
		Zone: changeZone{w, id}, Node: o.Peering.Self().Node, TickInterval: o.TickInterval,
		ElectionTicks: o.ElectionTicks, ElectionTimeout: o.electionTimeout(),
		Logger: o.Logger.With("zone", id), Current: w.current, Status: o.Peers.Status,
	}
}

// changeZone is a change.Zone.
type changeZone struct {
	w  *worker
	id nexusraft.ZoneID
}

// Use implements change.Zone.
func (z changeZone) Use(ctx context.Context, f func(change.Handle) error) error {
	_, err := ask(ctx, z.w, z.id, func(g *group) (struct{}, error) { return struct{}{}, f(changeHandle{g}) })
	return err
}

// UsePermitted implements change.Zone.
func (z changeZone) UsePermitted(ctx context.Context, f func(change.Handle) error) error {
	_, err := askPermitted(ctx, z.w, z.id, func(g *group) (struct{}, error) {
		return struct{}{}, f(changeHandle{g})
	})
	return err
}

// changeHandle is a change.Handle.
type changeHandle struct{ *group }

// Replica implements change.Handle.
func (g changeHandle) Replica() *zone.Replica { return g.replica }

// Current implements change.Handle.
func (g changeHandle) Current() nexusraft.Membership { return g.current() }

// Hinted implements change.Handle.
func (g changeHandle) Hinted(err error) error { return noLeader(err, g.hint()) }

// Leaderless implements change.Handle.
func (g changeHandle) Leaderless() error { return g.group.group.Leaderless() }

// Propose implements change.Handle.
func (g changeHandle) Propose(c zone.ConfChange) func(context.Context) error {
	p := g.startConf(c, nil)
	return func(ctx context.Context) error { return waitConf(ctx, p) }
}

// startConf proposes a conf change at once. settled, if not nil, is run by the worker when
// it has ended.
func (g *group) startConf(c zone.ConfChange, settled func()) *propose.Call {
	p := propose.New(g.id)
	p.Conf, p.Settled = &c, settled
	p.Take()
	g.proposeConf(p)
	return p
}

// waitConf is p.Wait for a conf change: that another one is under way passes by itself.
func waitConf(ctx context.Context, p *propose.Call) error {
	_, err := p.Wait(ctx)
	if errors.Is(err, zone.ErrChanging) {
		return zone.NotYet(zone.ErrChanging.Error())
	}
	return err
}

// tendMembership makes, on the leader, one change of the node's own accord at a time.
func (g *group) tendMembership() {
	if g.changing {
		return
	}
	if g.pause > 0 {
		g.pause--
		return
	}
	if g.placement != nil && g.placement.shaped {
		g.tendPlacement()
		return
	}
	m, ok := zone.Outdated(g.replica, g.w.current)
	if !ok && g.id != nexusraft.RootZone {
		root := g.w.o.Replicas.Members(nexusraft.RootZone)
		m, ok = zone.Follow(g.replica, root, func(n nexusraft.NodeID) nexusraft.ReplicaID {
			return system.ReplicaOf(g.id, n)
		})
	}
	if ok {
		g.change(m)
		return
	}
	g.prefer()
}

// change proposes one record. A refusal (another change is under way) is no news: it is
// tried again, at most once in an election timeout, since each try costs a log entry.
func (g *group) change(m nexusraft.Member) { g.changeTo(zone.ConfChange{Set: []nexusraft.Member{m}}) }

// changeTo is change for a change of any kind.
func (g *group) changeTo(c zone.ConfChange) {
	g.changing = true
	g.startConf(c, func() {
		g.changing, g.pause = false, g.w.o.ElectionTicks
	})
}

// current is a record with the address that its node has now. It may be called from any goroutine.
func (w *worker) current(m nexusraft.Member) nexusraft.Member {
	m.Address = w.o.Peering.AddressOf(m.Node, m.Address)
	return m
}

// current is the zone's records, with the addresses that the nodes have now.
func (g *group) current() nexusraft.Membership {
	members := g.replica.Membership()
	for _, x := range members.Members {
		members = members.With(g.w.current(x))
	}
	return members
}
