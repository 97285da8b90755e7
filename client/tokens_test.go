package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// fakeTokens answers the calls about join tokens, or fails them all, and keeps what it was asked.
type fakeTokens struct {
	pb.UnimplementedTokensServer
	asked chan proto.Message
	fails error
}

var joinTokenInfo = &pb.TokenInfo{
	Id: "00000000000000aa", Role: pb.Role_ROLE_WITNESS, ExpiresNanos: 5, UsesLeft: 2,
	Nodes: []uint64{7},
}

func (f *fakeTokens) CreateToken(
	_ context.Context, req *pb.CreateTokenRequest,
) (*pb.CreateTokenResponse, error) {
	f.asked <- req
	return &pb.CreateTokenResponse{Token: "nrj1-secret", Info: joinTokenInfo}, f.fails
}

func (f *fakeTokens) ListTokens(
	_ context.Context, req *pb.ListTokensRequest,
) (*pb.ListTokensResponse, error) {
	f.asked <- req
	return &pb.ListTokensResponse{Tokens: []*pb.TokenInfo{joinTokenInfo}}, f.fails
}

func (f *fakeTokens) RevokeToken(
	_ context.Context, req *pb.RevokeTokenRequest,
) (*pb.RevokeTokenResponse, error) {
	f.asked <- req
	return &pb.RevokeTokenResponse{}, f.fails
}

// What each call about join tokens asks for, and what it makes of the answer; a refusal is final,
// and what may have been done is not done again.
func TestJoinTokenCalls(t *testing.T) {
	ctx := within(t)
	info := nexusraft.JoinToken{
		ID: nexusraft.TokenID{7: 0xaa}, Role: nexusraft.RoleWitness, Expires: time.Unix(0, 5).UTC(), UsesLeft: 2,
		Nodes: []nexusraft.NodeID{7},
	}
	for name, tc := range map[string]struct {
		call    func(*Client) (any, error)
		asks    proto.Message
		got     any
		changes bool
	}{
		"create": {
			func(c *Client) (any, error) {
				text, info, err := c.CreateToken(ctx, nexusraft.RoleWitness, time.Hour, 2)
				if (text == "nrj1-secret") != (err == nil) {
					t.Errorf("create: got %q, %v", text, err)
				}
				return info, err
			}, &pb.CreateTokenRequest{Role: pb.Role_ROLE_WITNESS, TtlNanos: int64(time.Hour), Uses: 2}, info,
			true,
		},
		"list": {
			func(c *Client) (any, error) { return c.Tokens(ctx) }, &pb.ListTokensRequest{},
			[]nexusraft.JoinToken{info},
			false,
		},
		"revoke": {
			func(c *Client) (any, error) { return nil, c.RevokeToken(ctx, "aa") },
			&pb.RevokeTokenRequest{Id: "aa"}, nil, true,
		},
	} {
		for _, end := range []struct{ answers, is error }{
			{nil, nil},
			{answer(nexusraft.ErrDenied, codes.PermissionDenied, "needs the role admin"), nexusraft.ErrDenied},
			{status.Error(codes.Unavailable, "lost on the way"), nexusraft.ErrUncertain},
		} {
			if errors.Is(end.is, nexusraft.ErrUncertain) && !tc.changes {
				continue
			}
			f := &fakeTokens{asked: make(chan proto.Message, 10), fails: end.answers}
			server := start(t, func(n *fakeNode) { pb.RegisterTokensServer(n.server, f) })
			c := connect(t, Options{Endpoints: []string{start(t, nil).address, server.address}}) // the first is a witness
			got, err := tc.call(c)
			if !errors.Is(err, end.is) || err != nil && strings.Contains(err.Error(), "rpc error") {
				t.Errorf("%s: got %v, want %v", name, err, end.is)
			}
			if diff := cmp.Diff(tc.got, got); err == nil && diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if diff := cmp.Diff(tc.asks, <-f.asked, protocmp.Transform()); diff != "" || len(f.asked) != 0 {
				t.Errorf("%s: %d more requests, and the first (-want +got):\n%s", name, len(f.asked), diff)
			}
		}
	}
}
