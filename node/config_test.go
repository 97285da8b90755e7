package node

import (
	"runtime"
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

// The default leaves cores to what is beside the workers.
func TestWorkersAreChecked(t *testing.T) {
	for n, good := range map[int]bool{-1: false, 0: true, 1: true, maxWorkers: true, maxWorkers + 1: false} {
		c, err := Config{Dir: "x", StateMachine: nothing{}, Workers: n}.withDefaults()
		if (err == nil) != good {
			t.Errorf("%d: got %v, want it good=%t", n, err, good)
		}
		if cores := runtime.GOMAXPROCS(0); n == 0 && c.Workers != min(max(cores/2, 1), 8) {
			t.Errorf("on %d cores the default is %d", cores, c.Workers)
		}
	}
}
