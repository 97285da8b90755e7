package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	nexusraftv1 "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// JoinToken is what is known of a join token, but for its secret.
type JoinToken struct {
	ID       string             `json:"id"`
	Role     nexusraft.Role     `json:"role,omitempty"` // in which nodes may join with it; "" for any
	Expires  time.Time          `json:"expires"`
	UsesLeft int                `json:"uses_left"`
	Nodes    []nexusraft.NodeID `json:"nodes,omitempty"` // that have joined with it
}

// CreateToken makes a token with which up to uses nodes can join the cluster within ttl, in a
// role: RoleMember, RoleWitness, or "" for any. The text is a secret that is told once.
//
// It and RevokeToken try until ctx ends where that is safe; with nexusraft.ErrUncertain it may have
// happened or may still happen: Tokens shows it.
func (c *Client) CreateToken(ctx context.Context, role nexusraft.Role, ttl time.Duration, uses uint32) (text string, info JoinToken, err error) {
	req := &nexusraftv1.CreateTokenRequest{TtlNanos: int64(ttl), Uses: uses}
	if role != "" {
		req.Role = wire.RoleToProto(role)
	}
	var resp *nexusraftv1.CreateTokenResponse
	err = c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = nexusraftv1.NewTokensClient(conn).CreateToken(ctx, req)
		return err
	})
	if err != nil {
		return "", JoinToken{}, fmt.Errorf("create token: %w", err)
	}
	return resp.GetToken(), tokenFromProto(resp.GetInfo()), nil
}

// Tokens returns the join tokens that are still good, by identifier.
func (c *Client) Tokens(ctx context.Context) (list []JoinToken, err error) {
	var resp *nexusraftv1.ListTokensResponse
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = nexusraftv1.NewTokensClient(conn).ListTokens(ctx, &nexusraftv1.ListTokensRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	for _, t := range resp.GetTokens() {
		list = append(list, tokenFromProto(t))
	}
	return list, nil
}

// RevokeToken takes a join token back. Nodes that have joined with it stay.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := nexusraftv1.NewTokensClient(conn).RevokeToken(ctx, &nexusraftv1.RevokeTokenRequest{Id: id})
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}

func tokenFromProto(t *nexusraftv1.TokenInfo) JoinToken {
	x := JoinToken{ID: t.GetId(), Expires: time.Unix(0, t.GetExpiresNanos()).UTC(), UsesLeft: int(t.GetUsesLeft())}
	if t.GetRole() != nexusraftv1.Role_ROLE_UNSPECIFIED {
		x.Role = wire.RoleFromProto(t.GetRole())
	}
	for _, id := range t.GetNodes() {
		x.Nodes = append(x.Nodes, nexusraft.NodeID(id))
	}
	return x
}
