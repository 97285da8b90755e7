package node

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
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
	if err := n.movable(id, c); err != nil {
		return nexusraft.Membership{}, fmt.Errorf("%v: %w", c, err)
	}
	if leaves := cmp.Or(c.Remove, c.Replace); id == nexusraft.RootZone && leaves != 0 {
		if in := n.replicas.ZonesWith(leaves); len(in) > 0 {
			return nexusraft.Membership{}, fmt.Errorf("%v: %w: node %v has replicas of %d other zones, of zone %v for example, "+
				"and leaves the root zone last; nexus-raft member remove and replace make the change in each zone, if no --zone "+
				"is given", c, nexusraft.ErrRefused, leaves, len(in), slices.Min(in))
		}
	}
	return n.workers.Changer(id).Membership(ctx, c)
}

// movable refuses a change that the root zone's records of zones with shapes stand against.
func (n *Node) movable(id nexusraft.ZoneID, c nexusraft.MembershipChange) error {
	leaves := cmp.Or(c.Remove, c.Replace)
	return n.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		if id != nexusraft.RootZone {
			z, err := system.FindZone(r, id)
			if err == nil && z.GetShape() != nil {
				err = fmt.Errorf("%w: zone %q has the shape %v, and its replicas follow that; nexus-raft zone reshape changes it",
					nexusraft.ErrRefused, z.GetName(), wire.ShapeFromProto(z.GetShape()))
			}
			return err
		}
		if leaves == 0 {
			return nil
		}
		all, err := system.Zones(r, nexusraft.RootZone, math.MaxInt)
		for _, z := range all {
			if _, _, on := system.HostedBy(z, leaves); on && z.GetShape() != nil {
				return fmt.Errorf("%w: zone %q has a replica on node %v, which leaves the root zone last: nexus-raft zone "+
					"reshape %s --off %v; nexus-raft member remove and replace do it, if no --zone is given",
					nexusraft.ErrRefused, z.GetName(), leaves, z.GetName(), leaves)
			}
		}
		return err
	})
}

// TransferLeader has another member lead the zone, if this node does: the node to, or if
// that is 0 the member that has most of the log. It returns who leads, once that does. Meanwhile
// the zone takes no writes, for one election timeout at most.
//
// Errors: ErrNotLeader. ErrRefused with the reason, also if the member did not take over in
// an election timeout. ErrOverloaded: the member has not caught up, ask
// again. ErrUncertain: this node leads no more, and nobody else is known to.
func (z *Zone) TransferLeader(ctx context.Context, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	return z.node.workers.Changer(z.id).TransferLeader(ctx, to)
}

// Join implements transport.MemberHandler: the root zone's leader admits a node. Asked
// again by the same node it answers as before.
func (n handler) Join(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	if err := n.authority.Admit(ctx, r); err != nil {
		return transport.JoinResult{}, err
	}
	m, err := n.workers.Changer(nexusraft.RootZone).Admit(ctx, joiner(r))
	if err != nil {
		return transport.JoinResult{}, err
	}
	var signed transport.Renewal
	if r.CertificateRequest != nil {
		if signed, err = n.authority.Sign(r.CertificateRequest, r.Peer.Node, m.Role); err != nil {
			return transport.JoinResult{}, err
		}
	}
	members, err := n.workers.Membership(ctx, nexusraft.RootZone)
	if err != nil {
		return transport.JoinResult{}, err
	}
	return transport.JoinResult{
		Cluster: n.self().Cluster, Zone: nexusraft.RootZone, Replica: m.Replica, Membership: members,
		Certificate: signed.Certificate, Authorities: signed.Authorities,
	}, nil
}

// joiner is the record that a node asks for.
func joiner(r transport.JoinRequest) nexusraft.Member {
	return nexusraft.Member{
		Replica: nexusraft.ReplicaID(nexusraft.MintID()), Node: r.Peer.Node,
		Name: r.Peer.Name, Address: r.Peer.Address, Role: r.Role,
	}
}
