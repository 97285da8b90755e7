package change

import (
	"context"
	"errors"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// HandOver has the member that has most of the log lead, if this node does and there is another one, and
// waits until it does. If the context ends before, the log says so.
func (x Changer) HandOver(ctx context.Context) {
	err := x.poll(ctx, func() (bool, error) {
		var asked bool // looked at only if Use has returned nil
		err := x.Zone.Use(ctx, func(h Handle) error {
			asked = x.handOver(h.Replica())
			return nil
		})
		if errors.Is(err, nexusraft.ErrOverloaded) {
			return false, nil
		}
		return err != nil || !asked, err
	})
	if err != nil && ctx.Err() != nil {
		x.Logger.Warn("stopping without another leader")
	}
}

// handOver asks the best member to lead. It reports whether this replica still leads and there is another one.
func (x Changer) handOver(r *zone.Replica) bool {
	best, ok := zone.Transferee(r)
	if !ok {
		return false
	}
	if _, err := Pass(r, best.Replica); err != nil {
		x.Logger.Warn("leadership not handed over", "peer", best.Node, "err", err)
		return false
	}
	return true
}
