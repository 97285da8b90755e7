package node_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/witness"
)

const day = 24 * time.Hour

// shownUntil returns when the certificate expires that is shown at an address.
func shownUntil(ctx context.Context, addr string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	plain, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return time.Time{}, err
	}
	defer plain.Close()
	conn := tls.Client(plain, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := conn.HandshakeContext(ctx); err != nil {
		return time.Time{}, err
	}
	return conn.ConnectionState().PeerCertificates[0].NotAfter, nil
}

func waitRenewed(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "renew", func() error {
		until, err := shownUntil(t.Context(), addr)
		if err == nil && time.Until(until) < 80*day {
			err = fmt.Errorf("%s shows a certificate until %v", addr, until)
		}
		return err
	})
}

// agedPair is two members whose certificates are 70 days old, once their clock is set back to now:
// ago is how far behind it is.
func agedPair(t *testing.T) (ago *atomic.Int64, founder, second *member) {
	t.Helper()
	ago = new(atomic.Int64)
	ago.Store(int64(70 * day))
	c := secureConfig(t, "n1")
	c.Clock = func() time.Time { return time.Now().Add(-time.Duration(ago.Load())) }
	founder = found(t, c)
	c2 := secureConfig(t, "n2")
	c2.Clock, c2.JoinToken = c.Clock, newToken(t, founder, nexusraft.RoleMember)
	return ago, founder, join(t, c2, founder)
}

func TestCertificatesRenewThemselves(t *testing.T) {
	ago, founder, second := agedPair(t)
	lis := listen(t, "")
	address := lis.Addr().String()
	lis.Close()
	w := witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, founder, nexusraft.RoleWitness),
		Join: []string{founder.config.Advertise}, TickInterval: node.TestTick, Advertise: address,
	}
	runWitness(t, w)()
	second.close()
	ago.Store(0)
	second = start(t, second.config)
	waitRenewed(t, second.config.Advertise)
	runWitness(t, w)
	waitRenewed(t, w.Advertise)
	second.put("k", "v")
	if got := founder.get("k"); got != "v" {
		t.Errorf("got %q, want v", got)
	}
}

func TestRenewalIsForNodesOfTheCluster(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	request, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := founder.node.Issuer().Renew(t.Context(), transport.RenewRequest{
		Node:               founder.node.ID(),
		CertificateRequest: request,
	}); err != nil {
		t.Errorf("of a member: got %v, want none", err)
	}
	if _, err := founder.node.Issuer().Renew(t.Context(), transport.RenewRequest{
		Node:               7,
		CertificateRequest: request,
	}); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("of a node that is not in the cluster: got %v, want ErrFenced", err)
	}
}
