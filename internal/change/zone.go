package change

import (
	"context"
	"log/slog"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Handle is a zone where its replica is used: on its worker. It is void when the function that got it
// returns.
type Handle interface {
	Replica() *zone.Replica

	// Current returns the zone's records, with the addresses that the nodes have now.
	Current() nexusraft.Membership

	// Hinted returns err, or if that is ErrNotLeader, an error that says whom to ask.
	Hinted(err error) error

	// Leaderless returns nil while the zone has a leader as far as is known here, and else why not.
	Leaderless() error

	// Propose proposes a change. wait, which may be called anywhere, returns when it has ended.
	Propose(c zone.ConfChange) (wait func(context.Context) error)
}

// Zone is a zone of a node. Its methods may be called from many goroutines.
type Zone interface {
	// Use runs f with the zone and returns its error, or why the zone can't be used.
	Use(ctx context.Context, f func(Handle) error) error

	// UsePermitted is Use for what only a leader does, and only if the client of ctx may have it done.
	UsePermitted(ctx context.Context, f func(Handle) error) error
}

// Changer makes changes of one zone. Its methods may be called from many goroutines.
type Changer struct {
	Zone            Zone
	Node            nexusraft.NodeID // this one
	TickInterval    time.Duration    // how often it is looked at how far a change is
	ElectionTicks   int
	ElectionTimeout time.Duration
	Logger          *slog.Logger // with the zone

	// Current returns a record with the address that its node has now. It does not block.
	Current func(nexusraft.Member) nexusraft.Member

	// Status asks another node of a zone.
	Status func(context.Context, nexusraft.NodeID, nexusraft.ZoneID) (nexusraft.NodeStatus, error)
}

// poll runs f, once a tick, until it returns true or an error, or the context ends.
func (x Changer) poll(ctx context.Context, f func() (bool, error)) error {
	ticker := time.NewTicker(x.TickInterval)
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
