package node_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// A node says at its start if its certificate, from files, does not say that it is a full node: a
// replica that was away believes no leader like that unless it has a record of it (I13), and a zone
// may need its vote.
func TestCertificateWithoutARoleIsSaidAloud(t *testing.T) {
	c := testConfig(t, "n1")
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	n, err := node.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	s := pki.Subject{Cluster: n.Cluster(), Node: n.ID()}
	n.Close()
	for role, warned := range map[nexusraft.Role]int{"": 1, nexusraft.RoleWitness: 1, nexusraft.RoleMember: 0} {
		var log lockedBuffer
		c.TLS, c.Logger = fromFiles(t, s, role), slog.New(slog.NewTextHandler(&log, nil))
		n, err := node.Open(c)
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		if got := strings.Count(log.String(), "nexus-raft-role:member"); got != warned {
			t.Errorf("a certificate with the role %q: %d warnings, want %d: %s", role, got, warned, log.String())
		}
	}
}

// fromFiles is TLS with a certificate of an authority of one's own, and with the role if it is not
// "".
func fromFiles(t *testing.T, s pki.Subject, role nexusraft.Role) *mtls.TLS {
	t.Helper()
	ca, err := pki.NewCA(s.Cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	request, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, request, s, time.Now(), time.Hour)
	if role != "" {
		cert, err = pki.SignNode(ca, request, s, role, time.Now(), time.Hour)
	}
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := mtls.Issued(pki.Pair{Cert: cert, Key: key}, nil, s)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.NewTLS(func() (mtls.Certificates, error) { return certificates, nil })
}
