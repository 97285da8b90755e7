package change

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// What a function that is given to Use assigns is looked at only if Use has returned nil: where the context
// ends first, the function may still be running.

// Membership is node.Zone.ChangeMembership.
func (x Changer) Membership(ctx context.Context, c nexusraft.MembershipChange) (nexusraft.Membership, error) {
	var wait func(context.Context) error
	err := x.Zone.UsePermitted(ctx, func(h Handle) error {
		change, err := zone.Plan(h.Replica(), c)
		if err != nil {
			return h.Hinted(err)
		}
		x.Logger.Info("membership change asked for", "change", c.String(), "by", authz.RequesterName(ctx))
		wait = h.Propose(change)
		return nil
	})
	if err == nil {
		err = wait(ctx)
	}
	if err != nil {
		return nexusraft.Membership{}, fmt.Errorf("%v: %w", c, err)
	}
	return x.settled(ctx, c)
}

// settled waits until a change that is committed has left no joint configuration.
func (x Changer) settled(ctx context.Context, c nexusraft.MembershipChange) (nexusraft.Membership, error) {
	var members nexusraft.Membership
	err := x.poll(ctx, func() (bool, error) {
		joint := true
		err := x.Zone.Use(ctx, func(h Handle) error {
			members, joint = h.Current(), h.Replica().Joint()
			return h.Leaderless()
		})
		return err == nil && !joint, err
	})
	if err != nil {
		return nexusraft.Membership{}, fmt.Errorf("%w: %v was committed and is not complete: %w", nexusraft.ErrUncertain, c,
			err)
	}
	return members, nil
}
