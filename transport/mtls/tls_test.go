package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

func TestServerIsTheNodeAsked(t *testing.T) {
	ca, stranger := testCA(t), testCA(t)
	now := time.Now()
	pin, err := pki.Fingerprint(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	mine := testCertificates(t, ca, subject(nodeB))
	good := certificate(t, ca, subject(nodeA), now)
	for name, tc := range map[string]struct {
		client Certificates
		asked  nexusraft.NodeID
		server tls.Certificate
		says   string // "": it passes
	}{
		"the node":   {mine, nodeA, good, ""},
		"any node":   {mine, 0, good, ""},
		"by the pin": {Certificates{Pin: &pin}, 0, good, ""},
		"another node": {mine, 0xd, good, "node mismatch: node 000000000000000d was asked, but node 000000000000000a " +
			"answers"},
		"a client": {
			mine, 0, certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, now),
			"extended key usage",
		},
		"of another cluster": {
			mine, nodeA, certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeA}, now),
			"cluster mismatch",
		},
		"expired":           {mine, nodeA, certificate(t, ca, subject(nodeA), now.Add(-4*time.Hour)), "expired 3h0m"},
		"of a self-made CA": {mine, nodeA, certificate(t, stranger, subject(nodeA), now), "not believed here"},
		"not by the pin": {
			Certificates{Pin: &pin},
			0, certificate(t, stranger, subject(nodeA), now),
			"another cluster than the one that made the join token",
		},
		"believing nobody": {Certificates{}, 0, good, "no CA is known"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveTLS(t, testTLS(Certificates{Own: tc.server, Roots: mine.Roots}), services{})
			conn := dialWith(t, addr, testTLS(tc.client).ClientCredentials(tc.asked))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
			if (err == nil) != (tc.says == "") || err != nil &&
				(status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func TestPlainAndTLSDoNotMix(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	secure := serveTLS(t, security, services{})
	open := serveTLS(t, nil, services{})
	for name, tc := range map[string]struct {
		addr  string
		creds credentials.TransportCredentials
		says  string
	}{
		"plain text to a TLS port": {secure, insecure.NewCredentials(), "error reading server preface"},
		"TLS to a plain port":      {open, security.ClientCredentials(nodeA), "does not speak TLS"},
		"TLS 1.2 to a TLS port": {secure, credentials.NewTLS(&tls.Config{
			MaxVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true,
		}), "protocol version not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := healthpb.NewHealthClient(dialWith(t, tc.addr, tc.creds)).Check(ctx, &healthpb.HealthCheckRequest{})
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want UNAVAILABLE with %q", err, tc.says)
			}
		})
	}
}

func TestCallerOf(t *testing.T) {
	ca := testCA(t)
	var mu sync.Mutex
	var got Caller
	var known, encrypted bool
	s := services{status: func(ctx context.Context) {
		mu.Lock()
		defer mu.Unlock()
		got, known = CallerOf(ctx)
		encrypted = Encrypted(ctx)
	}}
	secure := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), s)
	open := serveTLS(t, nil, s)
	ann := pki.Subject{Cluster: testCluster, Client: "ann"}
	for name, tc := range map[string]struct {
		addr             string
		creds            credentials.TransportCredentials
		want             Caller
		known, encrypted bool
	}{
		"a client": {
			secure, anyServer(certificate(t, ca, ann, time.Now())),
			Caller{Cluster: testCluster, Client: "ann"},
			true, true,
		},
		"a node": {
			secure, anyServer(certificate(t, ca, subject(nodeB), time.Now())),
			Caller{Cluster: testCluster, Node: nodeB},
			true, true,
		},
		"nobody":    {secure, anyServer(), Caller{}, false, true},
		"forged":    {secure, anyServer(certificate(t, testCA(t), ann, time.Now())), Caller{}, false, true},
		"plain one": {open, insecure.NewCredentials(), Caller{}, false, false},
	} {
		_, err := pb.NewClusterClient(dialWith(t, tc.addr, tc.creds)).Status(t.Context(), &pb.StatusRequest{})
		mu.Lock()
		if err != nil || got != tc.want || known != tc.known || encrypted != tc.encrypted {
			t.Errorf("%s: got %+v, known=%t, encrypted=%t, %v", name, got, known, encrypted, err)
		}
		mu.Unlock()
	}
}

func TestGuard(t *testing.T) {
	ca := testCA(t)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), services{}, GuardOptions()...)
	for name, tc := range map[string]struct {
		own  []tls.Certificate
		want codes.Code
	}{
		"a client": {
			[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, time.Now())},
			codes.OK,
		},
		"nobody": {nil, codes.Unauthenticated},
	} {
		conn := dialWith(t, addr, anyServer(tc.own...))
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: health: %v", name, err)
		}
		if _, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{}); status.Code(err) != tc.want {
			t.Errorf("%s: status: got %v, want %v", name, err, tc.want)
		}
		stream, err := pb.NewRaftTransportClient(conn).Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); (status.Code(err) == codes.Unauthenticated) != (tc.want != codes.OK) {
			t.Errorf("%s: exchange: got %v, want it refused: %t", name, err, tc.want != codes.OK)
		}
	}
}

// A source may change: connections that are made then use what it says then.
func TestCertificatesAreAskedForAtEachHandshake(t *testing.T) {
	ca, next := testCA(t), testCA(t)
	now := testCertificates(t, ca, subject(nodeA))
	var mu sync.Mutex
	security := NewTLS(func() (Certificates, error) {
		mu.Lock()
		defer mu.Unlock()
		return now, nil
	})
	addr := serveTLS(t, security, services{}, GuardOptions()...)
	caller := func(ca pki.Pair) *grpc.ClientConn {
		return dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	}
	before, after := caller(ca), caller(next)
	if err := vote(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	now = testCertificates(t, next, subject(nodeA))
	mu.Unlock()
	if err := vote(t.Context(), after); err != nil {
		t.Errorf("with the new CA: %v", err)
	}
	if err := vote(t.Context(), caller(ca)); err == nil {
		t.Error("a new connection with the former CA passes")
	}
	if err := vote(t.Context(), before); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
}

func TestBrokenSource(t *testing.T) {
	security := NewTLS(func() (Certificates, error) { return Certificates{}, errors.New("the dog ate them") })
	_, err := healthpb.NewHealthClient(dialWith(t, serveTLS(t, security, services{}),
		security.ClientCredentials(0))).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the dog ate them") {
		t.Errorf("got %v, want the reason", err)
	}
}

func TestCheckOwn(t *testing.T) {
	security := testTLS(testCertificates(t, testCA(t), subject(nodeA)))
	for _, tc := range []struct {
		cluster nexusraft.ClusterID
		node    nexusraft.NodeID
		ok      bool
	}{{testCluster, nodeA, true}, {0, nodeA, true}, {testCluster, nodeB, false}, {0xc2, nodeA, false}} {
		err := security.CheckOwn(tc.cluster, tc.node)
		if (err == nil) != tc.ok || err != nil && !strings.Contains(err.Error(), "it needs the URI nexus-raft://") {
			t.Errorf("node %v of %v: got %v, want it to be right: %t", tc.node, tc.cluster, err, tc.ok)
		}
	}
}

func TestNoIdentityWithoutOnesOwn(t *testing.T) {
	ca := testCA(t)
	mine := testCertificates(t, ca, subject(nodeA))
	stranger := certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeB}, time.Now())
	mine.Own.Leaf = nil // as a tls.Certificate may be
	for name, c := range map[string]Certificates{"not parsed": mine, "none": {Roots: mine.Roots}} {
		if who, err := identify([]*x509.Certificate{stranger.Leaf}, c, time.Now()); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("own certificate %s: a node of another cluster is %+v, %v; want ErrRefused", name, who, err)
		}
	}
	if err := (clientSide{t: testTLS(mine)}).verify([]*x509.Certificate{stranger.Leaf}, mine); !errors.Is(err,
		nexusraft.ErrRefused) {
		t.Errorf("a server of another cluster: got %v, want ErrRefused", err)
	}
}

func TestOwnCertificateNearItsEnd(t *testing.T) {
	ca := testCA(t)
	now := time.Now()
	c := testCertificates(t, ca, subject(nodeA)) // for an hour, since an hour ago
	security := testTLS(c)
	if got := security.Until(); !got.Equal(c.Own.Leaf.NotAfter) {
		t.Errorf("got the end %v, want %v", got, c.Own.Leaf.NotAfter)
	}
	if got := security.Problem(now.Add(30 * time.Minute)); got != "" {
		t.Errorf("with half an hour of two left: got %q, want none", got)
	}
	if got := security.Problem(now.Add(50 * time.Minute)); !strings.Contains(got, "expires at") {
		t.Errorf("with ten minutes of two hours left: got %q, want when it expires", got)
	}
	if until, problem := (*TLS)(nil).Until(), (*TLS)(nil).Problem(now); !until.IsZero() || problem != "" {
		t.Errorf("without TLS: got %v and %q, want nothing", until, problem)
	}
}

// What is sent in answer to a join or a renewal is looked at before it is stored.
func TestNextCertificate(t *testing.T) {
	ca, stranger := testCA(t), testCA(t)
	now := time.Now()
	pin, err := pki.Fingerprint(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(ca pki.Pair, s pki.Subject, then time.Time) []byte {
		text, err := pki.Sign(ca, csr, s, then, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := sign(ca, subject(nodeB), now)
	swapped := append(bytes.TrimSuffix(sign(stranger, subject(nodeB), now), stranger.Cert), ca.Cert...)
	for name, believed := range map[string]Certificates{
		"the pin":   {Pin: &pin},
		"the roots": testCertificates(t, ca, subject(nodeB)), "nobody": {},
	} {
		for what, tc := range map[string]struct {
			cert, key []byte
			says      string
		}{
			"good":                 {good, key, ""},
			"none":                 {nil, key, "no PEM block"},
			"of another key":       {good, otherKey, "pair the certificate and its key"},
			"of another node":      {sign(ca, subject(nodeA), now), key, "not nexus-raft://"},
			"of another authority": {sign(stranger, subject(nodeB), now), key, "another authority"},
			"with another authority": {
				append(append([]byte(nil), good...), stranger.Cert...), key,
				"another authority",
			},
			"signed by another than it shows": {swapped, key, "not believed here"},
			"expired":                         {sign(ca, subject(nodeB), now.Add(-4*time.Hour)), key, "expired"},
		} {
			if name == "nobody" && (what == "good" || tc.says == "not believed here" || tc.says == "expired") {
				tc.says = "another authority"
			}
			next, err := believed.Next(pki.Pair{Cert: tc.cert, Key: tc.key}, nil, subject(nodeB), now)
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s, by %s: got %v, want %q", what, name, err, tc.says)
			}
			if err == nil && (next.Own.Leaf == nil || next.Roots == nil) {
				t.Errorf("%s, by %s: got %+v", what, name, next)
			}
		}
	}
}

func TestPlainCallersAreToldOf(t *testing.T) {
	var log lockedBuffer
	security := testTLS(testCertificates(t, testCA(t), subject(nodeA))).Telling(slog.New(slog.NewTextHandler(&log, nil)))
	addr := serveTLS(t, security, services{})
	for range 3 {
		_ = vote(t.Context(), dialPlain(t, addr))
	}
	eventually(t, "the server says it", func() bool { return strings.Contains(log.String(), "does not speak TLS") })
	if got := strings.Count(log.String(), "does not speak TLS"); got != 1 {
		t.Errorf("it is said %d times, want once", got)
	}
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Who is not admitted any more gets nothing, on a connection from before either, but a
// handshake, which says more.
func TestAdmitting(t *testing.T) {
	ca := testCA(t)
	var removed atomic.Bool
	security := testTLS(testCertificates(t, ca, subject(nodeA))).Admitting(func(c Caller, method string) error {
		if method != pb.Cluster_Status_FullMethodName {
			return fmt.Errorf("the test does not expect %s", method)
		}
		if c.Node == nodeB && removed.Load() {
			return fmt.Errorf("%w: node %v was removed", nexusraft.ErrFenced, c.Node)
		}
		return nil
	})
	addr := serveTLS(t, security, services{})
	own := anyServer(certificate(t, ca, subject(nodeB), time.Now()))
	live := dialWith(t, addr, own)
	for _, gone := range []bool{false, true} {
		removed.Store(gone)
		for name, conn := range map[string]pb.ClusterClient{
			"open before": pb.NewClusterClient(live),
			"new":         pb.NewClusterClient(dialWith(t, addr, own)),
		} {
			want := codes.OK
			if gone {
				want = codes.PermissionDenied
			}
			if _, err := conn.Status(t.Context(), &pb.StatusRequest{}); status.Code(err) != want {
				t.Errorf("%s, removed %t: got %v, want %v", name, gone, err, want)
			}
		}
		if err := vote(t.Context(), live); err != nil {
			t.Errorf("a handshake, removed %t: got %v, want the handler's verdict, which is none", gone, err)
		}
	}
}

func TestConnectionEndsWithTheCallersCertificate(t *testing.T) {
	ca := testCA(t)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), services{}, GuardOptions()...)
	conn := dialWith(t, addr, anyServer(shortLived(t, ca)))
	ask := func() error { return vote(t.Context(), conn) }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, ask, "expired")
}

func TestConnectionEndsWithTheServersCertificate(t *testing.T) {
	ca := testCA(t)
	mine := testCertificates(t, ca, subject(nodeA))
	addr := serveTLS(t, testTLS(Certificates{Own: shortLived(t, ca), Roots: mine.Roots}), services{})
	conn := dialWith(t, addr, testTLS(mine).ClientCredentials(nodeB))
	ask := func() error {
		_, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, ask, "expired")
}

// shortLived returns node B's certificate that expires within two seconds.
func shortLived(t *testing.T, ca pki.Pair) tls.Certificate {
	t.Helper()
	return certificate(t, ca, subject(nodeB), time.Now().Add(2*time.Second-time.Hour))
}

func awaitRefusal(t *testing.T, call func() error, says string) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = call(); err != nil && strings.Contains(err.Error(), says) {
			return
		}
	}
	t.Fatalf("got %v to the end, want a refusal with %q", err, says)
}
