package node_test

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A directory that has been served with TLS goes on with it when the flag is forgotten. (S7)
func TestServedWithTLSBefore(t *testing.T) {
	encrypted := func(c node.Config) (bool, error) {
		n, err := node.Open(c)
		if err != nil {
			return false, err
		}
		defer n.Close()
		return n.Encrypted(), nil
	}
	want := func(what string, c node.Config, want bool) {
		t.Helper()
		if got, err := encrypted(c); got != want || err != nil {
			t.Errorf("%s: got TLS %t, %v, want %t", what, got, err, want)
		}
	}
	c := testConfig(t, "n1")
	c.Dir, c.Storage = "data", storage.Options{FS: storage.NewMemFS()}
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	want("founded, and never served with it", c, false)
	secure := c
	secure.ClusterTLS = true
	leader := start(t, secure)
	leader.zone()
	joiner := testConfig(t, "n2")
	joiner.Dir, joiner.Storage = "data", storage.Options{FS: storage.NewMemFS()}
	with := joiner
	with.ClusterTLS, with.JoinToken = true, newToken(t, leader, nexusraft.RoleMember)
	follower := join(t, with, leader)
	files := stolen(t, leader, follower.node.ID())
	follower.close()
	want("joined with it", joiner, true)
	leader.close()
	want("served with it", c, true)
	insecure := c
	insecure.Insecure = true
	want("with Insecure", insecure, false)
	want("after Insecure", c, true)
	joiner.TLS = files
	want("with files", joiner, true)
	joiner.TLS = nil
	if _, err := encrypted(joiner); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("without the files: got %v, want ErrRefused with the flags", err)
	}
}
