package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/node"
)

// Issuer makes and lists join tokens. Its methods may be called from any number of goroutines.
type Issuer interface {
	// CreateToken makes a token; role "" is any. The text is a secret.
	CreateToken(ctx context.Context, role nexusraft.Role, life time.Duration, uses int) (text string, info node.JoinToken, err error)

	// Tokens returns those that are still good.
	Tokens(ctx context.Context) ([]node.JoinToken, error)

	// RevokeToken takes one back.
	RevokeToken(ctx context.Context, id [8]byte) error
}

// Tokens is the service of that name.
type Tokens struct {
	pb.UnimplementedTokensServer

	issuer Issuer
}

// NewTokens returns the service on a node.
func NewTokens(issuer Issuer) *Tokens { return &Tokens{issuer: issuer} }

// Register adds the service to a gRPC server.
func (s *Tokens) Register(r grpc.ServiceRegistrar) { pb.RegisterTokensServer(r, s) }

// CreateToken implements pb.TokensServer.
func (s *Tokens) CreateToken(ctx context.Context, req *pb.CreateTokenRequest) (*pb.CreateTokenResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var role nexusraft.Role
	if req.GetRole() != pb.Role_ROLE_UNSPECIFIED {
		role = wire.RoleFromProto(req.GetRole())
	}
	text, info, err := s.issuer.CreateToken(ctx, role, time.Duration(req.GetTtlNanos()), int(req.GetUses()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.CreateTokenResponse{Token: text, Info: tokenInfo(info)}, nil
}

// ListTokens implements pb.TokensServer.
func (s *Tokens) ListTokens(ctx context.Context, _ *pb.ListTokensRequest) (*pb.ListTokensResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	tokens, err := s.issuer.Tokens(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &pb.ListTokensResponse{}
	for _, t := range tokens {
		resp.Tokens = append(resp.Tokens, tokenInfo(t))
	}
	return resp, nil
}

// RevokeToken implements pb.TokensServer.
func (s *Tokens) RevokeToken(ctx context.Context, req *pb.RevokeTokenRequest) (*pb.RevokeTokenResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err := hex.DecodeString(req.GetId())
	if err != nil || len(id) != len(node.JoinToken{}.ID) {
		return nil, toStatus(fmt.Errorf("%w: the identifier of a join token has 16 hexadecimal digits; token list prints it", nexusraft.ErrRefused))
	}
	if err := s.issuer.RevokeToken(ctx, [8]byte(id)); err != nil {
		return nil, toStatus(err)
	}
	return &pb.RevokeTokenResponse{}, nil
}

func tokenInfo(t node.JoinToken) *pb.TokenInfo {
	info := &pb.TokenInfo{Id: hex.EncodeToString(t.ID[:]), ExpiresNanos: t.Expires.UnixNano(), UsesLeft: uint32(t.UsesLeft)}
	if t.Role != "" {
		info.Role = wire.RoleToProto(t.Role)
	}
	for _, id := range t.Nodes {
		info.Nodes = append(info.Nodes, uint64(id))
	}
	return info
}
