package main

import (
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
)

// TestElectionTimeoutForLongPaths: a round trip takes 400 ms, longer than the usual election
// timeout. With a longer one the zone gets in sync, and goes on when its leader dies.
func TestElectionTimeoutForLongPaths(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	for _, p := range []*process{c.w1, c.n2, c.n1} {
		p.stop(t)
	}
	far := func(serves string) (flags []string) {
		p, err := netfault.New(serves)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		p.Delay(200 * time.Millisecond) // each way
		return []string{"--advertise", p.Addr(), "--election-timeout", "1s"}
	}
	c.n1, c.n2, c.w1 = c.serve1(t, far(c.a1)...), c.serve2(t, far(c.a2)...), c.witness(t, far(c.aw)...)
	c.awaitSync(t)
	c.put(t, "far", "1")
	c.wants(t, "far", "1")
	if z := statusOf(t, c.a1).Zones; len(z) == 1 && z[0].State == nexusraft.Leader {
		c.n1.kill(t)
	} else {
		c.n2.kill(t)
	}
	eventually(t, "writes go on", func() bool { // one that was passed on to the dead leader has an unknown outcome
		status, _, _ := command(t, "put", "far", "2", "--endpoints", c.endpoints(), "--timeout", "20s")
		return status == exitOK
	})
}
