package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
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
	text, err := ca.Sign(csr, s, then, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Pair{Cert: text, Key: key}.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func testCertificates(t *testing.T, ca pki.Pair, s pki.Subject) Certificates {
	t.Helper()
	roots, err := pki.Pool(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return Certificates{Own: certificate(t, ca, s, time.Now()), Roots: roots}
}

func testTLS(c Certificates) *TLS {
	return NewTLS(func() (Certificates, error) { return c, nil })
}

func subject(node nexusraft.NodeID) pki.Subject { return pki.Subject{Cluster: testCluster, Node: node} }

// serveTLS runs a server of node A with TLS, and the services given besides.
func serveTLS(t *testing.T, security *TLS, f *fakeNode, more ...grpc.ServerOption) (addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(security.ServerOptions(), more...)...)
	NewServer(as(identityA), f, f).Register(srv)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
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
	resp, err := pb.NewClusterClient(conn).Join(ctx, &pb.JoinRequest{Hello: h, Role: wire.RoleToProto(nexusraft.RoleMember)})
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
		"the node itself":     {[]tls.Certificate{b}, "", false},
		"another node":        {[]tls.Certificate{certificate(t, ca, subject(0xd), now)}, "peer 000000000000000b shows the certificate of node 000000000000000d", false},
		"a client":            {[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, now)}, `the certificate of client "ann"`, false},
		"nobody":              {nil, "has no certificate that node 000000000000000a believes", true},
		"of another cluster":  {[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeB}, now)}, "cluster mismatch", true},
		"one that expired":    {[]tls.Certificate{certificate(t, ca, subject(nodeB), now.Add(-4*time.Hour))}, "expired 3h0m", true},
		"one of the future":   {[]tls.Certificate{certificate(t, ca, subject(nodeB), now.Add(3*time.Hour))}, "not valid for another", true},
		"of a self-made CA":   {[]tls.Certificate{certificate(t, stranger, subject(nodeB), now)}, "not believed here", true},
		"the cluster's CA":    {[]tls.Certificate{pairOf(t, ca)}, "needs exactly one", true},
		"the stranger's CA":   {[]tls.Certificate{pairOf(t, stranger)}, "needs exactly one", true},
		"no node, no cluster": {[]tls.Certificate{certificate(t, stranger, pki.Subject{Cluster: 0xc2, Client: "ann"}, now)}, "not believed here", true},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialWith(t, addr, anyServer(tc.own...))
			for method, call := range calls {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				err := call(ctx, conn, hello(identityB, nodeA))
				cancel()
				checkRefusal(t, method, err, tc.says, tc.says == "")
			}
			checkRefusal(t, "Join as a node of the cluster", join(t.Context(), conn, hello(identityB, nodeA)), tc.says, tc.says == "")
			joiner := identityB
			joiner.Cluster = 0
			checkRefusal(t, "Join", join(t.Context(), conn, hello(joiner, nodeA)), tc.says, tc.says == "" || tc.join)
		})
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
		"the node":           {mine, nodeA, good, ""},
		"any node":           {mine, 0, good, ""},
		"by the pin":         {Certificates{Pin: &pin}, 0, good, ""},
		"another node":       {mine, 0xd, good, "node mismatch: node 000000000000000d was asked, but node 000000000000000a answers"},
		"a client":           {mine, 0, certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, now), "extended key usage"},
		"of another cluster": {mine, nodeA, certificate(t, ca, pki.Subject{Cluster: 0xc2, Node: nodeA}, now), "cluster mismatch"},
		"expired":            {mine, nodeA, certificate(t, ca, subject(nodeA), now.Add(-4*time.Hour)), "expired 3h0m"},
		"of a self-made CA":  {mine, nodeA, certificate(t, stranger, subject(nodeA), now), "not believed here"},
		"not by the pin":     {Certificates{Pin: &pin}, 0, certificate(t, stranger, subject(nodeA), now), "another cluster than the one that made the join token"},
		"believing nobody":   {Certificates{}, 0, good, "no CA is known"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveTLS(t, testTLS(Certificates{Own: tc.server, Roots: mine.Roots}), &fakeNode{
				status: func(context.Context) (nexusraft.NodeStatus, error) { return nexusraft.NodeStatus{}, nil },
			})
			conn := dialWith(t, addr, testTLS(tc.client).ClientCredentials(tc.asked))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
			if (err == nil) != (tc.says == "") || err != nil && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func TestPlainAndTLSDoNotMix(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	f := &fakeNode{}
	secure := serveTLS(t, security, f)
	open, _ := serve(t, identityA, f)
	for name, tc := range map[string]struct {
		addr  string
		creds credentials.TransportCredentials
		says  string
	}{
		"plain text to a TLS port": {secure, insecure.NewCredentials(), "error reading server preface"},
		"TLS to a plain port":      {open, security.ClientCredentials(nodeA), "does not speak TLS"},
		"TLS 1.2 to a TLS port":    {secure, credentials.NewTLS(&tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}), "protocol version not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := healthpb.NewHealthClient(dialWith(t, tc.addr, tc.creds)).Check(ctx, &healthpb.HealthCheckRequest{})
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want UNAVAILABLE with %q", err, tc.says)
			}
		})
	}
}

func TestPlainJoinerIsToldThatTLSIsMissing(t *testing.T) {
	addr := serveTLS(t, testTLS(testCertificates(t, testCA(t), subject(nodeA))), &fakeNode{})
	_, err := peersOf(t, identityB, PeersOptions{}).Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "if it speaks TLS") {
		t.Errorf("got %v, want ErrUnreachable and the way out", err)
	}
}

func TestCallerOf(t *testing.T) {
	ca := testCA(t)
	var mu sync.Mutex
	var got Caller
	var known, encrypted bool
	f := &fakeNode{status: func(ctx context.Context) (nexusraft.NodeStatus, error) {
		mu.Lock()
		defer mu.Unlock()
		got, known = CallerOf(ctx)
		encrypted = Encrypted(ctx)
		return nexusraft.NodeStatus{}, nil
	}}
	secure := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f)
	open, _ := serve(t, identityA, f)
	ann := pki.Subject{Cluster: testCluster, Client: "ann"}
	for name, tc := range map[string]struct {
		addr             string
		creds            credentials.TransportCredentials
		want             Caller
		known, encrypted bool
	}{
		"a client":  {secure, anyServer(certificate(t, ca, ann, time.Now())), Caller{Cluster: testCluster, Client: "ann"}, true, true},
		"a node":    {secure, anyServer(certificate(t, ca, subject(nodeB), time.Now())), Caller{Cluster: testCluster, Node: nodeB}, true, true},
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
	f := &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) { return nexusraft.NodeStatus{}, nil }}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f, GuardOptions()...)
	for name, tc := range map[string]struct {
		own  []tls.Certificate
		want codes.Code
	}{
		"a client": {[]tls.Certificate{certificate(t, ca, pki.Subject{Cluster: testCluster, Client: "ann"}, time.Now())}, codes.OK},
		"nobody":   {nil, codes.Unauthenticated},
	} {
		conn := dialWith(t, addr, anyServer(tc.own...))
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: health: %v", name, err)
		}
		if _, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{}); status.Code(err) != tc.want {
			t.Errorf("%s: status: got %v, want %v", name, err, tc.want)
		}
		if err := calls["Exchange"](t.Context(), conn, nil); (status.Code(err) == codes.Unauthenticated) != (tc.want != codes.OK) {
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
	addr := serveTLS(t, security, &fakeNode{vote: func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) { return nil, nil }})
	caller := func(ca pki.Pair) *grpc.ClientConn {
		return dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	}
	before, after := caller(ca), caller(next)
	vote := func(conn *grpc.ClientConn) error {
		return calls["RequestVote"](t.Context(), conn, hello(identityB, nodeA))
	}
	if err := vote(before); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	now = testCertificates(t, next, subject(nodeA))
	mu.Unlock()
	if err := vote(after); err != nil {
		t.Errorf("with the new CA: %v", err)
	}
	if err := vote(caller(ca)); err == nil {
		t.Error("a new connection with the former CA passes")
	}
	if err := vote(before); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
}

func TestBrokenSource(t *testing.T) {
	security := NewTLS(func() (Certificates, error) { return Certificates{}, errors.New("the dog ate them") })
	_, err := healthpb.NewHealthClient(dialWith(t, serveTLS(t, security, &fakeNode{}), security.ClientCredentials(0))).Check(t.Context(), &healthpb.HealthCheckRequest{})
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

// Two nodes talk by TLS, all the way from Send to Receive; an impostor at the address gets nothing.
func TestPeersWithTLS(t *testing.T) {
	ca := testCA(t)
	received := make(chan Message, 1)
	f := &fakeNode{receive: func(_ nexusraft.NodeID, m []Message) { received <- m[0] }}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f)
	peers := NewPeers(as(identityB), PeersOptions{TLS: testTLS(testCertificates(t, ca, subject(nodeB))), VoteTimeout: 5 * time.Second})
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
	case <-time.After(10 * time.Second):
		t.Fatal("nothing arrived within 10 s")
	}
	for _, row := range peers.Stats() {
		if row.Peer == 0xd && row.Connected {
			t.Error("connected to a node that is another one")
		}
	}
}
