package worker

import (
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
)

// promiseVersion is the version of the protocol whose nodes, witnesses too, keep the promise of voters.
const promiseVersion = 5

// leases says for how long leaders among the zones may read alone.
func (w *worker) leases() driver.LeaseConfig {
	if w.o.MaxClockDrift == 0 {
		return driver.LeaseConfig{}
	}
	return driver.LeaseConfig{
		Length: driver.LeaseLength(w.o.ElectionTicks, w.o.TickInterval, w.o.MaxClockDrift),
		Clock:  time.Now, // Options.Clock tells the time of day
		Keeps: func(node nexusraft.NodeID) bool {
			minor, said := w.o.Peering.Minor(node)
			return said && minor >= promiseVersion
		},
	}
}
