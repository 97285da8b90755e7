package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nexi-lab/nexus-raft/node"
)

// failures notes when a node says that a snapshot failed, besides logging it.
type failures struct {
	slog.Handler
	mu *sync.Mutex // guards at
	at *[]time.Time
}

func (f failures) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "snapshot failed" {
		f.mu.Lock()
		*f.at = append(*f.at, r.Time)
		f.mu.Unlock()
	}
	return f.Handler.Handle(ctx, r)
}

func (f failures) WithAttrs(attrs []slog.Attr) slog.Handler {
	f.Handler = f.Handler.WithAttrs(attrs)
	return f
}

// A follower that refuses a snapshot is not asked again at each heartbeat. The election timeout is long: a new
// leader would begin with an append, of which a full follower does not answer that it has a gap.
func TestRefusedSnapshotIsPaced(t *testing.T) {
	var mu sync.Mutex
	var at []time.Time
	c := newCluster(t, func(config *node.Config) {
		config.CompactEntries = 20
		config.ElectionTicks = 50
		config.Logger = slog.New(failures{config.Logger.Handler(), &mu, &at})
	})
	leader := c.awaitSync()
	c.other(leader).setFree(0)
	leader.awaitCopies(1)
	for i := range 50 {
		leader.put("k", fmt.Sprint(i))
	}
	var first, second time.Time
	eventually(t, "the snapshot is refused twice", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(at) < 2 {
			return fmt.Errorf("%d times", len(at))
		}
		first, second = at[0], at[1]
		return nil
	})
	election := time.Duration(leader.config.ElectionTicks) * leader.config.TickInterval
	if got := second.Sub(first); got < 2*election {
		t.Errorf("asked again within %v, want two election timeouts of %v", got, election)
	}
}
