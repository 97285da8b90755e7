package rpc

import (
	"context"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Granter gives and takes roles and access tokens; nexusraft.Credentials documents its methods.
type Granter interface {
	SetRole(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error
	RevokeAccess(ctx context.Context, name string) error
	Access(ctx context.Context) ([]nexusraft.Principal, error)
	CreateAccessToken(ctx context.Context, name string, life time.Duration) (text string,
		info nexusraft.AccessToken, err error)
	RevokeAccessToken(ctx context.Context, id nexusraft.TokenID) error
	IssueCertificate(ctx context.Context, name string, request []byte, life time.Duration) (chain, authorities []byte,
		err error)
}

// access is pb.AccessServer.
type access struct {
	pb.UnimplementedAccessServer
	granter Granter
}

// Grant implements pb.AccessServer.
func (s *access) Grant(ctx context.Context, req *pb.GrantRequest) (*pb.GrantResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	role := wire.AccessRoleFromProto(req.GetRole().GetRole())
	if role == nexusraft.AccessNone {
		return nil, Status(fmt.Errorf("%w: a grant without a role; there are read, write and admin", nexusraft.ErrRefused))
	}
	if err := s.granter.SetRole(ctx, req.GetName(), nexusraft.ZoneID(req.GetRole().GetZone()), role); err != nil {
		return nil, Status(ProposeError(err))
	}
	return &pb.GrantResponse{}, nil
}

// Revoke implements pb.AccessServer.
func (s *access) Revoke(ctx context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	var err error
	if req.GetEverything() {
		err = s.granter.RevokeAccess(ctx, req.GetName())
	} else {
		err = s.granter.SetRole(ctx, req.GetName(), nexusraft.ZoneID(req.GetZone()), nexusraft.AccessNone)
	}
	if err != nil {
		return nil, Status(ProposeError(err))
	}
	return &pb.RevokeResponse{}, nil
}

// ListAccess implements pb.AccessServer.
func (s *access) ListAccess(ctx context.Context, _ *pb.ListAccessRequest) (*pb.ListAccessResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	made, err := reserveList(ctx)
	if err != nil {
		return nil, Status(err)
	}
	list, err := s.granter.Access(ctx)
	if err != nil {
		return nil, Status(err)
	}
	resp := &pb.ListAccessResponse{}
	for _, p := range list {
		resp.Principals = append(resp.Principals, wire.PrincipalToProto(p))
	}
	made(resp)
	return resp, nil
}

// CreateAccessToken implements pb.AccessServer.
func (s *access) CreateAccessToken(
	ctx context.Context, req *pb.CreateAccessTokenRequest,
) (*pb.CreateAccessTokenResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	text, info, err := s.granter.CreateAccessToken(ctx, req.GetName(), time.Duration(req.GetTtlNanos()))
	if err != nil {
		return nil, Status(ProposeError(err))
	}
	return &pb.CreateAccessTokenResponse{Token: text, Info: wire.AccessTokenToProto(info)}, nil
}

// RevokeAccessToken implements pb.AccessServer.
func (s *access) RevokeAccessToken(
	ctx context.Context, req *pb.RevokeAccessTokenRequest,
) (*pb.RevokeAccessTokenResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	id, err := nexusraft.ParseTokenID(req.GetId())
	if err != nil {
		return nil, Status(fmt.Errorf("%w: the identifier of an access token has 16 hexadecimal digits; access list "+
			"prints it", nexusraft.ErrRefused))
	}
	if err := s.granter.RevokeAccessToken(ctx, id); err != nil {
		return nil, Status(ProposeError(err))
	}
	return &pb.RevokeAccessTokenResponse{}, nil
}

// IssueCertificate implements pb.AccessServer.
func (s *access) IssueCertificate(
	ctx context.Context, req *pb.IssueCertificateRequest,
) (*pb.IssueCertificateResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	chain, authorities, err := s.granter.IssueCertificate(ctx, req.GetName(), req.GetRequest(),
		time.Duration(req.GetTtlNanos()))
	if err != nil {
		return nil, Status(err)
	}
	return &pb.IssueCertificateResponse{Chain: chain, Authorities: authorities}, nil
}
