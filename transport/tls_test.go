package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

func testCA(t *testing.T) pki.Pair {
	t.Helper()
	ca, err := pki.NewCA(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certificate returns one that ca has signed at the time then, for an hour.
func certificate(t *testing.T, ca pki.Pair, s pki.Subject, then time.Time) tls.Certificate {
	t.Helper()
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.Sign(ca, csr, s, then, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Pair{Cert: text, Key: key}.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func testCertificates(t *testing.T, ca pki.Pair, s pki.Subject) mtls.Certificates {
	t.Helper()
	roots, err := pki.Pool(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Certificates{Own: certificate(t, ca, s, time.Now()), Roots: roots}
}

func testTLS(c mtls.Certificates) *mtls.TLS {
	return mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil })
}

func subject(node nexusraft.NodeID) pki.Subject { return pki.Subject{Cluster: testCluster, Node: node} }

// serveTLS runs a server of node A with TLS.
func serveTLS(t *testing.T, security *mtls.TLS, f interface{ handlers() Handlers }, more ...grpc.ServerOption) string {
	t.Helper()
	return serveOnly(t, security, func(s *grpc.Server) {
		NewServer(as(identityA), f.handlers()).Register(s)
		healthpb.RegisterHealthServer(s, health.NewServer())
	}, more...)
}

// serveOnly runs a server with limits, and TLS if security is not nil, and what register adds.
func serveOnly(
	t *testing.T, security *mtls.TLS, register func(*grpc.Server), more ...grpc.ServerOption,
) (addr string) {
	t.Helper()
	limits := mtls.NewLimits(mtls.LimitOptions{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(LimitedServerOptions(limits, security), more...)...)
	register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(limits.Listen(lis)) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String()
}

func dialWith(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, append(DialOptions(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// anyServer are the credentials of a caller that believes everybody and shows own, if it is given.
func anyServer(own ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: own})
}

// join is the one call that begins with a handshake and is not among calls.
func join(ctx context.Context, conn *grpc.ClientConn, h *pb.Hello) error {
	resp, err := pb.NewClusterClient(conn).Join(ctx, &pb.JoinRequest{
		Hello: h,
		Role:  wire.RoleToProto(nexusraft.RoleMember),
	})
	return errors.Join(err, wire.ErrorFromProto(resp.GetError()))
}

func TestSenderIsTheCertificatesNode(t *testing.T) {
	ca, stranger := testCA(t), testCA(t)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), &fakeNode{
		vote:    func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) { return nil, nil },
		propose: func(context.Context, Proposal) (nexusraft.Result, error) { return nexusraft.Result{}, nil },
		join:    func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nil },
	})
	now := time.Now()
	b := certificate(t, ca, subject(nodeB), now)
	for name, tc := range map[string]struct {
		own  []tls.Certificate
		says string // "": it passes
		join bool   // but Join passes
	}{
		"the node itself": {[]tls.Certificate{b}, "", false},
		"another node": {[]tls.Certificate{certificate(t, ca, subject(0xd), now)}, "peer 000000000000000b shows the " +
			"certificate of node 000000000000000d", false},
		"a client": {
			[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, now)},
			`the certificate of client "ann"`, false,
		},
		"nobody": {nil, "has no certificate that node 000000000000000a believes", true},
		"of another cluster": {
			[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeB}, now)},
			"cluster mismatch", true,
		},
		"one that expired": {
			[]tls.Certificate{certificate(t, ca, subject(nodeB), now.Add(-4*time.Hour))},
			"expired 3h0m",
			true,
		},
		"one of the future": {
			[]tls.Certificate{certificate(t, ca, subject(nodeB), now.Add(3*time.Hour))},
			"not valid for another", true,
		},
		"of a self-made CA": {[]tls.Certificate{certificate(t, stranger, subject(nodeB), now)}, "not believed here", true},
		"the cluster's CA":  {[]tls.Certificate{pairOf(t, ca)}, "needs exactly one", true},
		"the stranger's CA": {[]tls.Certificate{pairOf(t, stranger)}, "needs exactly one", true},
		"no node, no cluster": {
			[]tls.Certificate{certificate(t, stranger, pki.Subject{Cluster: 0xc2, Client: "ann"}, now)},
			"not believed here", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialWith(t, addr, anyServer(tc.own...))
			for method, call := range calls {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				err := call(ctx, conn, hello(identityB, nodeA))
				cancel()
				checkRefusal(t, method, err, tc.says, tc.says == "")
			}
			checkRefusal(t, "Join as a node of the cluster", join(t.Context(), conn, hello(identityB, nodeA)), tc.says,
				tc.says == "")
			joiner := identityB
			joiner.Cluster = 0
			checkRefusal(t, "Join", join(t.Context(), conn, hello(joiner, nodeA)), tc.says, tc.says == "" || tc.join)
		})
	}
}

// TestFullByCertificate: a caller is taken for a full node only if its certificate says so, whatever its
// handshake claims. A witness is trusted with votes and with nothing else (I13).
func TestFullByCertificate(t *testing.T) {
	ca := testCA(t)
	heard := make(chan bool, 1)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), &fakeNode{
		hello: func(peer Identity) error { heard <- peer.Full; return nil },
		join:  func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nil },
	})
	for role, want := range map[nexusraft.Role]bool{
		nexusraft.RoleMember: true, nexusraft.RoleWitness: false, "": false,
	} {
		csr, key, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		text, err := pki.Sign(ca, csr, subject(nodeB), time.Now(), time.Hour)
		if role != "" {
			text, err = pki.SignNode(ca, csr, subject(nodeB), role, time.Now(), time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
		own, err := pki.Pair{Cert: text, Key: key}.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		claim := identityB
		claim.Witness = false
		if err := join(t.Context(), dialWith(t, addr, anyServer(own)), hello(claim, nodeA)); err != nil {
			t.Fatalf("role %v: %v", role, err)
		}
		if got := <-heard; got != want {
			t.Errorf("a certificate of role %q proves a full node: %v, want %v", role, got, want)
		}
	}
}

func pairOf(t *testing.T, ca pki.Pair) tls.Certificate {
	t.Helper()
	cert, err := ca.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func checkRefusal(t *testing.T, method string, err error, says string, passes bool) {
	t.Helper()
	refused := err != nil && errors.Is(asRefusal(err), nexusraft.ErrRefused)
	switch {
	case passes && refused:
		t.Errorf("%s: got %v, want it to pass the handshake", method, err)
	case !passes && (!refused || !strings.Contains(err.Error(), says)):
		t.Errorf("%s: got %v, want ErrRefused with %q", method, err, says)
	}
}

// A node that joins without belonging to a cluster must have a certificate of this one, if any.
func TestJoinWithCertificateOfNoCluster(t *testing.T) {
	ca := testCA(t)
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), &fakeNode{
		join: func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nil },
	})
	joiner := identityB
	joiner.Cluster = 0
	for says, s := range map[string]pki.Subject{"": subject(nodeB), "node mismatch": subject(0xd)} {
		conn := dialWith(t, addr, anyServer(certificate(t, ca, s, time.Now())))
		checkRefusal(t, "Join", join(t.Context(), conn, hello(joiner, 0)), says, says == "")
	}
}

func TestPlainJoinerIsToldThatTLSIsMissing(t *testing.T) {
	addr := serveTLS(t, testTLS(testCertificates(t, testCA(t), subject(nodeA))), &fakeNode{})
	_, err := peersOf(t, identityB, PeersOptions{}).Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "if it speaks TLS") {
		t.Errorf("got %v, want ErrUnreachable and the way out", err)
	}
}

// Two nodes talk by TLS, all the way from Send to Receive; an impostor at the address gets nothing.
func TestPeersWithTLS(t *testing.T) {
	ca := testCA(t)
	received := make(chan Message, 1)
	f := &fakeNode{receive: func(_ nexusraft.NodeID, m []Message) { received <- m[0] }}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f)
	peers := NewPeers(as(identityB), PeersOptions{
		TLS:         testTLS(testCertificates(t, ca, subject(nodeB))),
		VoteTimeout: 5 * time.Second,
	})
	defer peers.Close()
	peers.SetAddress(nodeA, addr)
	peers.SetAddress(0xd, addr) // where node A answers
	peers.Send(0xd, Append, Message{Zone: 1, Data: []byte("secret")})
	peers.Send(nodeA, Append, Message{Zone: 1, Data: []byte("hello")})
	select {
	case m := <-received:
		if string(m.Data) != "hello" {
			t.Errorf("got %q, want what was sent to this node", m.Data)
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
	}
	for _, row := range peers.Stats() {
		if row.Peer == 0xd && row.Connected {
			t.Error("connected to a node that is another one")
		}
	}
}
