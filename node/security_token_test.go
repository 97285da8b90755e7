package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

// shown is what somebody hears who is asked to let a node in.
type shown struct {
	request *pb.JoinRequest
	md      metadata.MD
}

// spy listens with the certificate of a node that was captured, where a new member asks to join.
type spy struct {
	pb.UnimplementedClusterServer
	heard chan shown
}

func (s spy) Join(ctx context.Context, r *pb.JoinRequest) (*pb.JoinResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	select {
	case s.heard <- shown{r, md}:
	default:
	}
	return nil, status.Error(codes.Unavailable, "later")
}

// stranger asks to join in a node's name, over TLS, with nothing but a token.
func stranger(t *testing.T, token pki.Token, self transport.Identity) *transport.Peers {
	t.Helper()
	peers := transport.NewPeers(func() transport.Identity { return self }, transport.PeersOptions{
		TLS: mtls.NewTLS(func() (mtls.Certificates, error) { return mtls.Certificates{Pin: &token.CA}, nil }),
	})
	t.Cleanup(peers.Close)
	return peers
}

func newRequest(t *testing.T) []byte {
	t.Helper()
	request, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// A node that joins by way of a captured witness tells it nothing with which the witness, or
// anybody, could join.
func TestJoinTokenIsNotToldToAWitness(t *testing.T) {
	t.Parallel()
	leader := found(t, secureConfig(t, "n1"))
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, leader, nexusraft.RoleMember)
	join(t, c, leader)
	stop := runWitness(t, witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, leader, nexusraft.RoleWitness),
		Join: []string{leader.config.Advertise}, TickInterval: node.TestTick,
	})
	security := stolen(t, leader, witnessOf(t, leader))
	stop()
	lis := listen(t, "")
	server := grpc.NewServer(mtls.NewLimits(mtls.LimitOptions{}).ServerOptions(security)...)
	s := spy{heard: make(chan shown, 1)}
	pb.RegisterClusterServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	defer func() { server.Stop(); <-served }()

	c = secureConfig(t, "n3")
	c.JoinToken = newToken(t, leader, nexusraft.RoleMember)
	c.Join, c.JoinTimeout = []string{lis.Addr().String()}, time.Second
	joiner, err := node.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := joiner.Run(t.Context(), listen(t, ""), nil); err == nil {
		t.Error("the witness let it in")
	}
	heard := <-s.heard
	token, err := pki.ParseToken(c.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	secret := string(token.Secret[:])
	if len(heard.request.GetTokenSecret()) > 0 || strings.Contains(heard.request.String(), secret) ||
		strings.Contains(fmt.Sprint(heard.md), secret) {
		t.Fatalf("it was told the secret: %v", heard.request)
	}
	// It says to a member what it was told, proof and all.
	ctx := t.Context()
	for k, v := range heard.md {
		if strings.HasPrefix(k, "nexus-") {
			ctx = metadata.AppendToOutgoingContext(ctx, k, v[0])
		}
	}
	resp, err := pb.NewClusterClient(secureConn(t, leader, mtls.NewTLS(func() (mtls.Certificates, error) {
		return mtls.Certificates{Pin: &token.CA}, nil
	}))).Join(ctx, heard.request)
	if err != nil || resp.GetError() == nil || !strings.Contains(resp.String(), "not known here") {
		t.Errorf("with what it was told: got %v, %v, want a refusal", resp, err)
	}
	// The token is as good as before.
	c.Dir = t.TempDir()
	c.Join, c.JoinTimeout = []string{leader.config.Advertise}, 0
	start(t, c).zone()
}

// A token for one lets one in, however many ask at once, and signs for the key that it was used
// with, for no other.
func TestTokenForOneUsedByMany(t *testing.T) {
	t.Parallel()
	leader := found(t, secureConfig(t, "n1"))
	token, err := pki.ParseToken(newToken(t, leader, nexusraft.RoleMember))
	if err != nil {
		t.Fatal(err)
	}
	identity := func(i int) transport.Identity {
		return transport.Identity{
			Node: nexusraft.NodeID(1000 + i), Incarnation: 1, Boot: 1,
			Address: fmt.Sprintf("127.0.0.1:%d", 1+i), Name: fmt.Sprint("x", i),
		}
	}
	requests := make([][]byte, 8)
	in := make([]bool, len(requests))
	var wg sync.WaitGroup
	for i := range requests {
		requests[i] = newRequest(t)
		peers := stranger(t, token, identity(i))
		wg.Go(func() {
			for range 3 {
				r, err := peers.Join(t.Context(), leader.config.Advertise,
					transport.JoinRequest{Role: nexusraft.RoleMember, Token: token, CertificateRequest: requests[i]})
				in[i] = in[i] || err == nil && len(r.Certificate) > 0
			}
		})
	}
	wg.Wait()
	admitted := -1
	for i := range in {
		if in[i] && admitted >= 0 {
			t.Errorf("nodes %d and %d are in with a token for one", admitted, i)
		}
		if in[i] {
			admitted = i
		}
	}
	if admitted < 0 {
		t.Fatal("nobody is in")
	}
	again := stranger(t, token, identity(admitted))
	r, err := again.Join(t.Context(), leader.config.Advertise, transport.JoinRequest{
		Role:  nexusraft.RoleMember,
		Token: token, CertificateRequest: requests[admitted],
	})
	if err != nil || len(r.Certificate) == 0 {
		t.Errorf("the same once more, as if the answer was lost: got %v", err)
	}
	_, err = again.Join(t.Context(), leader.config.Advertise, transport.JoinRequest{
		Role:  nexusraft.RoleMember,
		Token: token, CertificateRequest: newRequest(t),
	})
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "with another key") {
		t.Errorf("with another key: got %v, want ErrRefused", err)
	}
}

// A fresh token for its role gives a node of the cluster a certificate, and nothing else does.
func TestTokenRenews(t *testing.T) {
	e := newExpiring(t)
	leader := e.members[0]
	w, other := witnessOf(t, leader), e.members[1].node.ID()
	asWitness, asMember := newToken(t, leader, nexusraft.RoleWitness), newToken(t, leader, nexusraft.RoleMember)
	for name, tc := range map[string]struct {
		node  nexusraft.NodeID
		token string
		says  string // "": it is renewed
	}{
		"a witness by a member's token": {w, asMember, "is for a member"},
		"a member by a witness's token": {other, asWitness, "is for a witness"},
		"a node that is none":           {7, asMember, "not in the cluster"},
	} {
		if err := renewByToken(t, leader, tc.node, tc.token); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %q", name, err, tc.says)
		}
	}
	wrong, err := pki.ParseToken(asWitness)
	if err != nil {
		t.Fatal(err)
	}
	wrong.Secret[0]++
	if err := renewByToken(t, leader, w, wrong.String()); err == nil || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("with a wrong token: got %v", err)
	}
	if err := renewByToken(t, leader, w, asWitness); err != nil {
		t.Errorf("the witness by its token: got %v, want none", err)
	}
	if err := renewByToken(t, leader, w, asWitness); err == nil || !strings.Contains(err.Error(), "with another key") {
		t.Errorf("the same token for another key: got %v, want it refused", err)
	}
}

// A spent token of which no key is known, since an earlier release has applied its use, gives
// nobody the certificate of the node that joined with it.
func TestSpentTokenOfAnEarlierReleaseDoesNotRenew(t *testing.T) {
	e := newExpiring(t)
	leader, w := e.members[0], witnessOf(t, e.members[0])
	text := newToken(t, leader, nexusraft.RoleWitness)
	token, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.node.SpendWithoutKey(t.Context(), token, w); err != nil {
		t.Fatal(err)
	}
	if err := renewByToken(t, leader, w, text); err == nil ||
		!strings.Contains(err.Error(), "a key that is not known here") {
		t.Errorf("got %v, want it refused", err)
	}
}

func renewByToken(t *testing.T, m *member, id nexusraft.NodeID, text string) error {
	t.Helper()
	token, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	peers := stranger(t, token, transport.Identity{Node: id, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1"})
	_, err = peers.Renew(t.Context(), m.config.Advertise, transport.RenewRequest{
		Node:               id,
		CertificateRequest: newRequest(t), Token: token,
	})
	return err
}

func TestTokenNeedsARole(t *testing.T) {
	t.Parallel()
	n1 := found(t, secureConfig(t, "n1"))
	for _, role := range []nexusraft.Role{"", nexusraft.RoleLearner, "any"} {
		_, _, err := n1.node.Credentials().CreateToken(t.Context(), role, time.Hour, 1)
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("role %q: got %v, want ErrRefused", role, err)
		}
	}
}
