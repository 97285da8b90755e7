package worker

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/driver"
)

// Raisable is a zone that this node leads, and whose state machine's version its program would raise.
type Raisable struct {
	Zone     nexusraft.ZoneID
	Machine  string             // the state machine's name, "" of the root zone's
	Now, May uint32             // the zone's version, and what this program knows
	Members  []nexusraft.Member // the other nodes with a copy of the state
}

// Raisable returns the zones of which Raisable speaks; none once the workers have ended.
func (x *Workers) Raisable(ctx context.Context) (all []Raisable, err error) {
	for _, w := range x.workers {
		some, err := driver.Ask(ctx, w.inbox, func(err error) []Raisable {
			if err != nil { // raft may have panicked
				return nil
			}
			return w.raisable()
		})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func (w *worker) raisable() (all []Raisable) {
	for id, g := range w.zones {
		known := apply.VersionOf(g.configured)
		if known <= g.machine.Version || !g.replica.TermApplied() {
			continue
		}
		z := Raisable{Zone: id, Machine: g.kind, Now: g.machine.Version, May: known}
		for _, m := range g.replica.Membership().Members {
			if m.Role != nexusraft.RoleWitness && m.Node != w.o.Peering.Self().Node {
				z.Members = append(z.Members, m)
			}
		}
		all = append(all, z)
	}
	return all
}
