package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
	"github.com/nexi-lab/nexus-raft/node"
)

// paths puts a path before each node. Connections that are there do not go by it.
func (c *cluster) paths() (paths []*netfault.Proxy) {
	for _, name := range []string{"n1", "n2", "w"} {
		d := c.door(name)
		c.network.mu.Lock()
		target := d.target
		c.network.mu.Unlock()
		p, err := netfault.New(target)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(p.Close)
		c.lead(name, p.Addr())
		paths = append(paths, p)
	}
	return paths
}

// redial has all connections made anew.
func (c *cluster) redial() {
	for _, name := range []string{"n1", "n2", "w"} {
		c.isolate(name, broken)
	}
	c.heal()
}

// far puts a path of a length that can be set before each node.
func (c *cluster) far() (setOneWay func(time.Duration)) {
	paths := c.paths()
	return func(oneWay time.Duration) {
		for _, p := range paths {
			p.Delay(oneWay)
		}
		c.redial()
	}
}

// slowDisks is a cluster whose members' disks take a time for each sync that can be set.
func slowDisks(t *testing.T) (*cluster, *atomic.Int64) {
	var perSync atomic.Int64
	c := newCluster(t, func(config *node.Config) {
		config.Storage.FS = errorfs.Wrap(config.Storage.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
				time.Sleep(time.Duration(perSync.Load()))
			}
			return nil
		}))
	})
	t.Cleanup(func() { perSync.Store(0) })
	return c, &perSync
}

// readBoth reads once by leader and by follower, linearizably.
func (c *cluster) readBoth(what string) {
	c.t.Helper()
	leader := c.awaitSync()
	for _, m := range []*member{leader, c.other(leader)} {
		z := m.zone()
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		began := time.Now()
		err := z.Read(ctx, func(nexusraft.Reader) error { return nil })
		for errors.Is(err, nexusraft.ErrNoQuorum) && ctx.Err() == nil { // a slow machine elects anew
			err = z.Read(ctx, func(nexusraft.Reader) error { return nil })
		}
		cancel()
		c.t.Logf("%s: a read by %s took %.1f ticks", what, m.config.Name,
			float64(time.Since(began))/float64(m.config.TickInterval))
		if err != nil {
			c.t.Errorf("%s: a read by %s: %v", what, m.config.Name, err)
		}
	}
}

// TestReadsOverALongPath: round trips of 2, 4 and 6 ticks are those of 100, 200 and 300 ms with
// the default tick. The answer to a follower's read takes two of them, longer than the time
// after which it is asked for again.
func TestReadsOverALongPath(t *testing.T) {
	c := newCluster(t, func(config *node.Config) { config.ElectionTicks = 20 })
	setOneWay := c.far()
	for _, ticks := range []time.Duration{2, 4, 6} {
		setOneWay(ticks * c.named("n1").config.TickInterval / 2)
		c.readBoth(fmt.Sprintf("a round trip of %d ticks", ticks))
	}
}

// TestReadsOverSlowDisks: a sync takes up to an election timeout.
func TestReadsOverSlowDisks(t *testing.T) {
	c, perSync := slowDisks(t)
	h := c.write(2)
	for _, elections := range []float64{0.3, 0.9} {
		config := c.named("n1").config
		perSync.Store(int64(elections * float64(config.ElectionTicks) * float64(config.TickInterval)))
		h.more(t, 5)
		c.readBoth(fmt.Sprintf("syncs of %.1f election timeouts", elections))
	}
	perSync.Store(0)
	c.verify(h)
}
