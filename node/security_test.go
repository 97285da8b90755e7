package node_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

func secureConfig(t *testing.T, name string) node.Config {
	c := testConfig(t, name)
	c.ClusterTLS = true
	return c
}

func newToken(t *testing.T, m *member, role nexusraft.Role) string {
	t.Helper()
	var text string
	eventually(t, "create a token", func() (err error) { // a leader may change on a slow machine
		text, _, err = m.node.Credentials().CreateToken(t.Context(), role, time.Hour, 1)
		return err
	})
	return text
}

// TestJoinWithoutToken asks as no node of ours does: with the right fingerprint and no token.
func TestJoinWithoutToken(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	token, err := pki.ParseToken(newToken(t, founder, nexusraft.RoleMember))
	if err != nil {
		t.Fatal(err)
	}
	wrong := token
	wrong.Secret[0]++
	self := transport.Identity{Node: 7, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1"}
	peers := transport.NewPeers(func() transport.Identity { return self }, transport.PeersOptions{
		TLS: mtls.NewTLS(func() (mtls.Certificates, error) { return mtls.Certificates{Pin: &token.CA}, nil }),
	})
	defer peers.Close()
	for want, shown := range map[string]pki.Token{"needs a join token": {}, "not known here": wrong} {
		_, err := peers.Join(t.Context(), founder.config.Advertise,
			transport.JoinRequest{Role: nexusraft.RoleMember, Token: shown})
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a refusal with %q", err, want)
		}
	}
	if n := len(founder.status().Membership.Members); n != 1 {
		t.Errorf("got %d replicas, want 1", n)
	}
}

// refusedToJoin runs a node until it ends and returns why.
func refusedToJoin(t *testing.T, c node.Config, at *member) error {
	t.Helper()
	c.Join, c.JoinTimeout = []string{at.config.Advertise}, 500*time.Millisecond
	lis := listen(t, "")
	n, err := node.Open(c)
	if err != nil {
		lis.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return n.Run(ctx, lis, nil)
}

func TestClusterTLS(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	other := found(t, secureConfig(t, "x1"))
	if err := refusedToJoin(t, secureConfig(t, "n0"), founder); !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "token create") {
		t.Errorf("without a token: got %v, want a refusal that says how to get one", err)
	}
	c := secureConfig(t, "n0")
	c.JoinToken = newToken(t, other, nexusraft.RoleMember)
	if err := refusedToJoin(t, c, founder); err == nil ||
		!strings.Contains(err.Error(), "another cluster than the one that made the join token") {
		t.Errorf("with the token of another cluster: got %v", err)
	}

	c = secureConfig(t, "n2")
	c.JoinToken = newToken(t, founder, nexusraft.RoleMember)
	second := join(t, c, founder)
	c2 := secureConfig(t, "n3")
	c2.JoinToken = c.JoinToken
	if err := refusedToJoin(t, c2, founder); !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "used up") {
		t.Errorf("with a token that is used up: got %v, want a refusal", err)
	}

	dir := t.TempDir()
	w := witness.Config{
		Dir: dir, Name: "w", ClusterTLS: true, JoinToken: newToken(t, second, nexusraft.RoleWitness),
		Join: []string{second.config.Advertise}, TickInterval: node.TestTick,
	}
	stop := runWitness(t, w)
	founder.put("k", "v")
	stop()
	if !holds(t, dir, second.node.ID().String()) || holds(t, dir, w.JoinToken) {
		t.Error("the witness's directory holds the token, or nothing that can be read")
	}
	w.Join, w.JoinToken = nil, ""
	runWitness(t, w)

	second.close()
	second.config.JoinToken = ""
	start(t, second.config).put("k", "w")
	if got := founder.get("k"); got != "w" {
		t.Errorf("got %q, want w", got)
	}
}

// runWitness runs a witness until it is ready; the result stops it.
func runWitness(t *testing.T, c witness.Config) (stop func()) {
	t.Helper()
	opened, err := witness.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	lis := listen(t, c.Advertise)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx, lis) }()
	var once atomic.Bool
	stop = func() {
		if once.Swap(true) {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the witness ended with %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-opened.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("the witness ended before it was ready: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the witness is not ready")
	}
	return stop
}

// holds reports whether a file in dir has the text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return false
}
