package node

import (
	"testing"

	"github.com/nexi-lab/nexus-raft/transport"
)

func TestSnapshotBandwidthIsChecked(t *testing.T) {
	for limit, good := range map[int]bool{-1: false, 0: true, 1: false, transport.MinSnapshotBandwidth: true} {
		c := Config{Dir: "x", StateMachine: nothing{}, SnapshotBandwidth: limit}
		if _, err := c.withDefaults(); (err == nil) != good {
			t.Errorf("%d: got %v, want it good=%t", limit, err, good)
		}
	}
}
