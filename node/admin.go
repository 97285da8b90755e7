package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ChangeMembership makes one change of the zone's replicas, if this node leads it, and
// returns the zone's records once the change is in force and no joint configuration is left.
//
// Errors: ErrNotLeader. ErrRefused with the reason and the way out. ErrOverloaded: it is too
// early, ask again. ErrUncertain: the context ended first, or the leadership; the change may
// still be made.
func (z *Zone) ChangeMembership(ctx context.Context, c nexusraft.MembershipChange) (nexusraft.Membership, error) {
	return z.node.ChangeMembership(ctx, z.id, c)
}

// TransferLeader has another member lead the zone, if this node does: the node to, or if
// that is 0 the member that has most of the log. It returns who leads, once that does.
//
// Errors: ErrNotLeader. ErrRefused with the reason, also if the member did not take over in
// an election timeout and two seconds. ErrOverloaded: the member has not caught up, ask
// again. ErrUncertain: this node leads no more, and nobody else is known to.
func (z *Zone) TransferLeader(ctx context.Context, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	return z.node.TransferLeader(ctx, z.id, to)
}

// ChangeMembership implements transport.MemberHandler; see Zone.ChangeMembership.
func (n *Node) ChangeMembership(ctx context.Context, id nexusraft.ZoneID, c nexusraft.MembershipChange) (nexusraft.Membership, error) {
	p, err := ask(ctx, n, id, func(h *hosted) (*proposal, error) {
		change, err := h.replica.Plan(c)
		if err != nil {
			return nil, noLeader(err, h.hint())
		}
		h.logger.Info("membership change asked for", "change", c.String())
		return h.startConf(change, nil), nil
	})
	if err == nil {
		err = p.waitConf(ctx)
	}
	if err != nil {
		return nexusraft.Membership{}, fmt.Errorf("%v: %w", c, err)
	}
	return n.settledMembership(ctx, id, c)
}

// settledMembership waits until a change that is committed has left no joint configuration.
func (n *Node) settledMembership(ctx context.Context, id nexusraft.ZoneID, c nexusraft.MembershipChange) (members nexusraft.Membership, err error) {
	err = n.poll(ctx, func() (bool, error) {
		return ask(ctx, n, id, func(h *hosted) (bool, error) {
			members = h.current()
			return !h.replica.Joint(), nil
		})
	})
	if err != nil {
		return nexusraft.Membership{}, fmt.Errorf("%w: %v was committed and is not complete: %w", nexusraft.ErrUncertain, c, err)
	}
	return members, nil
}

// transferTimeout is how long, beyond an election timeout, a transfer may take.
const transferTimeout = 2 * time.Second

// TransferLeader implements transport.MemberHandler; see Zone.TransferLeader.
func (n *Node) TransferLeader(ctx context.Context, id nexusraft.ZoneID, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.electionTimeout()+transferTimeout)
	defer cancel()
	heir, err := ask(ctx, n, id, func(h *hosted) (nexusraft.Member, error) {
		replica, err := h.replica.PlanTransfer(to)
		m, _ := h.replica.Membership().Replica(replica)
		return m, noLeader(err, h.hint())
	})
	if err != nil {
		return 0, fmt.Errorf("transfer the leadership: %w", err)
	}
	var leader nexusraft.Member
	err = n.poll(ctx, func() (bool, error) {
		leader, err = ask(ctx, n, id, func(h *hosted) (nexusraft.Member, error) { return h.pass(heir.Replica) })
		return leader.Node == heir.Node || leader.Node != 0 && leader.Node != n.ID(), err
	})
	switch {
	case errors.Is(err, nexusraft.ErrRefused):
		return 0, err
	case err == nil && (to == 0 || leader.Node == to):
		return leader.Node, nil
	case err == nil:
		return 0, fmt.Errorf("%w: %v has taken over the leadership instead of %v; ask it", nexusraft.ErrRefused, leader, heir)
	case leader.Node == n.ID():
		return 0, fmt.Errorf("%w: %v did not take over the leadership in time; %v still leads", nexusraft.ErrRefused, heir, leader)
	}
	return 0, fmt.Errorf("%w: %v was asked to lead and nobody is known to: %w", nexusraft.ErrUncertain, heir, err)
}

// pass asks a member to lead, while this replica does, and returns who leads as far as is
// known.
//
// It may be called again and again: a member that has a conf change to apply ignores the
// request, and raft would not repeat it for an election timeout. A transfer to itself ends
// the old one.
func (h *hosted) pass(to nexusraft.ReplicaID) (nexusraft.Member, error) {
	leader, self := h.replica.Leader()
	m, _ := h.replica.Membership().Replica(leader)
	if !self || to == h.self {
		return m, nil
	}
	err := h.replica.TransferLeader(h.self)
	if err == nil {
		err = h.replica.TransferLeader(to)
	}
	if errors.Is(err, nexusraft.ErrNotLeader) { // no more, in this very round
		err = nil
	}
	return m, err
}

// poll runs f, once a tick, until it returns true or an error, or the context ends.
func (n *Node) poll(ctx context.Context, f func() (bool, error)) error {
	ticker := time.NewTicker(n.config.TickInterval)
	defer ticker.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// current is the zone's records, with the addresses that the nodes have now.
func (h *hosted) current() nexusraft.Membership {
	members := h.replica.Membership()
	for _, x := range members.Members {
		members = members.With(h.w.node.current(x))
	}
	return members
}
