package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// CreateToken makes a token with which up to uses nodes can join the cluster within ttl, in a
// role: RoleMember, RoleWitness, or "" for any. The text is a secret that is told once.
//
// It and RevokeToken try until ctx ends where that is safe; with nexusraft.ErrUncertain it may have
// happened or may still happen: Tokens shows it.
func (c *Client) CreateToken(
	ctx context.Context, role nexusraft.Role, ttl time.Duration, uses uint32,
) (text string, info nexusraft.JoinToken, err error) {
	req := &pb.CreateTokenRequest{TtlNanos: int64(ttl), Uses: uses}
	if role != "" {
		req.Role = wire.RoleToProto(role)
	}
	var resp *pb.CreateTokenResponse
	err = c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewTokensClient(conn).CreateToken(ctx, req)
		return err
	})
	if err != nil {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create token: %w", err)
	}
	return resp.GetToken(), wire.JoinTokenFromProto(resp.GetInfo()), nil
}

// Tokens returns the join tokens that are still good, by identifier.
func (c *Client) Tokens(ctx context.Context) (list []nexusraft.JoinToken, err error) {
	var resp *pb.ListTokensResponse
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewTokensClient(conn).ListTokens(ctx, &pb.ListTokensRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	for _, t := range resp.GetTokens() {
		list = append(list, wire.JoinTokenFromProto(t))
	}
	return list, nil
}

// RevokeToken takes a join token back. Nodes that have joined with it stay.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewTokensClient(conn).RevokeToken(ctx, &pb.RevokeTokenRequest{Id: id})
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}
