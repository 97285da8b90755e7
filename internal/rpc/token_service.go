package rpc

import (
	"context"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Issuer makes and lists join tokens; nexusraft.Credentials documents its methods.
type Issuer interface {
	CreateToken(ctx context.Context, role nexusraft.Role, life time.Duration, uses int) (text string,
		info nexusraft.JoinToken, err error)
	Tokens(ctx context.Context) ([]nexusraft.JoinToken, error)
	RevokeToken(ctx context.Context, id nexusraft.TokenID) error
}

// tokens is pb.TokensServer.
type tokens struct {
	pb.UnimplementedTokensServer
	issuer Issuer
}

// CreateToken implements pb.TokensServer.
func (s *tokens) CreateToken(ctx context.Context, req *pb.CreateTokenRequest) (*pb.CreateTokenResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	var role nexusraft.Role
	if req.GetRole() != pb.Role_ROLE_UNSPECIFIED {
		role = wire.RoleFromProto(req.GetRole())
	}
	text, info, err := s.issuer.CreateToken(ctx, role, time.Duration(req.GetTtlNanos()), int(req.GetUses()))
	if err != nil {
		return nil, Status(err)
	}
	return &pb.CreateTokenResponse{Token: text, Info: wire.JoinTokenToProto(info)}, nil
}

// ListTokens implements pb.TokensServer.
func (s *tokens) ListTokens(ctx context.Context, _ *pb.ListTokensRequest) (*pb.ListTokensResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	made, err := reserveList(ctx)
	if err != nil {
		return nil, Status(err)
	}
	list, err := s.issuer.Tokens(ctx)
	if err != nil {
		return nil, Status(err)
	}
	resp := &pb.ListTokensResponse{}
	for _, t := range list {
		resp.Tokens = append(resp.Tokens, wire.JoinTokenToProto(t))
	}
	made(resp)
	return resp, nil
}

// RevokeToken implements pb.TokensServer.
func (s *tokens) RevokeToken(ctx context.Context, req *pb.RevokeTokenRequest) (*pb.RevokeTokenResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	id, err := nexusraft.ParseTokenID(req.GetId())
	if err != nil {
		return nil, Status(fmt.Errorf("%w: the identifier of a join token has 16 hexadecimal digits; token list prints it",
			nexusraft.ErrRefused))
	}
	if err := s.issuer.RevokeToken(ctx, id); err != nil {
		return nil, Status(err)
	}
	return &pb.RevokeTokenResponse{}, nil
}
