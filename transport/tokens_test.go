package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// proofKey is where a call carries the proof.
const proofKey = "nexus-token-proof-bin"

// checker is a node that knows one join token.
type checker struct {
	*fakeNode
	hash [32]byte
}

func (c *checker) handlers() Handlers {
	h := c.fakeNode.handlers()
	h.CheckToken = c.CheckToken
	return h
}

func (c *checker) CheckToken(_ context.Context, p mtls.TokenProof) error {
	if !p.Of(c.hash[:]) {
		return errors.New("wrong token")
	}
	return nil
}

func testToken(t *testing.T, ca pki.Pair) pki.Token {
	t.Helper()
	token, err := pki.NewToken(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func joiner() Identity {
	id := identityB
	id.Cluster = 0
	return id
}

// A proof is good on the connection that it was made for, and the secret stays where it is.
func TestTokenIsProvedAndNotTold(t *testing.T) {
	ca := testCA(t)
	token := testToken(t, ca)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	var shown []metadata.MD
	var requests []*pb.JoinRequest
	spy := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo,
		handle grpc.UnaryHandler,
	) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		shown, requests = append(shown, md), append(requests, req.(*pb.JoinRequest))
		return handle(ctx, req)
	})
	hash := token.Hash()
	var proved []bool
	f := &fakeNode{join: func(_ context.Context, r JoinRequest) (JoinResult, error) {
		proved = append(proved, r.Proof.Of(hash[:]))
		return JoinResult{}, nexusraft.ErrRefused
	}}
	addr := serveTLS(t, security, f, spy)
	peers := peersOf(t, joiner(), PeersOptions{TLS: testTLS(mtls.Certificates{Pin: &token.CA})})
	for range 2 {
		_, _ = peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember, Token: token})
	}
	if len(proved) != 2 || !proved[0] || !proved[1] {
		t.Fatalf("proved: %v, want twice true", proved)
	}
	first, second := shown[0].Get(proofKey)[0], shown[1].Get(proofKey)[0]
	if first == second {
		t.Error("two connections have the same proof")
	}
	for i, r := range requests {
		if len(r.GetTokenSecret()) > 0 || strings.Contains(first+second+r.String(), string(token.Secret[:])) {
			t.Errorf("request %d tells the secret", i)
		}
	}
	// Whoever was shown a proof shows it elsewhere.
	conn := dialWith(t, addr, anyServer())
	for _, proof := range []string{first, second, "", string(make([]byte, 32))} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), proofKey, proof)
		_, err := pb.NewClusterClient(conn).Join(ctx, &pb.JoinRequest{
			Hello: hello(joiner(), 0), Role: pb.Role_ROLE_MEMBER,
			TokenId: token.ID[:],
		})
		if err != nil || proved[len(proved)-1] {
			t.Errorf("a proof from another connection: proved %t, %v", proved[len(proved)-1], err)
		}
	}
}

// Nodes of the release before tell the secret. It is taken, from them.
func TestTokenOfAnEarlierRelease(t *testing.T) {
	ca := testCA(t)
	token := testToken(t, ca)
	hash := token.Hash()
	got := make(chan bool, 1)
	f := &fakeNode{join: func(_ context.Context, r JoinRequest) (JoinResult, error) {
		got <- r.Proof.Of(hash[:])
		return JoinResult{}, nexusraft.ErrRefused
	}}
	conn := dialWith(t, serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f), anyServer())
	for secret, want := range map[[16]byte]bool{token.Secret: true, {1}: false} {
		_, err := pb.NewClusterClient(conn).Join(t.Context(), &pb.JoinRequest{
			Hello: hello(joiner(), 0), Role: pb.Role_ROLE_MEMBER, TokenId: token.ID[:], TokenSecret: secret[:],
		})
		if err != nil || <-got != want {
			t.Errorf("a secret that is right %t: %v", want, err)
		}
	}
}

// old is a member of the release before, which wants to be told the secret.
type old struct {
	pb.UnimplementedClusterServer
	asked chan *pb.JoinRequest
}

func (o old) Join(_ context.Context, r *pb.JoinRequest) (*pb.JoinResponse, error) {
	o.asked <- r
	h := hello(identityA, nexusraft.NodeID(r.GetHello().GetNodeId()))
	h.Minor = proofMinor - 1
	return &pb.JoinResponse{Hello: h, Result: &pb.JoinResponse_Error{Error: wire.ErrorToProto(
		fmt.Errorf("%w: a join token with an identifier of 8 and a secret of 0 bytes", nexusraft.ErrRefused),
	)}}, nil
}

func TestTokenIsNotToldToAnEarlierRelease(t *testing.T) {
	ca := testCA(t)
	token := testToken(t, ca)
	o := old{asked: make(chan *pb.JoinRequest, 10)}
	addr := serveOnly(t, testTLS(testCertificates(t, ca, subject(nodeA))),
		func(s *grpc.Server) { pb.RegisterClusterServer(s, o) })
	peers := peersOf(t, joiner(), PeersOptions{TLS: testTLS(mtls.Certificates{Pin: &token.CA})})
	_, err := peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember, Token: token})
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "update the members first") {
		t.Errorf("got %v, want a refusal with the way out", err)
	}
	if r := <-o.asked; len(r.GetTokenSecret()) > 0 || len(o.asked) > 0 {
		t.Errorf("it was told %v, and asked %d times more", r, len(o.asked))
	}
}

// A caller that shows no good token hears nothing of the nodes: not from the handshake, and not
// from the answer.
func TestStrangersAreToldNothing(t *testing.T) {
	ca := testCA(t)
	token := testToken(t, ca)
	node := &checker{hash: token.Hash(), fakeNode: &fakeNode{
		hello: func(Identity) error { return errors.New("incarnation 7 was seen") },
		join:  func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nexusraft.ErrRefused },
	}}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), node)
	conn := dialWith(t, addr, anyServer())
	resp, err := pb.NewClusterClient(conn).Join(t.Context(), &pb.JoinRequest{
		Hello: hello(joiner(), 0),
		Role:  pb.Role_ROLE_MEMBER,
	})
	if err != nil || !strings.Contains(resp.GetError().String(), "wrong token") ||
		strings.Contains(resp.String(), "seen") {
		t.Errorf("got %v, %v, want that the token is wrong and nothing else", resp, err)
	}
	if h := resp.GetHello(); h.GetIncarnation() != 0 || h.GetBoot() != 0 || len(h.GetEarlierBoots()) > 0 ||
		h.GetAddress() != "" || h.GetName() != "" {
		t.Errorf("an anonymous caller is told %v", h)
	}
	peers := peersOf(t, joiner(), PeersOptions{TLS: testTLS(mtls.Certificates{Pin: &token.CA})})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := peers.Join(ctx, addr, JoinRequest{Role: nexusraft.RoleMember, Token: token}); err == nil ||
		!strings.Contains(err.Error(), "incarnation 7 was seen") {
		t.Errorf("with a token: got %v, want the reason", err)
	}
}
