package compactor

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// DefaultPeriod is how long history is kept where nothing else is said.
const DefaultPeriod = time.Hour

// lookRest is the least time between two looks at which zones have changed.
const lookRest = 250 * time.Millisecond

// Options say what of each zone's history is kept. Of the newest revision everything is.
type Options struct {
	// Period is how long a revision that is not the newest one any more can still be read: 1 h; below 0: until
	// somebody compacts. It is measured by this process's monotonic clock. A node that begins to lead a zone does not
	// know how old that one's revisions are, and takes them for new.
	Period time.Duration

	// Revisions, if over 0, is how many revisions before the newest one can be read, and Period does not count. What
	// is beyond them is compacted every 5 minutes.
	Revisions int64

	Logger *slog.Logger // discards by default
}

func (o Options) policy() policy {
	return policy{period: max(0, cmp.Or(o.Period, DefaultPeriod)), revisions: max(0, o.Revisions)}
}

// Run compacts and sweeps the zones that n leads and whose state machine is kv.StateMachine, until ctx or the node
// ends. It is to be called once for each node, beside node.Node.Run. Where it does not run, nothing is lost, but the
// history of what that node leads stays.
func Run(ctx context.Context, n *node.Node, o Options) {
	ctx, cancel := context.WithCancel(ctx)
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	changed := make(chan []zone)
	go func() {
		defer close(changed)
		watch(ctx, n, changed)
	}()
	newCompactor(o.policy(), logger).run(ctx, changed)
	cancel()
	for range changed { // until it is closed
	}
}

// watch tells of the zones that have changed, until ctx or the node ends.
func watch(ctx context.Context, n *node.Node, changed chan<- []zone) {
	n.FollowLedZones(ctx, lookRest, func(led []node.LedZone) {
		var zones []zone
		for _, z := range led {
			if _, ok := z.Zone.Machine().(kv.StateMachine); ok {
				zones = append(zones, ledZone{z})
			}
		}
		select {
		case changed <- zones:
		case <-ctx.Done():
		}
	})
}

// ledZone is a node's.
type ledZone struct{ node.LedZone }

// ID implements zone.
func (z ledZone) ID() nexusraft.ZoneID { return z.Zone.ID() }

// Version implements zone.
func (z ledZone) Version() uint32 { return z.MachineVersion }

// Read implements zone.
func (z ledZone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return z.Zone.ReadLocal(ctx, fn)
}
