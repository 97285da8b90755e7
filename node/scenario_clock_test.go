package node_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/nexi-lab/nexus-raft/node"
)

// zoneTime is the time of the last command, as the state machine saw it.
func zoneTime(t *testing.T, m *member) time.Time {
	t.Helper()
	b := []byte(m.get("time"))
	if len(b) != 8 {
		t.Fatalf("the time of the last command has %d bytes", len(b))
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b)))
}

// A member whose clock is an hour ahead leads, and then one whose clock is right: the
// zone's time never goes back, and writes and reads go on.
func TestClockAnHourAhead(t *testing.T) {
	c := newCluster(t, func(config *node.Config) {
		if config.Name == "n1" {
			config.Clock = func() time.Time { return time.Now().Add(time.Hour) }
		}
	})
	n1, n2 := c.transfer("n1"), c.named("n2")
	before := time.Now()
	n1.put("a", "1")
	ahead := zoneTime(t, n1)
	if ahead.Before(before.Add(time.Hour)) {
		t.Fatalf("the zone's time is %v at %v, want the leader's, an hour ahead", ahead, before)
	}
	c.transfer("n2")
	n2.put("b", "2")
	if after := zoneTime(t, n2); !after.Equal(ahead) {
		t.Errorf("under a leader whose clock is right the zone's time is %v, want it to stand at %v", after, ahead)
	}
	for _, m := range []*member{n1, n2} {
		if a, b := m.get("a"), m.get("b"); a != "1" || b != "2" {
			t.Errorf("%s has a = %q and b = %q, want 1 and 2", m.config.Name, a, b)
		}
	}
}
