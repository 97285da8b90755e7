package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// settled waits until a phase's advice says that all nodes have followed, and returns what was
// printed.
func (c *secureTrio) settled(t *testing.T, credentials, advice string) (stdout string) {
	t.Helper()
	eventually(t, "the status says "+advice, func() bool {
		_, stdout, _ = c.asks(t, credentials, "authority", "status")
		return strings.Contains(stdout, advice)
	})
	return stdout
}

// The whole replacement of an authority with real programs, as an operator sees it.
func TestAuthorityCommands(t *testing.T) {
	t.Parallel()
	c := newSecureTrio(t)
	second := c.file("admin2.pem")
	c.by(t, c.admin, "put", "k", "v")

	got := c.by(t, c.admin, "authority", "status")
	for _, want := range []string{
		"AUTHORITY", "nodes and clients", "NAME  NODE", "n1 ", "w1 ",
		"one authority is believed; to replace it",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("status: got\n%s\nwant %q", got, want)
		}
	}
	c.refused(t, c.admin, "begin one with: nexus-raft authority rotate", "authority", "finish")
	c.refused(t, c.ca, "show an access token", "authority", "rotate")

	c.by(t, c.admin, "authority", "rotate")
	c.settled(t, c.admin, "and then: nexus-raft authority switch")
	if both := c.by(t, c.admin, "authority", "ca"); strings.Count(both, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("authority ca: got\n%s\nwant two certificates", both)
	}
	c.refused(t, c.admin, "they do not believe the new authority", "authority", "switch")
	c.by(t, c.admin, "access", "cert", "admin", "--out", second)

	c.w1.kill(t)
	eventually(t, "the witness is missed", func() bool {
		status, _, stderr := c.asks(t, second, "authority", "switch")
		return status == exitFailed && strings.Contains(stderr, "not all nodes are ready: w1 (") &&
			strings.Contains(stderr, "--without")
	})
	c.refused(t, second, "--without", "authority", "switch", "--without", "n9")
	c.w1 = c.witness(t)
	c.awaitSync(t)
	c.settled(t, second, "and then: nexus-raft authority switch")
	c.by(t, second, "authority", "switch")
	c.settled(t, second, "the old one ends with: nexus-raft authority finish")
	c.refused(t, c.admin, "not believed here", "get", "k")

	var got2 struct {
		Phase       string
		Authorities []struct{ Fingerprint string }
		Nodes       []struct{ Believes, Shows bool }
	}
	if err := json.Unmarshal([]byte(c.by(t, second, "authority", "status", "--json")), &got2); err != nil {
		t.Fatal(err)
	}
	if got2.Phase != "signs" || len(got2.Authorities) != 2 || len(got2.Nodes) != 3 || !got2.Nodes[0].Believes ||
		!got2.Nodes[2].Shows {
		t.Errorf("status --json: got %+v", got2)
	}
	c.by(t, second, "authority", "finish")
	c.settled(t, second, "one authority is believed")
	if got := c.by(t, second, "get", "k"); got != "v\n" {
		t.Errorf("got %q, want v", got)
	}
	c.refused(t, c.admin, "not believed here", "get", "k")
}
