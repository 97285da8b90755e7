package worker

import (
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// TestLeases: off by default, shorter than the promise of voters, and only with nodes that have said that they keep it.
func TestLeases(t *testing.T) {
	w := newIdleWorker(t, false)
	if c := w.leases(); c.Length != 0 {
		t.Errorf("by default a lease lasts %v", c.Length)
	}
	w.o.MaxClockDrift = 0.25
	c := w.leases()
	if want := time.Duration(float64(3*testTick) / 1.25); c.Length != want {
		t.Errorf("of %d ticks of %v: got %v, want %v", w.o.ElectionTicks, testTick, c.Length, want)
	}
	self := w.o.Peering.Self()
	for minor := range uint32(8) {
		node := nexusraft.NodeID(100 + minor)
		if c.Keeps(node) {
			t.Errorf("node %v keeps the promise, and has said nothing", node)
		}
		err := w.o.Peering.Hello(transport.Identity{
			Cluster: self.Cluster, Node: node, Incarnation: 1, Boot: 1, Name: "x", Address: "127.0.0.1:1", Minor: minor,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Keeps(node); got != (minor >= 5) {
			t.Errorf("a node that speaks version %d keeps the promise: %t", minor, got)
		}
	}
	if !c.Keeps(self.Node) {
		t.Error("this node does not keep the promise")
	}
}
