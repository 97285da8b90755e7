package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/change"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// ChangeMembership makes one change of the zone's replicas, if this node leads it, and
// returns the zone's records once the change is in force and no joint configuration is left.
//
// Errors: ErrNotLeader. ErrRefused with the reason and the way out. ErrOverloaded: it is too
// early, ask again. ErrUncertain: the context ended first, or the leadership; the change may
// still be made.
func (z *Zone) ChangeMembership(ctx context.Context, c nexusraft.MembershipChange) (nexusraft.Membership, error) {
	return z.node.changeMembership(ctx, z.id, c)
}

// changeMembership is Zone.ChangeMembership. A node leaves the root zone last: as soon as it is out of
// that its process ends, and what another zone has on its disk alone would be lost with it.
func (n *Node) changeMembership(
	ctx context.Context, id nexusraft.ZoneID, c nexusraft.MembershipChange,
) (nexusraft.Membership, error) {
	if leaves := cmp.Or(c.Remove, c.Replace); id == nexusraft.RootZone && leaves != 0 {
		if in := n.replicas.ZonesWith(leaves); len(in) > 0 {
			return nexusraft.Membership{}, fmt.Errorf("%v: %w: node %v has replicas of %d other zones, of zone %v for example, "+
				"and leaves the root zone last; nexus-raft member remove and replace make the change in each zone, if no --zone "+
				"is given", c, nexusraft.ErrRefused, leaves, len(in), slices.Min(in))
		}
	}
	return n.changer(id).Membership(ctx, c)
}

// TransferLeader has another member lead the zone, if this node does: the node to, or if
// that is 0 the member that has most of the log. It returns who leads, once that does. Meanwhile
// the zone takes no writes, for one election timeout at most.
//
// Errors: ErrNotLeader. ErrRefused with the reason, also if the member did not take over in
// an election timeout. ErrOverloaded: the member has not caught up, ask
// again. ErrUncertain: this node leads no more, and nobody else is known to.
func (z *Zone) TransferLeader(ctx context.Context, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	return z.node.changer(z.id).TransferLeader(ctx, to)
}

// changer makes changes of a zone.
func (n *Node) changer(id nexusraft.ZoneID) change.Changer {
	return change.Changer{
		Zone: changeZone{n, id}, Node: n.ID(), TickInterval: n.config.TickInterval,
		ElectionTicks: n.config.ElectionTicks, ElectionTimeout: n.config.electionTimeout(),
		Logger: n.logger.With("zone", id), Current: n.current, Status: n.peers.Status,
	}
}

// changeZone is a change.Zone.
type changeZone struct {
	node *Node
	id   nexusraft.ZoneID
}

// Use implements change.Zone.
func (z changeZone) Use(ctx context.Context, f func(change.Handle) error) error {
	_, err := ask(ctx, z.node, z.id, func(g *group) (struct{}, error) { return struct{}{}, f(changeHandle{g}) })
	return err
}

// UsePermitted implements change.Zone.
func (z changeZone) UsePermitted(ctx context.Context, f func(change.Handle) error) error {
	_, err := askPermitted(ctx, z.node, z.id, func(g *group) (struct{}, error) {
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

// Join implements transport.MemberHandler: the root zone's leader admits a node. Asked
// again by the same node it answers as before.
func (n handler) Join(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	if err := n.authority.Admit(ctx, r); err != nil {
		return transport.JoinResult{}, err
	}
	m, err := n.changer(nexusraft.RootZone).Admit(ctx, joiner(r))
	if err != nil {
		return transport.JoinResult{}, err
	}
	var signed transport.Renewal
	if r.CertificateRequest != nil {
		if signed, err = n.authority.Sign(r.CertificateRequest, r.Peer.Node, m.Role); err != nil {
			return transport.JoinResult{}, err
		}
	}
	return ask(ctx, n.Node, nexusraft.RootZone, func(g *group) (transport.JoinResult, error) {
		return transport.JoinResult{
			Cluster: n.self().Cluster, Zone: g.id, Replica: m.Replica, Membership: g.current(),
			Certificate: signed.Certificate, Authorities: signed.Authorities,
		}, nil
	})
}

// joiner is the record that a node asks for.
func joiner(r transport.JoinRequest) nexusraft.Member {
	return nexusraft.Member{
		Replica: nexusraft.ReplicaID(nexusraft.MintID()), Node: r.Peer.Node,
		Name: r.Peer.Name, Address: r.Peer.Address, Role: r.Role,
	}
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
	m, ok := zone.Outdated(g.replica, g.w.node.current)
	if !ok && g.id != nexusraft.RootZone {
		m, ok = zone.Follow(g.replica, g.w.node.membership(), func(n nexusraft.NodeID) nexusraft.ReplicaID {
			return system.ReplicaOf(g.id, n)
		})
	}
	if ok {
		g.change(m)
	}
}

// change proposes one record. A refusal (another change is under way) is no news: it is
// tried again, at most once in an election timeout, since each try costs a log entry.
func (g *group) change(m nexusraft.Member) {
	g.changing = true
	g.startConf(zone.ConfChange{Set: []nexusraft.Member{m}}, func() {
		g.changing, g.pause = false, g.w.node.config.ElectionTicks
	})
}

// current is the zone's records, with the addresses that the nodes have now.
func (g *group) current() nexusraft.Membership {
	members := g.replica.Membership()
	for _, x := range members.Members {
		members = members.With(g.w.node.current(x))
	}
	return members
}
