package change

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// transferTimeout is how long, beyond an election timeout, may pass until it is known who leads.
const transferTimeout = 2 * time.Second

// TransferLeader is node.Zone.TransferLeader.
func (x Changer) TransferLeader(ctx context.Context, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	ctx, cancel := context.WithTimeout(ctx, x.ElectionTimeout+transferTimeout)
	defer cancel()
	var transferee nexusraft.Member
	err := x.Zone.UsePermitted(ctx, func(h Handle) error {
		replica, err := zone.PlanTransfer(h.Replica(), to)
		if err != nil {
			return h.Hinted(err)
		}
		transferee, _ = h.Replica().Membership().Replica(replica)
		x.Logger.Info("transfer of the leadership asked for", "peer", transferee.Node, "by", authz.RequesterName(ctx))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("transfer the leadership: %w", err)
	}
	leader, failed, err := x.awaitTransfer(ctx, transferee)
	switch {
	case errors.Is(err, nexusraft.ErrRefused):
		return 0, err
	case failed && err == nil, err != nil && leader.Node == x.Node:
		return 0, fmt.Errorf("%w: %v did not take over the leadership in time; %v still leads", nexusraft.ErrRefused,
			transferee, leader)
	case err == nil && (to == 0 || leader.Node == to):
		return leader.Node, nil
	case err == nil:
		return 0, fmt.Errorf("%w: %v has taken over the leadership instead of %v; ask it", nexusraft.ErrRefused, leader,
			transferee)
	}
	return 0, fmt.Errorf("%w: %v was asked to lead and nobody is known to: %w", nexusraft.ErrUncertain, transferee, err)
}

// awaitTransfer asks a member to lead, for an election timeout, until another node than this one leads: it
// returns that, or failed and this node's own replica. With an error it
// returns the leader if one is still known.
func (x Changer) awaitTransfer(
	ctx context.Context, to nexusraft.Member,
) (leader nexusraft.Member, failed bool, err error) {
	times := x.ElectionTicks
	err = x.poll(ctx, func() (bool, error) {
		replica := to.Replica
		if times--; times < 0 {
			replica = 0
		}
		var now nexusraft.Member
		err := x.Zone.Use(ctx, func(h Handle) (err error) {
			now, err = Pass(h.Replica(), replica)
			return err
		})
		if err != nil {
			leader = nexusraft.Member{}
			return false, err
		}
		leader, failed = now, replica == 0 && now.Node == x.Node
		return failed || leader.Node == to.Node || leader.Node != 0 && leader.Node != x.Node, nil
	})
	return leader, failed, err
}

// Pass asks a member to lead, while this replica does, and returns who leads as far as is
// known. With 0 it ends what was asked before, and the zone takes writes again.
//
// It may be called again and again: a member that has a conf change to apply ignores the
// request, and raft would not repeat it for an election timeout. A transfer to itself ends
// the old one, so that raft's own limit of an election timeout begins anew: the caller has to
// keep to it.
func Pass(r *zone.Replica, to nexusraft.ReplicaID) (nexusraft.Member, error) {
	leader, self := r.Leader()
	m, _ := r.Membership().Replica(leader)
	if !self || to == leader {
		return m, nil
	}
	err := zone.TransferLeader(r, leader)
	if err == nil && to != 0 {
		err = zone.TransferLeader(r, to)
	}
	if errors.Is(err, nexusraft.ErrNotLeader) { // no more, in this very round
		err = nil
	}
	return m, err
}
