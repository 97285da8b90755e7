package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whoever watches keys through a member that is killed goes on through the other one, and back, and has every change
// once and in order.
func TestWatchSurvivesKills(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k/first", "v")
	watcher := launch(t, "watch", "k/", "--endpoints", c.endpoints(), "--rev", "2", "--json")
	put := func(key string) {
		t.Helper()
		c.put(t, "k/"+key, "v")
		watcher.says(t, `"key":"k/`+key+`"`)
	}
	watcher.says(t, `"key":"k/first"`)
	c.n1.kill(t) // the watcher is connected to it: it comes first
	put("without n1")
	c.n1 = c.serve1(t)
	c.awaitSync(t)
	c.n2.kill(t)
	put("without n2")
	c.n2 = c.serve2(t)
	c.awaitSync(t)
	put("last")
	watcher.stop(t)
	var keys []string
	revision := uint64(0)
	for line := range strings.Lines(watcher.out.String()) {
		var o changeOut
		if json.Unmarshal([]byte(line), &o) != nil {
			continue // of standard error
		}
		if uint64(o.Revision) <= revision {
			t.Errorf("revision %d after revision %d", o.Revision, revision)
		}
		revision = uint64(o.Revision)
		keys = append(keys, *o.Pair.Key)
	}
	if got, want := strings.Join(keys, ", "), "k/first, k/without n1, k/without n2, k/last"; got != want {
		t.Errorf("got changes of %s, want %s", got, want)
	}
}
