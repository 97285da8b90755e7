package main

import (
	"encoding/json"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestZoneShowsWhatItStaysOff(t *testing.T) {
	z := nexusraft.ZoneInfo{ZonePlan: nexusraft.ZonePlan{Shape: nexusraft.Shape{Members: 1}}, Off: []nexusraft.NodeID{9}}
	if got := describePlacement(z); !strings.Contains(got, "it stays off node 0000000000000009") {
		t.Errorf("got %q", got)
	}
}

// A zone's shapes, with real programs: two members and a witness.
func TestZoneIsReshapedByCommands(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	ask := func(args ...string) (status int, stdout, stderr string) {
		t.Helper()
		return command(t, append(args, "--endpoints", c.endpoints(), "--timeout", "20s")...)
	}
	must := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := ask(args...)
		if status != exitOK {
			t.Fatalf("%q: status %d, %s", args, status, stderr)
		}
		return stdout
	}
	show := func() (zone nexusraft.ZoneInfo) {
		t.Helper()
		if err := json.Unmarshal([]byte(must("zone", "show", "orders", "--json")), &zone); err != nil {
			t.Fatal(err)
		}
		return zone
	}
	must("zone", "create", "orders", "--members", "2", "--witnesses", "1")
	must("put", "k", "v", "--zone", "orders")
	if z := show(); z.Shape != nexusraft.DefaultShape || len(z.Placement) != 3 || z.Moving {
		t.Errorf("created: got %+v", z)
	}
	must("zone", "reshape", "orders", "--members", "1", "--prefer", "n2", "--wait")
	if z := show(); len(z.Placement) != 1 || z.Placement[0].Name != "n2" || z.Moving {
		t.Errorf("reshaped to n2 alone: got %+v", z)
	}
	if got := must("get", "k", "--zone", "orders"); got != "v\n" {
		t.Errorf("get: got %q", got)
	}
	if out := must("zone", "list"); !strings.Contains(out, "SHAPE") || !strings.Contains(out, "  1\n") {
		t.Errorf("list: got %s", out)
	}
	must("zone", "reshape", "orders", "--members", "2", "--witnesses", "1", "--any-leads", "--wait")
	out := must("zone", "show", "orders")
	if !strings.Contains(out, "shape 2+1: ") || strings.Contains(out, "is to lead") {
		t.Errorf("show: got %s", out)
	}
	must("zone", "balance", "--dry-run")
	for args, says := range map[string]string{
		"reshape orders --members 3":                "needs 3 nodes that hold data, and the cluster has 2",
		"reshape orders --members 2":                "1, 2+1, 3, 4+1 or 5",
		"reshape orders --with n1":                  "which node takes the place of the one that --off names",
		"reshape orders --off n2 --with n2":         "can't take its own place",
		"reshape orders --members=-1":               "1, 2+1, 3, 4+1 or 5",
		"reshape orders --members 0":                "can't have a replica on each node again",
		"reshape orders --witnesses 2":              "would be witnesses",
		"reshape orders --off n1":                   "more than half must",
		"reshape orders --off nobody":               "no node of the zone has the name",
		"reshape orders --off n1 --members 1":       "--off keeps",
		"reshape orders":                            "say what is to change",
		"reshape orders --prefer n1 --any-leads":    "can't be used together",
		"reshape root --members 1":                  "the root zone is on all nodes",
		"reshape no-such --members 1":               "there is no zone no-such",
		"create fresh --members 2":                  "1, 2+1, 3, 4+1 or 5",
		"create fresh --spare":                      "has no spare",
		"create fresh --members 1 --prefer nobody":  "no node of the zone has the name",
		"create fresh --members 1 --prefer witness": "no node",
	} {
		if status, _, stderr := ask(append([]string{"zone"}, strings.Fields(args)...)...); status == exitOK ||
			!strings.Contains(stderr, says) {
			t.Errorf("zone %s: got status %d, %s; want it to say %q", args, status, stderr, says)
		}
	}
}
