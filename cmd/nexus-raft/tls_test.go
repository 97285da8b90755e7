package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// secureTrio is two members and a witness that speak TLS with the cluster's own certificates.
type secureTrio struct {
	trio
	admin string // file of the founder's credentials
	ca    string // file of the CA's certificate alone
}

// newSecureTrio founds a cluster, has the others join with tokens, and waits until it is in sync.
func newSecureTrio(t *testing.T) *secureTrio {
	t.Helper()
	c := &secureTrio{trio: trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}}
	c.runs(t, "init", "--data-dir", c.data("n1"), "--name", "n1", "--listen", c.a1)
	c.admin, c.ca = filepath.Join(c.data("n1"), "admin.pem"), c.data("ca.pem")
	if err := os.WriteFile(c.ca, []byte(c.runs(t, "access", "ca", "--credentials", c.admin)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.n1 = c.serve1(t, "--tls")
	c.n2 = c.serve2(t, "--tls", "--token-file", c.joinToken(t, "member"))
	c.w1 = c.witness(t, "--tls", "--token-file", c.joinToken(t, "witness"))
	c.awaitSync(t)
	return c
}

func (c *secureTrio) joinToken(t *testing.T, role string) string {
	t.Helper()
	return writeFile(t, []byte(c.by(t, c.admin, "token", "create", "--role", role, "--endpoints", c.a1)))
}

func (c *secureTrio) awaitSync(t *testing.T) {
	t.Helper()
	eventually(t, "the cluster can lose any node", func() bool {
		status, stdout, _ := c.asks(t, c.admin, "status", "--check")
		return status == exitOK && strings.Contains(stdout, "witness")
	})
}

// asks runs a command with the credentials in a file, "" for none, at both members.
func (c *secureTrio) asks(t *testing.T, credentials string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	args = slices.Clone(args)
	if !slices.Contains(args, "--endpoints") {
		args = append(args, "--endpoints", c.endpoints())
	}
	if credentials != "" {
		args = append(args, "--credentials", credentials)
	}
	if args[0] != "status" && !slices.Contains(args, "--timeout") {
		args = append(args, "--timeout", "20s")
	}
	return command(t, args...)
}

// runs is what a command prints that has to succeed.
func (c *secureTrio) runs(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	status, stdout, stderr := command(t, args...)
	if status != exitOK {
		t.Fatalf("%q: status %d, %s", args, status, stderr)
	}
	return stdout
}

// by is what a command prints that has to succeed.
func (c *secureTrio) by(t *testing.T, credentials string, args ...string) (stdout string) {
	t.Helper()
	status, stdout, stderr := c.asks(t, credentials, args...)
	if status != exitOK {
		t.Fatalf("%q with %q: status %d, %s", args, credentials, status, stderr)
	}
	return stdout
}

// refused wants a command to fail, at each member by itself, and to say why.
func (c *secureTrio) refused(t *testing.T, credentials, says string, args ...string) {
	t.Helper()
	for _, at := range []string{c.a1, c.a2} {
		status, stdout, stderr := c.asks(t, credentials, append(args, "--endpoints", at)...)
		if status != exitFailed || stdout != "" || !strings.Contains(stderr, says) {
			t.Errorf("%q with %q at %s: got status %d, %q, %q; want %q", args, credentials, at, status, stdout, stderr, says)
		}
	}
}

// ends waits until each member by itself refuses a command, which until then succeeds once the
// member has heard of the credentials.
func (c *secureTrio) ends(t *testing.T, credentials, says string, args ...string) {
	t.Helper()
	for _, at := range []string{c.a1, c.a2} {
		eventually(t, fmt.Sprintf("%q is refused at %s because %s", args, at, says), func() bool {
			status, _, stderr := c.asks(t, credentials, append(args, "--endpoints", at)...)
			refused := status != exitOK && strings.Contains(stderr, says)
			if status != exitOK && !refused && !notHeardOf(stderr) {
				t.Fatalf("%q with %q at %s: got status %d, %q", args, credentials, at, status, stderr)
			}
			return refused
		})
	}
}

// holds waits until each member by itself has heard of new credentials, or of a new role of theirs:
// a follower applies what the leader has answered a moment later. They must be good for reading.
func (c *secureTrio) holds(t *testing.T, credentials string, flags ...string) {
	t.Helper()
	for _, at := range []string{c.a1, c.a2} {
		eventually(t, at+" knows the credentials", func() bool {
			status, _, stderr := c.asks(t, credentials, append([]string{"get", "k", "--endpoints", at}, flags...)...)
			if status != exitOK && !notHeardOf(stderr) {
				t.Fatalf("%q at %s: got status %d, %q", credentials, at, status, stderr)
			}
			return status == exitOK
		})
	}
}

// notHeardOf reports whether a member that is a moment behind may say so of credentials that are good.
func notHeardOf(stderr string) bool {
	return strings.Contains(stderr, "is not known here") || strings.Contains(stderr, "has not")
}

func (c *secureTrio) file(name string) string { return filepath.Join(c.dir, name) }

// Real programs with TLS, from the founding on: roles, and what becomes of callers that may
// not.
func TestSecureCluster(t *testing.T) {
	t.Parallel()
	c := newSecureTrio(t)
	c.by(t, c.admin, "put", "k", "v")
	t.Run("roles", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *secureTrio){
			"without credentials": withoutCredentials,
			"joining":             joinWithoutToken,
			"reader":              readerReads,
			"one zone":            roleInOneZone,
			"tokens":              tokensEnd,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, c)
			})
		}
	})
	tokensExpire(t, c)
	everythingRestarted(t, c) // not in a test of its own, with which the processes would end
}

func withoutCredentials(t *testing.T, c *secureTrio) {
	for _, tc := range []struct {
		credentials string
		args        []string
		says        string
	}{
		{"", []string{"get", "k", "--timeout", "1s"}, "if it speaks TLS, credentials are needed"},
		{c.admin, []string{"get", "k", "--endpoints", "http://" + c.a1, "--timeout", "1s"}, "credentials are needed, and " +
			"no http://"},
		{c.ca, []string{"get", "k"}, "show an access token (they begin with nra1-), or a certificate of the cluster"},
		{c.ca, []string{"put", "k", "x"}, "show an access token"},
		{c.ca, []string{"access", "grant", "mallory", "--role", "admin"}, "show an access token"},
		{c.ca, []string{"token", "create", "--role", "member"}, "show an access token"},
	} {
		status, stdout, stderr := c.asks(t, tc.credentials, tc.args...)
		if status != exitFailed || stdout != "" || !strings.Contains(stderr, tc.says) {
			t.Errorf("%q with %q: got status %d, %q, %q; want %q", tc.args, tc.credentials, status, stdout, stderr, tc.says)
		}
	}
	if got := c.by(t, c.admin, "get", "k"); got != "v\n" {
		t.Errorf("got %q, want it unchanged", got)
	}
}

func joinWithoutToken(t *testing.T, c *secureTrio) {
	p := launch(t, "serve", "--tls", "--data-dir", c.data("n3"), "--name", "n3", "--listen", freeAddress(t), "--join",
		c.a1)
	p.complains(t, "token create")
	p = launch(t, "witness", "--tls", "--data-dir", c.data("w2"), "--name", "w2", "--listen", freeAddress(t), "--join",
		c.a1)
	if status := p.exits(t); status != exitFailed || !strings.Contains(p.out.String(), "token create") {
		t.Errorf("got status %d, %s", status, &p.out)
	}
	if got := c.by(t, c.admin, "member", "list", "--json"); strings.Count(got, "\n") != 3 {
		t.Errorf("got members\n%s\nwant the three", got)
	}
}

// A principal with the role read reads, and does nothing else; with its role taken, nothing at all.
func readerReads(t *testing.T, c *secureTrio) {
	reader := c.file("reader.pem")
	c.refused(t, c.admin, `"reader" has no role`, "access", "cert", "reader", "--out", reader)
	c.by(t, c.admin, "access", "grant", "reader", "--role", "read")
	c.by(t, c.admin, "access", "cert", "reader", "--out", reader)
	c.holds(t, reader)
	if got := c.by(t, reader, "get", "k"); got != "v\n" {
		t.Errorf("get: got %q", got)
	}
	c.by(t, reader, "status", "--timeout", "20s")
	c.by(t, reader, "events", "--from", "1", "--count", "1")
	for _, tc := range []struct{ role, args string }{
		{"write", "put k x"},
		{"write", "del k"},
		{"write", "publish app/a made"},
		{"admin", "retain 5"},
		{"admin", "transfer"},
		{"admin", "token create --role member"},
		{"admin", "access list"},
		{"admin", "access grant reader --role admin"},
		{"admin", "access token reader"},
	} {
		c.refused(t, reader, "needs the role "+tc.role+` in zone 1, which "reader" has not`, strings.Fields(tc.args)...)
	}
	c.refused(t, reader, "needs the role admin in zone", "member", "remove", "w1") // whichever zone comes first
	c.by(t, c.admin, "access", "revoke", "reader")
	c.ends(t, reader, `"reader" has not`, "get", "k")
	if got := c.by(t, c.admin, "get", "k"); got != "v\n" {
		t.Errorf("got %q, want it unchanged", got)
	}
}

// A role in one zone is none in another.
func roleInOneZone(t *testing.T, c *secureTrio) {
	owner := c.file("owner.pem")
	if status, _, stderr := c.asks(t, c.admin, "access", "grant", "owner", "--role", "admin", "--zone", "2"); status !=
		exitFailed || !strings.Contains(stderr, "there is no zone 2") {
		t.Errorf("a role in a zone that is still to come: status %d, %s", status, stderr)
	}
	c.by(t, c.admin, "zone", "create", "owned") // it gets the ID 2
	c.by(t, c.admin, "access", "grant", "owner", "--role", "admin", "--zone", "2")
	c.by(t, c.admin, "access", "token", "owner", "--out", owner)
	for _, at := range []string{c.a1, c.a2} {
		eventually(t, at+" knows the token", func() bool {
			_, _, stderr := c.asks(t, owner, "get", "k", "--endpoints", at)
			return strings.Contains(stderr, "needs the role")
		})
	}
	c.refused(t, owner, "needs the role read in zone 1", "get", "k")
	c.refused(t, owner, "needs the role admin in zone 1", "access", "list")
	c.by(t, c.admin, "access", "grant", "owner", "--role", "read", "--zone", "1")
	c.holds(t, owner)
	want := `{"name":"owner","roles":[{"zone":"1","role":"read"},{"zone":"2","role":"admin"}]`
	if got := c.by(t, c.admin, "access", "list", "--json"); !strings.Contains(got, want) {
		t.Errorf("access list: got\n%s\nwant in it\n%s", got, want)
	}
	roleEndsWithItsZone(t, c)
}

// A role in a zone, by the zone's name, ends with that zone: the next one of the name is another one.
func roleEndsWithItsZone(t *testing.T, c *secureTrio) {
	create := func() string {
		t.Helper()
		var zone nexusraft.ZoneInfo
		if err := json.Unmarshal([]byte(c.by(t, c.admin, "zone", "create", "rented", "--json")), &zone); err != nil {
			t.Fatal(err)
		}
		return zone.ID.String()
	}
	first := create()
	tenant := c.file("tenant.pem")
	granted := c.by(t, c.admin, "access", "grant", "tenant", "--role", "write", "--zone", "rented")
	if want := "tenant has the role write in zone rented (" + first + ")\n"; granted != want {
		t.Errorf("grant: got %q, want %q", granted, want)
	}
	c.by(t, c.admin, "access", "token", "tenant", "--out", tenant)
	eventually(t, "the tenant writes", func() bool {
		status, _, _ := c.asks(t, tenant, "put", "k", "rent", "--zone", "rented")
		return status == exitOK
	})
	c.holds(t, tenant, "--zone", "rented")
	c.refused(t, tenant, "needs the role read in zone 1", "get", "k")
	inList := func(in string) bool {
		list := strings.Fields(c.by(t, c.admin, "access", "list"))
		return strings.Contains(strings.Join(list, " "), "tenant write zone "+in)
	}
	if !inList("rented (" + first + ")") {
		t.Error("the list does not have the role by the zone's name")
	}

	c.by(t, c.admin, "zone", "delete", "rented", "--yes")
	second := create()
	c.refused(t, tenant, "needs the role read in zone "+second, "get", "k", "--zone", "rented")
	c.refused(t, tenant, "needs the role write in zone "+second, "put", "k", "v", "--zone", "rented")
	if !inList(first + ", which there is not (any more)") {
		t.Error("the list does not say that the role's zone is gone")
	}
	for _, zone := range []string{"rented", second} {
		status, _, stderr := c.asks(t, c.admin, "access", "revoke", "tenant", "--zone", zone)
		if status != exitFailed || !strings.Contains(stderr, "has no such role") {
			t.Errorf("revoke in %s: got status %d, %s", zone, status, stderr)
		}
	}
	c.by(t, c.admin, "access", "grant", "tenant", "--role", "read", "--zone", "rented")
	c.by(t, c.admin, "access", "revoke", "tenant", "--zone", first)
	if inList(first) {
		t.Error("the role in the deleted zone was revoked, and is listed")
	}
	revoked := c.by(t, c.admin, "access", "revoke", "tenant", "--zone", "rented")
	if want := "revoked the role of tenant in zone rented (" + second + ")\n"; revoked != want {
		t.Errorf("revoke: got %q, want %q", revoked, want)
	}
}

// A token is good until it is taken back, and no longer.
func tokensEnd(t *testing.T, c *secureTrio) {
	c.by(t, c.admin, "access", "grant", "writer", "--role", "write")
	raw := writeFile(t, []byte(c.by(t, c.admin, "access", "token", "writer")))
	text, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	inFile := []string{"--access-token-file", raw}
	c.holds(t, c.ca, inFile...)
	c.by(t, c.ca, append([]string{"put", "t", "1"}, inFile...)...)
	if got := c.by(t, c.ca, append([]string{"get", "t"}, inFile...)...); got != "1\n" {
		t.Errorf("got %q", got)
	}
	both := writeFile(t, pki.Bundle{Roots: secretIn(t, c.ca).Roots, Token: strings.TrimSpace(string(text))}.PEM())
	c.by(t, both, "put", "t", "2")
	c.refused(t, both, "needs the role admin in zone 1", "access", "list")

	list := c.by(t, c.admin, "access", "list")
	id := tokenOf(t, list, "writer")
	c.by(t, c.admin, "access", "revoke-token", id)
	c.ends(t, c.ca, "access token "+id+" is not known here", append([]string{"get", "t"}, inFile...)...)

	if got := c.by(t, c.admin, "access", "list"); strings.Contains(got, id) {
		t.Errorf("access list: a revoked token is there:\n%s", got)
	}
	for _, p := range []*process{c.n1, c.n2, c.w1} {
		if log := p.out.String(); strings.Contains(log, strings.TrimSpace(string(text))) {
			t.Errorf("%v logs the token:\n%s", p.args, log)
		}
	}
}

// A token ends by itself at its time. Nobody else may make tokens meanwhile: that deletes those that have ended.
func tokensExpire(t *testing.T, c *secureTrio) {
	c.by(t, c.admin, "access", "grant", "brief", "--role", "write")
	short := c.file("short.pem")
	c.by(t, c.admin, "access", "token", "brief", "--ttl", "1s", "--out", short)
	c.ends(t, short, "has expired", "get", "t")
	c.by(t, c.admin, "access", "token", "brief")
	c.ends(t, short, "expired long ago", "get", "t")
}

// tokenOf returns the identifier of a name's only token in the list that access list prints.
func tokenOf(t *testing.T, list, name string) string {
	t.Helper()
	_, tokens, _ := strings.Cut(list, "\n\nTOKEN")
	var found []string
	for line := range strings.Lines(tokens) {
		if words := strings.Fields(line); len(words) == 3 && words[1] == name {
			found = append(found, words[0])
		}
	}
	if len(found) != 1 {
		t.Fatalf("got tokens %q of %s, want one:\n%s", found, name, list)
	}
	return found[0]
}

// All three are stopped, and started with their command lines but for the tokens.
func everythingRestarted(t *testing.T, c *secureTrio) {
	kept, gone := c.file("kept.pem"), c.file("gone.pem")
	c.by(t, c.admin, "access", "grant", "kept", "--role", "write")
	c.by(t, c.admin, "access", "token", "kept", "--out", gone)
	c.by(t, c.admin, "access", "revoke-token", tokenOf(t, c.by(t, c.admin, "access", "list"), "kept"))
	c.by(t, c.admin, "access", "token", "kept", "--out", kept)
	before := c.by(t, c.admin, "access", "list")
	for _, p := range []*process{c.w1, c.n2, c.n1} {
		p.stop(t)
	}
	c.n1, c.n2, c.w1 = c.serve1(t, "--tls"), c.serve2(t, "--tls"), c.witness(t, "--tls")
	c.awaitSync(t)
	c.holds(t, kept)
	if got := c.by(t, kept, "get", "k"); got != "v\n" {
		t.Errorf("got %q", got)
	}
	c.by(t, kept, "put", "again", "w")
	c.refused(t, gone, "is not known here", "get", "k") // revoked before kept was made, which both know
	c.refused(t, c.ca, "show an access token", "get", "k")
	if after := c.by(t, c.admin, "access", "list"); after != before {
		t.Errorf("access list: got\n%s\nwant\n%s", after, before)
	}
}
