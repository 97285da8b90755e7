package transport

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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

func votes(f *fakeNode) *fakeNode {
	f.vote = func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) { return nil, nil }
	return f
}

// Whoever has no certificate may ask to join, and nothing that it says of itself may count: not as a
// later life of a node that has one, nor as where that one is reached.
func TestJoinerWithoutCertificateLeavesNoTrace(t *testing.T) {
	ca := testCA(t)
	var mu sync.Mutex
	var met []Identity
	f := votes(&fakeNode{
		join: func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nexusraft.ErrRefused },
		hello: func(peer Identity) error {
			mu.Lock()
			defer mu.Unlock()
			if peer.Cluster != 0 {
				met = append(met, peer)
			}
			return nil
		},
	})
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f)
	for _, cluster := range []nexusraft.ClusterID{0, testCluster} {
		evil := Identity{Cluster: cluster, Node: nodeB, Incarnation: 1 << 40, Boot: 666, Address: "evil:1"}
		if err := join(t.Context(), dialWith(t, addr, anyServer()), hello(evil, 0)); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("as one of cluster %v: got %v, want ErrRefused", cluster, err)
		}
	}
	if len(met) > 0 {
		t.Errorf("the handler has met %+v", met)
	}
	b := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	if err := calls["RequestVote"](t.Context(), b, hello(identityB, nodeA)); err != nil {
		t.Errorf("the node itself: got %v, want none", err)
	}
}

// shortLived returns node B's certificate that expires within two seconds.
func shortLived(t *testing.T, ca pki.Pair) tls.Certificate {
	t.Helper()
	return certificate(t, ca, subject(nodeB), time.Now().Add(2*time.Second-time.Hour))
}

func TestConnectionEndsWithTheCallersCertificate(t *testing.T) {
	ca := testCA(t)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), votes(&fakeNode{}))
	conn := dialWith(t, addr, anyServer(shortLived(t, ca)))
	vote := func() error {
		return asRefusal(calls["RequestVote"](t.Context(), conn, hello(identityB, nodeA)))
	}
	if err := vote(); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, vote, "expired")
}

func TestConnectionEndsWithTheServersCertificate(t *testing.T) {
	ca := testCA(t)
	mine := testCertificates(t, ca, subject(nodeA))
	addr := serveTLS(t, testTLS(Certificates{Own: shortLived(t, ca), Roots: mine.Roots}), &fakeNode{
		status: func(context.Context) (nexusraft.NodeStatus, error) { return nexusraft.NodeStatus{}, nil },
	})
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

// Who is not admitted any more gets nothing, on a connection from before either, but a
// handshake, which says more.
func TestAdmitting(t *testing.T) {
	ca := testCA(t)
	var removed atomic.Bool
	security := testTLS(testCertificates(t, ca, subject(nodeA))).Admitting(func(c Caller, method string) error {
		if method != pb.Cluster_Status_FullMethodName {
			return errNotFaked
		}
		if c.Node == nodeB && removed.Load() {
			return fmt.Errorf("%w: node %v was removed", nexusraft.ErrFenced, c.Node)
		}
		return nil
	})
	addr := serveTLS(t, security, votes(&fakeNode{
		status: func(context.Context) (nexusraft.NodeStatus, error) { return nexusraft.NodeStatus{}, nil },
	}))
	own := anyServer(certificate(t, ca, subject(nodeB), time.Now()))
	live := dialWith(t, addr, own)
	for _, gone := range []bool{false, true} {
		removed.Store(gone)
		for name, conn := range map[string]pb.ClusterClient{"open before": pb.NewClusterClient(live), "new": pb.NewClusterClient(dialWith(t, addr, own))} {
			want := codes.OK
			if gone {
				want = codes.PermissionDenied
			}
			if _, err := conn.Status(t.Context(), &pb.StatusRequest{}); status.Code(err) != want {
				t.Errorf("%s, removed %t: got %v, want %v", name, gone, err, want)
			}
		}
		if err := calls["RequestVote"](t.Context(), live, hello(identityB, nodeA)); err != nil {
			t.Errorf("a handshake, removed %t: got %v, want the handler's verdict, which is none", gone, err)
		}
	}
}

func TestNoIdentityWithoutOnesOwn(t *testing.T) {
	ca := testCA(t)
	mine := testCertificates(t, ca, subject(nodeA))
	stranger := certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeB}, time.Now())
	mine.Own.Leaf = nil // as a tls.Certificate may be
	for name, c := range map[string]Certificates{"not parsed": mine, "none": {Roots: mine.Roots}} {
		if who, err := identify([]*x509.Certificate{stranger.Leaf}, c); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("own certificate %s: a node of another cluster is %+v, %v; want ErrRefused", name, who, err)
		}
	}
	if err := (clientSide{}).verify([]*x509.Certificate{stranger.Leaf}, mine); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a server of another cluster: got %v, want ErrRefused", err)
	}
}

func TestJoinIsAnsweredByTheCertificatesNode(t *testing.T) {
	ca := testCA(t)
	pin, err := pki.Fingerprint(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	admits := &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) {
		return JoinResult{Cluster: testCluster, Zone: 1, Replica: 1}, nil
	}}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(0xd))), admits) // it says that it is node A
	joiner := Identity{Node: nodeB, Incarnation: 1, Boot: 1, Address: "b:1"}
	peers := peersOf(t, joiner, PeersOptions{TLS: testTLS(Certificates{Pin: &pin})})
	_, err = peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "with the certificate of node 000000000000000d") {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestJoinOfAnotherClusterIsRefusedAtOnce(t *testing.T) {
	addr := serveTLS(t, testTLS(testCertificates(t, testCA(t), subject(nodeA))), &fakeNode{})
	joiner := Identity{Node: nodeB, Incarnation: 1, Boot: 1, Address: "b:1"}
	peers := peersOf(t, joiner, PeersOptions{TLS: testTLS(Certificates{Pin: &[32]byte{1}})})
	_, err := peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "another cluster than the one that made the join token") {
		t.Errorf("got %v, want ErrRefused with the reason", err)
	}
}

// An address that comes from another node must not turn encryption off, nor give a token away.
func TestNodesAreNotDowngraded(t *testing.T) {
	ca := testCA(t)
	asked := make(chan struct{}, 1)
	addr, _ := serve(t, identityA, &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) {
		asked <- struct{}{}
		return JoinResult{}, nexusraft.ErrRefused
	}})
	peers := peersOf(t, identityB, PeersOptions{TLS: testTLS(testCertificates(t, ca, subject(nodeB)))})
	_, err := peers.Join(t.Context(), "http://"+addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || len(asked) > 0 {
		t.Errorf("got %v and %d requests in the clear, want ErrRefused and none", err, len(asked))
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
		text, err := ca.Sign(csr, s, then, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := sign(ca, subject(nodeB), now)
	swapped := append(bytes.TrimSuffix(sign(stranger, subject(nodeB), now), stranger.Cert), ca.Cert...)
	for name, believed := range map[string]Certificates{"the pin": {Pin: &pin}, "the roots": testCertificates(t, ca, subject(nodeB)), "nobody": {}} {
		for what, tc := range map[string]struct {
			cert, key []byte
			says      string
		}{
			"good":                            {good, key, ""},
			"none":                            {nil, key, "no PEM block"},
			"of another key":                  {good, otherKey, "pair the certificate and its key"},
			"of another node":                 {sign(ca, subject(nodeA), now), key, "not nexus-raft://"},
			"of another authority":            {sign(stranger, subject(nodeB), now), key, "another authority"},
			"with another authority":          {append(append([]byte(nil), good...), stranger.Cert...), key, "another authority"},
			"signed by another than it shows": {swapped, key, "not believed here"},
			"expired":                         {sign(ca, subject(nodeB), now.Add(-4*time.Hour)), key, "expired"},
		} {
			if name == "nobody" && (what == "good" || tc.says == "not believed here" || tc.says == "expired") {
				tc.says = "another authority"
			}
			next, err := believed.Next(pki.Pair{Cert: tc.cert, Key: tc.key}, subject(nodeB), now)
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
	addr := serveTLS(t, security, &fakeNode{})
	for range 3 {
		_ = calls["RequestVote"](t.Context(), dialTest(t, addr), hello(identityB, nodeA))
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
