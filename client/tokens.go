package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
func (c *Client) CreateToken(ctx context.Context, role nexusraft.Role, ttl time.Duration, uses uint32) (text string, info JoinToken, err error) {
	req := &nexusraftv1.CreateTokenRequest{TtlNanos: int64(ttl), Uses: uses}
	if role != "" {
		req.Role = wire.RoleToProto(role)
	}
	err = c.atAnyMember(ctx, func(ctx context.Context, tokens nexusraftv1.TokensClient) error {
		resp, err := tokens.CreateToken(ctx, req)
		text, info = resp.GetToken(), tokenFromProto(resp.GetInfo())
		return err
	})
	if err != nil {
		return "", JoinToken{}, fmt.Errorf("create token: %w", err)
	}
	return text, info, nil
}

// Tokens returns the join tokens that are still good, by identifier.
func (c *Client) Tokens(ctx context.Context) (list []JoinToken, err error) {
	err = c.atAnyMember(ctx, func(ctx context.Context, tokens nexusraftv1.TokensClient) error {
		resp, err := tokens.ListTokens(ctx, &nexusraftv1.ListTokensRequest{})
		for _, t := range resp.GetTokens() {
			list = append(list, tokenFromProto(t))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return list, nil
}

// RevokeToken takes a join token back. Nodes that have joined with it stay.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	err := c.atAnyMember(ctx, func(ctx context.Context, tokens nexusraftv1.TokensClient) error {
		_, err := tokens.RevokeToken(ctx, &nexusraftv1.RevokeTokenRequest{Id: id})
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}

// atAnyMember asks the endpoints in turn until one answers. What is asked may be done twice: a
// token too many is never shown, and expires.
func (c *Client) atAnyMember(ctx context.Context, ask func(context.Context, nexusraftv1.TokensClient) error) error {
	var failed error
	for _, address := range c.opts.Endpoints {
		e, err := c.node(address)
		if err != nil {
			return err
		}
		err = ask(ctx, nexusraftv1.NewTokensClient(e.conn))
		if code := status.Code(err); code != codes.Unavailable && code != codes.Unimplemented {
			return err
		}
		failed = fmt.Errorf("%s: %w", address, err)
	}
	return failed
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
