package lessor

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What a client knows of its lease.
type client struct {
	id, ttl int64

	mu    sync.Mutex
	asked time.Time // the last time that it asked for what was answered, the grant or a renewal
	gone  time.Time // of the state
}

// Whatever happens to leaders, no lease runs out before its TTL has passed since it was last renewed, by any answer,
// and each of them runs out in the end.
func TestNeverEarlyAndAllInTime(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playRandomly(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func playRandomly(t *testing.T, r *rand.Rand) {
	c := newCluster(t, 2)
	own := rand.New(rand.NewPCG(r.Uint64(), 2)) // under mu
	c.takes = func() time.Duration { return time.Duration(own.IntN(20)) * time.Millisecond }
	c.lose = func([]byte) error {
		if own.IntN(20) == 0 {
			return nexusraft.ErrUncertain
		}
		return nil
	}
	clients := make(map[int64]*client)
	c.hear = func(id int64, gone bool) {
		x := clients[id]
		x.mu.Lock()
		defer x.mu.Unlock()
		if !gone {
			return
		}
		x.gone = time.Now()
		if early := x.asked.Add(time.Duration(x.ttl) * time.Second).Sub(x.gone); early > 0 {
			t.Errorf("lease %d, TTL %d s, runs out %v early", id, x.ttl, early)
		}
	}
	c.lead(c.nodes[0])
	for id := int64(1); id <= 12; id++ {
		clients[id] = &client{id: id, ttl: 1 + int64(r.IntN(6)), asked: time.Now()}
		if id%4 == 0 {
			clients[id].ttl = 100 + int64(r.IntN(60)) // of which checkpoints are made
		}
	}
	for id := int64(1); id <= 12; id++ {
		_, err := c.nodes[0].lessor.Grant(t.Context(), 1, id, clients[id].ttl)
		if _, ok := c.lease(id); !ok {
			t.Fatalf("grant: %v", err)
		}
	}
	ends := time.Now().Add(4 * time.Minute)
	var playing sync.WaitGroup
	for id := int64(1); id <= 12; id++ {
		own := rand.New(rand.NewPCG(r.Uint64(), uint64(id)))
		playing.Go(func() { clients[id].renewUntil(c, ends, own) })
	}
	playing.Go(func() { trouble(c, ends, rand.New(rand.NewPCG(r.Uint64(), 0))) })
	playing.Wait()
	c.lead(c.nodes[1])
	time.Sleep(200 * time.Second) // more than any TTL
	for id, x := range clients {
		if _, ok := c.lease(id); ok {
			t.Errorf("lease %d, TTL %d s, is still there", id, x.ttl)
		}
	}
	if n := c.nodes[1].lessor.known(1); n > 0 {
		t.Errorf("%d leases are in memory, and none in the state", n)
	}
}

// known returns how many leases of a zone are known.
func (l *Lessor) known(zone nexusraft.ZoneID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.zones[zone]; x != nil {
		return len(x.leases.byID)
	}
	return 0
}

// renewUntil renews the lease now and then, through any node, for most of the time.
func (x *client) renewUntil(c *cluster, ends time.Time, r *rand.Rand) {
	ends = ends.Add(-time.Duration(r.IntN(100)) * time.Second)
	for time.Now().Before(ends) {
		time.Sleep(time.Duration(r.Int64N(int64(time.Duration(x.ttl) * time.Second))))
		asked := time.Now()
		ttl, err := c.nodes[r.IntN(len(c.nodes))].lessor.Renew(c.t.Context(), 1, x.id)
		if err != nil {
			continue
		}
		x.mu.Lock()
		switch gone := !x.gone.IsZero(); {
		case ttl == 0 && !gone:
			c.t.Errorf("lease %d is there, and its renewal was answered with 0", x.id)
		case ttl == 0:
			x.mu.Unlock()
			return
		case ttl != x.ttl:
			c.t.Errorf("lease %d: got a TTL of %d, want %d", x.id, ttl, x.ttl)
		case gone && x.gone.Before(asked.Add(time.Duration(ttl)*time.Second)):
			c.t.Errorf("lease %d was gone at %v, and a renewal of %v is answered with %d at %v", x.id, x.gone.Sub(c.began),
				asked.Sub(c.began), ttl, time.Since(c.began))
		default:
			x.asked = asked
		}
		x.mu.Unlock()
	}
}

// trouble changes leaders, leaves the zone without one, and has nodes stand still.
func trouble(c *cluster, ends time.Time, r *rand.Rand) {
	for time.Now().Before(ends) {
		n := c.nodes[r.IntN(len(c.nodes))]
		time.Sleep(time.Duration(r.IntN(8000)) * time.Millisecond)
		switch r.IntN(5) {
		case 0:
			c.lead(nil)
		case 1:
			n.stall(true)
			time.Sleep(time.Duration(r.IntN(5000)) * time.Millisecond)
		case 2:
			c.transfer(true)
			time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
			c.transfer(false)
		}
		n.stall(false)
		if r.IntN(3) > 0 || c.leads() == nil {
			c.lead(n)
		}
	}
}

func (c *cluster) leads() *fakeNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}
