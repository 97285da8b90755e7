package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A zone from its creation to its deletion, with real programs: two members and a witness.
func TestZoneFromCreationToDeletion(t *testing.T) {
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
	create := func() (zone nexusraft.ZoneInfo) {
		t.Helper()
		out := must("zone", "create", "orders", "--machine", "kv", "--json")
		if err := json.Unmarshal([]byte(out), &zone); err != nil || zone.ID <= nexusraft.RootZone || zone.Name != "orders" {
			t.Fatalf("create: got %s, %v", out, err)
		}
		return zone
	}
	c.put(t, "k", "in the root zone")
	zone := create()
	if again := create(); !reflect.DeepEqual(again, zone) {
		t.Errorf("the same zone again: got %+v, want %+v", again, zone)
	}
	if status, _, stderr := ask("zone", "create", "orders", "--machine", "queue"); status != exitFailed {
		t.Errorf("with another state machine: got status %d, %s", status, stderr)
	}
	must("put", "k", "in orders", "--zone", "orders")
	for args, want := range map[string]string{
		"get k":                            "in the root zone\n",
		"get k --zone orders":              "in orders\n",
		"get k --zone " + zone.ID.String(): "in orders\n",
		"list --zone orders":               "k\tin orders\n",
		"zone list --json":                 must("zone", "create", "orders", "--json"),
	} {
		if got := must(strings.Fields(args)...); got != want {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
	eventually(t, "the zone can lose any one node", func() bool {
		status, stdout, _ := ask("status", "--zone", "orders", "--check")
		return status == exitOK && strings.HasPrefix(stdout, "zone orders ("+zone.ID.String()+") of cluster") &&
			strings.Contains(stdout, "can lose any one of n1, n2, w1")
	})
	eventually(t, "each node sees the zone", func() bool {
		var shown struct{ Nodes []zoneView }
		err := json.Unmarshal([]byte(must("zone", "show", "orders", "--json")), &shown)
		led := 0
		for _, v := range shown.Nodes {
			if v.Status != nil && v.Status.Leader != 0 {
				led++
			}
		}
		return err == nil && led == 3
	})

	must("zone", "delete", "orders", "--yes")
	if status, _, stderr := ask("get", "k", "--zone", "orders"); status != exitFailed ||
		!strings.Contains(stderr, "there is no zone orders; nexus-raft zone list") {
		t.Errorf("get in the deleted zone: got status %d, %q", status, stderr)
	}
	eventually(t, "the members have dropped the zone", func() bool {
		status, _, stderr := ask("get", "k", "--zone", zone.ID.String())
		return status == exitFailed && strings.Contains(stderr, "zone not found")
	})
	if got := must("zone", "list", "--json"); got != "" {
		t.Errorf("zone list: got %s, want none", got)
	}
	next := create()
	if next.ID <= zone.ID {
		t.Errorf("the next zone of the name has the ID %v after %v, want one that was never used", next.ID, zone.ID)
	}
	if status, _, stderr := ask("get", "k", "--zone", "orders"); status != exitFailed ||
		!strings.Contains(stderr, `there is no key "k"`) {
		t.Errorf("get in the next zone: got status %d, %q; want it empty", status, stderr)
	}
	if got := must("get", "k"); got != "in the root zone\n" {
		t.Errorf("the root zone's key: got %q", got)
	}

	status, stdout, stderr := command(t, "events", "--endpoints", c.endpoints(), "--topic", "zone", "--from", "1",
		"--count", "3")
	told := strings.Split(strings.TrimSpace(stdout), "\n")
	if status != exitOK || len(told) != 3 {
		t.Fatalf("events of zones: status %d, %s%s", status, stdout, stderr)
	}
	about := func(z nexusraft.ZoneInfo) string { return "orders (" + z.ID.String() + "), state machine kv" }
	for i, want := range []string{"created\t" + about(zone), "deleted\t" + about(zone), "created\t" + about(next)} {
		if !strings.HasSuffix(told[i], "\tzone\t"+want) {
			t.Errorf("event %d of zones: got %q, want %q", i, told[i], want)
		}
	}
}

// A member whose disk is lost is replaced in all zones by one command; what it held is on the new one then.
func TestMemberReplacedInAllZones(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	must := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := command(t, append(args, "--endpoints", c.endpoints(), "--timeout", "30s")...)
		if status != exitOK {
			t.Fatalf("%q: status %d, %s", args, status, stderr)
		}
		return stdout
	}
	whole := func(zone string) {
		t.Helper()
		eventually(t, "zone "+zone+" can lose any node", func() bool {
			status, _, _ := command(t, "status", "--zone", zone, "--check", "--endpoints", c.endpoints())
			return status == exitOK
		})
	}
	for _, zone := range []string{"orders", "users"} {
		must("zone", "create", zone)
		must("put", "k", "in "+zone, "--zone", zone)
		whole(zone)
	}
	c.n2.kill(t)
	c.n2 = launch(t, "serve", "--data-dir", c.data("again"), "--name", "n2", "--listen", c.a2, "--join", c.a1)
	eventually(t, "the new node is a learner", func() bool {
		_, stdout, _ := command(t, "member", "list", "--endpoints", c.endpoints())
		return strings.Contains(stdout, "learner")
	})
	if got := must("member", "replace", "n2", "n2"); !strings.Contains(got, "in 2 other zones as well") {
		t.Errorf("member replace: got %s", got)
	}
	for _, zone := range []string{"root", "orders", "users"} {
		whole(zone)
	}
	for _, zone := range []string{"orders", "users"} {
		eventually(t, "the new node serves zone "+zone, func() bool {
			_, stdout, _ := command(t, "get", "k", "--zone", zone, "--endpoints", c.a2)
			return stdout == "in "+zone+"\n"
		})
	}
}
