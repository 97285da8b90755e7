package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nexi-lab/nexus-raft/client"
)

// publish appends an event and returns its sequence.
func (c *trio) publish(t *testing.T, topic string) string {
	t.Helper()
	var stdout string
	eventually(t, topic+" is published", func() bool { // where the outcome is not known once more does no harm
		var code int
		var stderr string
		code, stdout, stderr = command(t, "publish", topic, "made", "--endpoints", c.endpoints())
		if code != exitOK && !strings.Contains(stderr, "outcome unknown") {
			t.Fatalf("publish: status %d, %s", code, stderr)
		}
		return code == exitOK
	})
	return strings.TrimSpace(strings.TrimPrefix(stdout, "sequence "))
}

// Whoever follows a zone's events through a member that is killed goes on through the other
// one, and back, and every key that was put is among them, once and in order.
func TestEventsSurviveKills(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	begin := c.publish(t, "app/begin")
	follower := launch(t, "events", "--endpoints", c.endpoints(), "--topic", "key,app", "--from", begin, "--json")
	put := func(key string) {
		t.Helper()
		c.put(t, key, "v")
		follower.says(t, `"key":"`+key+`"`)
	}
	put("before")
	c.n1.kill(t)
	put("without n1")
	c.n1 = c.serve1(t)
	c.awaitSync(t)
	c.n2.kill(t)
	put("without n2")
	c.n2 = c.serve2(t)
	c.awaitSync(t)
	c.publish(t, "app/end")
	follower.says(t, `"topic":"app/end"`)
	follower.stop(t)
	var keys []string
	last := uint64(0)
	for line := range strings.Lines(follower.out.String()) {
		var e eventObject
		if json.Unmarshal([]byte(line), &e) != nil {
			continue // of standard error
		}
		if e.Sequence <= last {
			t.Errorf("event %d after event %d", e.Sequence, last)
		}
		last = e.Sequence
		if e.Topic == client.KeyTopic {
			keys = append(keys, *e.Pair.Key)
		}
	}
	if got, want := strings.Join(keys, ", "), "before, without n1, without n2"; got != want {
		t.Errorf("got events of keys %s, want %s", got, want)
	}
}
