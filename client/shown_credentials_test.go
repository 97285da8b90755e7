package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// authority signs for the tests' cluster.
type authority struct{ pki.Pair }

func newAuthority(t *testing.T) authority {
	t.Helper()
	ca, err := pki.NewCA(0xc1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{ca}
}

func (a authority) sign(t *testing.T, s pki.Subject) pki.Pair {
	t.Helper()
	return a.signAt(t, s, time.Now())
}

// signAt signs for an hour from then on.
func (a authority) signAt(t *testing.T, s pki.Subject, then time.Time) pki.Pair {
	t.Helper()
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(a.Pair, csr, s, then, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return pki.Pair{Cert: cert, Key: key}
}

var (
	aNode = pki.Subject{Cluster: 0xc1, Node: 0xa}
	ann   = pki.Subject{Cluster: 0xc1, Client: "ann"}
)

// witnessing notes which client asks for a status, and with what token.
type witnessing struct {
	pb.UnimplementedClusterServer
	bearer chan []string
	shown  chan int // certificates
}

func (w witnessing) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	w.bearer <- md.Get("authorization")
	p, _ := peer.FromContext(ctx)
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	w.shown <- len(info.State.PeerCertificates)
	return &pb.StatusResponse{Status: &pb.NodeStatus{}}, nil
}

// serveStatus runs a server, with the certificate own if it is given.
func serveStatus(t *testing.T, own ...pki.Pair) (string, witnessing) {
	t.Helper()
	var options []grpc.ServerOption
	for _, p := range own {
		cert, err := p.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{cert},
			ClientAuth:   tls.RequestClientCert,
		})))
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := witnessing{bearer: make(chan []string, 1), shown: make(chan int, 1)}
	srv := grpc.NewServer(options...)
	pb.RegisterClusterServer(srv, w)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String(), w
}

func TestCredentials(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	secure, seen := serveStatus(t, ca.sign(t, aNode))
	open, openly := serveStatus(t)
	impostor, _ := serveStatus(t, stranger.sign(t, aNode))
	client, _ := serveStatus(t, ca.sign(t, ann))
	full := pki.Bundle{Pair: ca.sign(t, ann), Roots: ca.Cert, Token: "nrt1-secret"}.PEM()
	byToken := pki.Bundle{Roots: ca.Cert, Token: "nrt1-secret"}.PEM()
	other := pki.Bundle{Pair: ca.sign(t, pki.Subject{Cluster: 0xc2, Client: "ann"}), Roots: ca.Cert}.PEM()
	for name, tc := range map[string]struct {
		endpoint    string
		credentials []byte
		says        string // "": it passes
		at          witnessing
		certs       int
		bearer      bool
	}{
		"everything":            {secure, full, "", seen, 2, true},
		"by https":              {"https://" + secure, full, "", seen, 2, true},
		"a token":               {secure, byToken, "", seen, 0, true},
		"plain":                 {open, nil, "", openly, 0, false},
		"plain in spite of all": {"http://" + open, full, "", openly, 0, false},
		"plain to TLS":          {secure, nil, "if it speaks TLS, credentials are needed", seen, 0, false},
		"TLS to plain":          {open, full, "does not speak TLS; leave the credentials out", openly, 0, false},
		"another CA's":          {impostor, full, "not believed here", seen, 0, false},
		"no node":               {client, full, "extended key usage", seen, 0, false},
		"another cluster":       {secure, other, "cluster mismatch", seen, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := New(Options{
				Endpoints: []string{tc.endpoint}, Credentials: tc.credentials, DialTimeout: 5 * time.Second,
				AttemptTimeout: 10 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Status(t.Context(), tc.endpoint)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "nrt1-secret") {
					t.Errorf("got %v, want %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if certs, bearer := <-tc.at.shown, <-tc.at.bearer; certs != tc.certs ||
				(len(bearer) == 1 && bearer[0] == "Bearer nrt1-secret") != tc.bearer {
				t.Errorf("the node saw %d certificates and %q, want %d and a token: %t", certs, bearer, tc.certs, tc.bearer)
			}
		})
	}
}

// Calls end once every endpoint has shown a certificate that is not believed; as long as one may
// come to be reached, they go on.
func TestNobodyIsBelieved(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	first, _ := serveStatus(t, stranger.sign(t, aNode))
	second, _ := serveStatus(t, stranger.sign(t, aNode))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close() // nobody listens there
	get := func(within time.Duration, endpoints ...string) error {
		c := connect(t, Options{
			Endpoints: endpoints, Credentials: pki.Bundle{Pair: ca.sign(t, ann), Roots: ca.Cert}.PEM(),
			DialTimeout: 5 * time.Second,
		})
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, _, err := c.Get(ctx, []byte("k"))
		return err
	}
	if err := get(time.Minute, first, second); !errors.Is(err, nexusraft.ErrRefused) ||
		errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read from two impostors: %v, want ErrRefused at once", err)
	}
	late, _ := serveStatus(t, ca.signAt(t, aNode, time.Now().Add(-2*time.Hour)))
	if err = get(2*time.Second, late); !errors.Is(err, nexusraft.ErrRefused) ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read from a node whose certificate has expired: %v, want it to be tried until the time is over", err)
	}
	err = get(2*time.Second, first, lis.Addr().String())
	if !errors.Is(err, nexusraft.ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read from an impostor and a node that is down: %v, want both, and the end of the time", err)
	}
}

// Why a handshake has failed is known until another one has ended: while the next attempt connects, a call must
// not be told that something else listens there.
func TestFailureOutlivesTheNextDial(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	for _, plain := range []bool{false, true} {
		e := &endpoint{address: lis.Addr().String(), plain: plain}
		e.failure.Store(&nexusraft.ErrRefused)
		conn, err := e.dial(t.Context(), lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := *e.failure.Load(); (got == nil) != plain {
			t.Errorf("plain %v: after a dial the last failure is %v", plain, got)
		}
	}
}

// A token of its own goes with each request, in place of the one in the credentials, which may be
// the CA's certificate alone.
func TestBearerToken(t *testing.T) {
	ca := newAuthority(t)
	secure, seen := serveStatus(t, ca.sign(t, aNode))
	for name, credentials := range map[string][]byte{
		"the CA alone":  ca.Cert,
		"another token": pki.Bundle{Roots: ca.Cert, Token: "nrt1-other"}.PEM(),
		"a certificate": pki.Bundle{Pair: ca.sign(t, ann), Roots: ca.Cert}.PEM(),
	} {
		c := connect(t, Options{
			Endpoints: []string{secure}, Credentials: credentials, BearerToken: "nra1-own",
			DialTimeout: 5 * time.Second, AttemptTimeout: 10 * time.Second,
		})
		if _, err := c.Status(t.Context(), secure); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		<-seen.shown
		if got := <-seen.bearer; len(got) != 1 || got[0] != "Bearer nra1-own" {
			t.Errorf("%s: the node saw %q, want the option's token", name, got)
		}
	}
}

// tokensSeen counts a server's calls, and those of them that tell a token.
type tokensSeen struct{ calls, told atomic.Int64 }

// watched runs a node with a certificate and notes the tokens of all calls, of unknown methods,
// too.
func watched(t *testing.T, own pki.Pair, register func(*grpc.Server)) (string, *tokensSeen) {
	t.Helper()
	cert, err := own.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := new(tokensSeen)
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})),
		grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
			seen.calls.Add(1)
			if len(call.Header.Get("authorization")) > 0 {
				seen.told.Add(1)
			}
			return ctx, nil
		}))
	register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String(), seen
}

// A witness is among the endpoints, and named by the members, too. It is never told the token; a
// node whose certificate does not say what it is, is told.
func TestTokenIsNotToldToAWitness(t *testing.T) {
	ca := newAuthority(t)
	certificate := func(node nexusraft.NodeID, role nexusraft.Role) pki.Pair {
		csr, key, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pki.SignNode(ca.Pair, csr, pki.Subject{Cluster: 0xc1, Node: node}, role, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return pki.Pair{Cert: cert, Key: key}
	}
	asWitness := func(srv *grpc.Server) {
		pb.RegisterClusterServer(srv, pb.UnimplementedClusterServer{})
	}
	witness, seen := watched(t, certificate(0xc, nexusraft.RoleWitness), asWitness)
	unclear, told := watched(t, ca.sign(t, pki.Subject{Cluster: 0xc1, Node: 0xd}), asWitness)
	member := &fakeNode{status: &pb.StatusResponse{Status: wire.NodeStatusToProto(nexusraft.NodeStatus{
		Cluster: 0xc1, Node: 0xa, Zones: []nexusraft.ZoneStatus{{
			Zone: 1,
			Membership: nexusraft.Membership{Members: []nexusraft.Member{
				{Replica: 3, Node: 0xc, Address: witness, Role: nexusraft.RoleWitness},
			}},
		}},
	})}}
	address, _ := watched(t, certificate(0xa, nexusraft.RoleMember), func(srv *grpc.Server) {
		etcdserverpb.RegisterKVServer(srv, member)
		pb.RegisterClusterServer(srv, member)
	})
	for name, endpoints := range map[string][]string{
		"among the endpoints": {witness, unclear, address},
		"named by a member":   {address},
	} {
		before := seen.calls.Load()
		c := connect(t, Options{
			Endpoints: endpoints, Credentials: ca.Cert, BearerToken: "nra1-own",
			DialTimeout: 5 * time.Second, AttemptTimeout: 10 * time.Second,
		})
		if _, err := c.Put(t.Context(), []byte("k"), []byte("v")); err != nil {
			t.Errorf("%s: put: %v", name, err)
		}
		answers := c.Survey(t.Context())
		if !slices.ContainsFunc(answers, func(a Answer) bool { return a.Err == nil && a.Status.Node == 0xa }) {
			t.Errorf("%s: the survey finds no member: %+v", name, answers)
		}
		if seen.calls.Load() == before {
			t.Errorf("%s: the witness was not asked: the test shows nothing", name)
		}
	}
	options, err := DialOptions(ca.Cert, "nra1-own")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(witness, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := etcdserverpb.NewKVClient(conn).Range(t.Context(),
		&etcdserverpb.RangeRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a connection of one's own: got %v, want Unimplemented", err)
	}
	if n := seen.told.Load(); n > 0 {
		t.Errorf("the witness was told the token in %d of %d calls", n, seen.calls.Load())
	}
	if told.calls.Load() == 0 || told.told.Load() != told.calls.Load() {
		t.Errorf("a node that may be a member was told the token in %d of %d calls", told.told.Load(), told.calls.Load())
	}
}

func TestTokenCredentials(t *testing.T) {
	ca := newAuthority(t)
	secure, seen := serveStatus(t, ca.sign(t, aNode))
	full := pki.Bundle{Pair: ca.sign(t, ann), Roots: ca.Cert, Token: "nrt1-old"}.PEM()
	made, err := TokenCredentials(full, "nra1-new")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, Options{
		Endpoints: []string{secure}, Credentials: made, DialTimeout: 5 * time.Second,
		AttemptTimeout: 10 * time.Second,
	})
	if _, err := c.Status(t.Context(), secure); err != nil {
		t.Fatal(err)
	}
	if certs, bearer := <-seen.shown, <-seen.bearer; certs != 0 || len(bearer) != 1 || bearer[0] != "Bearer nra1-new" {
		t.Errorf("the node saw %d certificates and %q, want the new token alone", certs, bearer)
	}
	for says, bad := range map[string]struct {
		others []byte
		token  string
	}{
		"CERTIFICATE":   {nil, "nra1-secret"},
		"visible ASCII": {full, "nra1-secret\n"},
	} {
		if got, err := AuthorityOf(bad.others); (err == nil) != (string(got) == string(ca.Cert)) ||
			(err == nil) != (bad.others != nil) {
			t.Errorf("authority: got %q, %v", got, err)
		}
		if _, err := TokenCredentials(bad.others, bad.token); err == nil || !strings.Contains(err.Error(), says) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}

func TestBadSecurityOptions(t *testing.T) {
	ca := newAuthority(t)
	good := pki.Bundle{Roots: ca.Cert}.PEM()
	for _, tc := range []struct {
		endpoint    string
		credentials []byte
		token       string
		says        string
	}{
		{"https://a:1", nil, "", "needs credentials"},
		{"ftp://a:1", good, "", "unknown scheme"},
		{"https://a", good, "", "not host:port"},
		{"https://a:1/x", good, "", "host:port alone"},
		{"http://u:secret@a:1", good, "", "host:port alone"},
		{"a:1", []byte{}, "", "CERTIFICATE"},
		{"a:1", []byte("hello"), "", "CERTIFICATE"},
		{"a:1", pki.Bundle{Pair: ca.Pair, Roots: ca.Cert}.PEM(), "", "client's certificate"},
		{"a:1", nil, "secret", "needs credentials, too"},
		{"http://a:1", good, "secret", "is not encrypted"},
		{"http://u:secret@a:1", good, "secret", "host:port alone"},
		{"a:1", good, "sec ret", "visible ASCII"},
		{"a:1", good, "secret\r\nx: y", "visible ASCII"},
		{"a:1", good, strings.Repeat("secret", 1000), "visible ASCII"},
	} {
		_, err := New(Options{Endpoints: []string{tc.endpoint}, Credentials: tc.credentials, BearerToken: tc.token})
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "secret") ||
			strings.Contains(err.Error(), "sec ret") {
			t.Errorf("%s: got %v, want %q", tc.endpoint, err, tc.says)
		}
	}
}

// A node may name any address as the leader's or a member's: none of them turns encryption off.
func TestNamedEndpointsAreNotDowngraded(t *testing.T) {
	o := Options{Endpoints: []string{"http://mine:1"}, Credentials: []byte("some")}
	if _, encrypted, err := o.security("http://mine:1"); err != nil || encrypted {
		t.Errorf("the user's own: got %t, %v, want plain", encrypted, err)
	}
	if _, _, err := o.security("http://theirs:1"); err == nil || !strings.Contains(err.Error(), "is not encrypted") {
		t.Errorf("another's: got %v, want it refused", err)
	}
	if _, encrypted, err := o.security("theirs:1"); err != nil || !encrypted {
		t.Errorf("another's without scheme: got %t, %v, want it encrypted", encrypted, err)
	}
}

// A connection of one's own takes what a client takes.
func TestDialOptionsRefuse(t *testing.T) {
	for name, x := range map[string]struct {
		credentials string
		token       string
		says        string
	}{
		"nothing":   {"", "", "CA"},
		"no PEM":    {"x", "", "credentials"},
		"two words": {"", "a b", "token"},
	} {
		if _, err := DialOptions([]byte(x.credentials), x.token); err == nil || !strings.Contains(err.Error(), x.says) ||
			!strings.HasPrefix(err.Error(), "client: ") {
			t.Errorf("%s: got %v, want an error about the %s", name, err, x.says)
		}
	}
}
