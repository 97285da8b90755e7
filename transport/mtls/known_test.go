package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// watching is a stream that goes on for as long as its connection.
func watching(t *testing.T, addr string, creds credentials.TransportCredentials) healthpb.Health_WatchClient {
	t.Helper()
	stream, err := healthpb.NewHealthClient(dialWith(t, addr, creds)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Two authorities are believed, and then one of them is not any more: what was proved by it ends,
// on connections that are open, in both directions, for a certificate that has lapsed, too; what
// was proved by the other one goes on.
func TestRecheckEndsWhatIsNotBelievedAnyMore(t *testing.T) {
	old, next := testCA(t), testCA(t)
	both, err := pki.Pool(append(append([]byte(nil), next.Cert...), old.Cert...))
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[Certificates]
	now.Store(&Certificates{Own: certificate(t, next, subject(nodeA), time.Now()), Roots: both})
	security := NewTLS(func() (Certificates, error) { return *now.Load(), nil })
	addr := serveTLS(t, security, services{})
	elsewhere := serveTLS(t, testTLS(testCertificates(t, old, subject(nodeB))), services{})

	ann := pki.Subject{Cluster: testCluster, Client: "ann"}
	shown := func(ca pki.Pair, s pki.Subject, then time.Time) credentials.TransportCredentials {
		return anyServer([]tls.Certificate{certificate(t, ca, s, then)}...)
	}
	ending := map[string]healthpb.Health_WatchClient{
		"a client":                watching(t, addr, shown(old, ann, time.Now())),
		"a node":                  watching(t, addr, shown(old, subject(nodeB), time.Now())),
		"a node, by a lapsed one": watching(t, addr, shown(old, subject(nodeB), time.Now().Add(-100*time.Minute))),
		"a node that was asked":   watching(t, elsewhere, security.ClientCredentials(nodeB)),
	}
	staying := map[string]healthpb.Health_WatchClient{
		"a client of the new one": watching(t, addr, shown(next, ann, time.Now())),
		"a node of the new one":   watching(t, addr, shown(next, subject(nodeB), time.Now())),
		"an anonymous caller":     watching(t, addr, anyServer()),
	}
	security.Recheck() // nothing has changed

	roots, err := pki.Pool(next.Cert)
	if err != nil {
		t.Fatal(err)
	}
	now.Store(&Certificates{Own: now.Load().Own, Roots: roots})
	security.Recheck()
	for name, stream := range ending {
		if _, err := stream.Recv(); err == nil {
			t.Errorf("%s: the stream goes on", name)
		}
	}
	for name, stream := range staying {
		if err := stream.Context().Err(); err != nil {
			t.Errorf("%s: got %v, want that the stream goes on", name, err)
		}
	}
	eventually(t, "only the connections of the new authority are kept", func() bool {
		return len(security.known.those(func(knownConn) bool { return true })) == 2
	})
}

// Roots that are given besides a chain are believed in place of its last certificate, and the own
// certificate must be one of theirs.
func TestIssuedWithSeveralAuthorities(t *testing.T) {
	old, next := testCA(t), testCA(t)
	request, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(next, request, subject(nodeB), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	both := append(append([]byte(nil), next.Cert...), old.Cert...)
	pin, err := pki.Fingerprint(next.Cert)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Certificates{Pin: &pin}.Next(pki.Pair{Cert: cert, Key: key}, both, subject(nodeB), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, ca := range map[string]pki.Pair{"the old one": old, "the new one": next} {
		if err := testTLS(got).identifyAny(testCertificates(t, ca, subject(nodeA)).chain(t), got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (Certificates{Pin: &pin}).Next(pki.Pair{Cert: cert, Key: key}, old.Cert, subject(nodeB),
		time.Now()); err == nil {
		t.Error("it comes with authorities that do not vouch for it, and is taken")
	}
}

func (c Certificates) chain(t *testing.T) (chain []*x509.Certificate) {
	t.Helper()
	for _, der := range c.Own.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}
