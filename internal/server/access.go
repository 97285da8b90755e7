package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/node"
)

// Granter says who may do what; *node.Node documents its methods. They may be called from any
// number of goroutines.
type Granter interface {
	SetRole(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error
	RevokeAccess(ctx context.Context, name string) error
	Access(ctx context.Context) ([]node.Principal, error)
	CreateAccessToken(ctx context.Context, name string, life time.Duration) (text string, info node.AccessToken, err error)
	RevokeAccessToken(ctx context.Context, id [8]byte) error
	IssueCertificate(ctx context.Context, name string, request []byte, life time.Duration) (chain []byte, err error)
}

// Access is the service of that name.
type Access struct {
	pb.UnimplementedAccessServer

	granter Granter
}

// NewAccess returns the service on a node.
func NewAccess(granter Granter) *Access { return &Access{granter: granter} }

// Register adds the service to a gRPC server.
func (s *Access) Register(r grpc.ServiceRegistrar) { pb.RegisterAccessServer(r, s) }

// Grant implements pb.AccessServer.
func (s *Access) Grant(ctx context.Context, req *pb.GrantRequest) (*pb.GrantResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	role := wire.AccessRoleFromProto(req.GetRole().GetRole())
	if role == nexusraft.AccessNone {
		return nil, toStatus(fmt.Errorf("%w: a grant without a role; there are read, write and admin", nexusraft.ErrRefused))
	}
	if err := s.granter.SetRole(ctx, req.GetName(), nexusraft.ZoneID(req.GetRole().GetZone()), role); err != nil {
		return nil, toStatus(proposeError(err))
	}
	return &pb.GrantResponse{}, nil
}

// Revoke implements pb.AccessServer.
func (s *Access) Revoke(ctx context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var err error
	if req.GetEverything() {
		err = s.granter.RevokeAccess(ctx, req.GetName())
	} else {
		err = s.granter.SetRole(ctx, req.GetName(), nexusraft.ZoneID(req.GetZone()), nexusraft.AccessNone)
	}
	if err != nil {
		return nil, toStatus(proposeError(err))
	}
	return &pb.RevokeResponse{}, nil
}

// ListAccess implements pb.AccessServer.
func (s *Access) ListAccess(ctx context.Context, _ *pb.ListAccessRequest) (*pb.ListAccessResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	list, err := s.granter.Access(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &pb.ListAccessResponse{}
	for _, p := range list {
		info := &pb.PrincipalInfo{Name: p.Name}
		for _, zone := range slices.Sorted(maps.Keys(p.Roles)) {
			info.Roles = append(info.Roles, &pb.ZoneRole{Zone: uint64(zone), Role: wire.AccessRoleToProto(p.Roles[zone])})
		}
		for _, t := range p.Tokens {
			info.Tokens = append(info.Tokens, accessTokenInfo(t))
		}
		resp.Principals = append(resp.Principals, info)
	}
	return resp, nil
}

// CreateAccessToken implements pb.AccessServer.
func (s *Access) CreateAccessToken(ctx context.Context, req *pb.CreateAccessTokenRequest) (*pb.CreateAccessTokenResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	text, info, err := s.granter.CreateAccessToken(ctx, req.GetName(), time.Duration(req.GetTtlNanos()))
	if err != nil {
		return nil, toStatus(proposeError(err))
	}
	return &pb.CreateAccessTokenResponse{Token: text, Info: accessTokenInfo(info)}, nil
}

// RevokeAccessToken implements pb.AccessServer.
func (s *Access) RevokeAccessToken(ctx context.Context, req *pb.RevokeAccessTokenRequest) (*pb.RevokeAccessTokenResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err := hex.DecodeString(req.GetId())
	if err != nil || len(id) != len(node.AccessToken{}.ID) {
		return nil, toStatus(fmt.Errorf("%w: the identifier of an access token has 16 hexadecimal digits; access list prints it", nexusraft.ErrRefused))
	}
	if err := s.granter.RevokeAccessToken(ctx, [8]byte(id)); err != nil {
		return nil, toStatus(proposeError(err))
	}
	return &pb.RevokeAccessTokenResponse{}, nil
}

// IssueCertificate implements pb.AccessServer.
func (s *Access) IssueCertificate(ctx context.Context, req *pb.IssueCertificateRequest) (*pb.IssueCertificateResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	chain, err := s.granter.IssueCertificate(ctx, req.GetName(), req.GetRequest(), time.Duration(req.GetTtlNanos()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.IssueCertificateResponse{Chain: chain}, nil
}

func accessTokenInfo(t node.AccessToken) *pb.AccessTokenInfo {
	return &pb.AccessTokenInfo{Id: hex.EncodeToString(t.ID[:]), ExpiresNanos: t.Expires.UnixNano()}
}
