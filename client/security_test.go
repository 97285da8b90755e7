package client

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	nexusraftv1 "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
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
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, s, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return pki.Pair{Cert: cert, Key: key}
}

var (
	aNode = pki.Subject{Cluster: 0xc1, Node: 0xa}
	ann   = pki.Subject{Cluster: 0xc1, Client: "ann"}
)

// witnessing notes who asks for a status, and with what token.
type witnessing struct {
	nexusraftv1.UnimplementedClusterServer
	bearer chan []string
	shown  chan int // certificates
}

func (w witnessing) Status(ctx context.Context, _ *nexusraftv1.StatusRequest) (*nexusraftv1.StatusResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	w.bearer <- md.Get("authorization")
	p, _ := peer.FromContext(ctx)
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	w.shown <- len(info.State.PeerCertificates)
	return &nexusraftv1.StatusResponse{Status: &nexusraftv1.NodeStatus{}}, nil
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
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert})))
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := witnessing{bearer: make(chan []string, 1), shown: make(chan int, 1)}
	srv := grpc.NewServer(options...)
	nexusraftv1.RegisterClusterServer(srv, w)
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
			c, err := New(Options{Endpoints: []string{tc.endpoint}, Credentials: tc.credentials, DialTimeout: 5 * time.Second, AttemptTimeout: 10 * time.Second})
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
			if certs, bearer := <-tc.at.shown, <-tc.at.bearer; certs != tc.certs || (len(bearer) == 1 && bearer[0] == "Bearer nrt1-secret") != tc.bearer {
				t.Errorf("the node saw %d certificates and %q, want %d and a token: %t", certs, bearer, tc.certs, tc.bearer)
			}
		})
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
		c := connect(t, Options{Endpoints: []string{secure}, Credentials: credentials, BearerToken: "nra1-own", DialTimeout: 5 * time.Second, AttemptTimeout: 10 * time.Second})
		if _, err := c.Status(t.Context(), secure); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		<-seen.shown
		if got := <-seen.bearer; len(got) != 1 || got[0] != "Bearer nra1-own" {
			t.Errorf("%s: the node saw %q, want the option's token", name, got)
		}
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
	c := connect(t, Options{Endpoints: []string{secure}, Credentials: made, DialTimeout: 5 * time.Second, AttemptTimeout: 10 * time.Second})
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
		if got, err := AuthorityOf(bad.others); (err == nil) != (string(got) == string(ca.Cert)) || (err == nil) != (bad.others != nil) {
			t.Errorf("authority: got %q, %v", got, err)
		}
		if _, err := TokenCredentials(bad.others, bad.token); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") {
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
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sec ret") {
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
		if _, err := DialOptions([]byte(x.credentials), x.token); err == nil || !strings.Contains(err.Error(), x.says) || !strings.HasPrefix(err.Error(), "client: ") {
			t.Errorf("%s: got %v, want an error about the %s", name, err, x.says)
		}
	}
}
