package authority

import (
	"context"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// maxAccessLife is how long a bearer token, or a certificate that the cluster signs for a client,
// is good at most.
const maxAccessLife = 366 * 24 * time.Hour

// SetRole gives a name a role in a zone, in place of the one that it has there, or in every zone
// for zone 0; AccessNone takes it back. A name that loses its last role loses its tokens. Errors are
// those of Zone.Propose, and ErrRefused with the reason.
func (s *Service) SetRole(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error {
	if err := pki.ValidateClient(name); err != nil {
		return fmt.Errorf("set a role: %w", err)
	}
	if role != nexusraft.AccessNone {
		if _, err := nexusraft.ParseAccessRole(string(role)); err != nil {
			return err
		}
	}
	return s.propose(ctx, fmt.Sprintf("set a role of %q", name), &pb.NodeCommand{Kind: &pb.NodeCommand_SetRole{
		SetRole: &pb.SetRole{Name: name, Role: &pb.ZoneRole{Zone: uint64(zone), Role: wire.AccessRoleToProto(role)}},
	}})
}

// RevokeAccess takes all roles and tokens of a name back. Its certificates are good for nothing
// until the name is given a role again.
func (s *Service) RevokeAccess(ctx context.Context, name string) error {
	if err := pki.ValidateClient(name); err != nil {
		return fmt.Errorf("revoke access: %w", err)
	}
	return s.propose(ctx, fmt.Sprintf("revoke the access of %q", name),
		&pb.NodeCommand{Kind: &pb.NodeCommand_DeletePrincipal{
			DeletePrincipal: &pb.DeletePrincipal{Name: name},
		}})
}

// CreateAccessToken makes a bearer token for a name that has a role, good for life, at most 366
// days. The text is a secret, and is not to be had again.
func (s *Service) CreateAccessToken(
	ctx context.Context, name string, life time.Duration,
) (text string, info nexusraft.AccessToken, err error) {
	if err := checkAccessLife(life); err != nil {
		return "", nexusraft.AccessToken{}, fmt.Errorf("create access token: %w", err)
	}
	if err := pki.ValidateClient(name); err != nil {
		return "", nexusraft.AccessToken{}, fmt.Errorf("create access token: %w", err)
	}
	text, id, hash := pki.NewAccessToken()
	t := &pb.AccessToken{Id: id, Hash: hash, Name: name, ExpiresNanos: s.o.Clock().Add(life).UnixNano()}
	err = s.propose(ctx, "create access token",
		&pb.NodeCommand{Kind: &pb.NodeCommand_PutAccessToken{PutAccessToken: t}})
	if err != nil {
		return "", nexusraft.AccessToken{}, err
	}
	return text, accessToken(t), nil
}

// RevokeAccessToken takes one bearer token back.
func (s *Service) RevokeAccessToken(ctx context.Context, id nexusraft.TokenID) error {
	return s.propose(ctx, fmt.Sprintf("revoke access token %x", id),
		&pb.NodeCommand{Kind: &pb.NodeCommand_DeleteAccessToken{
			DeleteAccessToken: &pb.DeleteAccessToken{Id: id[:]},
		}})
}

// Access returns all clients that have a role, by name.
func (s *Service) Access(ctx context.Context) (list []nexusraft.Principal, err error) {
	now := s.o.Clock().UnixNano()
	err = s.o.Zone.Read(ctx, func(r nexusraft.Reader) error {
		principals, err := system.Principals(r)
		if err != nil {
			return err
		}
		tokens, err := system.AccessTokens(r)
		if err != nil {
			return err
		}
		good := make(map[string][]nexusraft.AccessToken)
		for _, t := range tokens {
			if t.GetExpiresNanos() > now {
				good[t.GetName()] = append(good[t.GetName()], accessToken(t))
			}
		}
		for _, p := range principals {
			list = append(list, nexusraft.Principal{Name: p.GetName(), Roles: roles(p), Tokens: good[p.GetName()]})
		}
		return nil
	})
	return list, err
}

// roles returns a principal's, by zone.
func roles(p *pb.Principal) (list []nexusraft.ZoneRole) {
	for _, r := range p.GetRoles() {
		list = append(list, wire.ZoneRoleFromProto(r))
	}
	return list
}

func accessToken(t *pb.AccessToken) nexusraft.AccessToken {
	x := nexusraft.AccessToken{Expires: time.Unix(0, t.GetExpiresNanos())}
	copy(x.ID[:], t.GetId())
	return x
}

// IssueCertificate signs the key of a certificate request (PEM) for a client that has a role, good
// for life, at most 366 days, and returns the chain, the authority's certificate last. What else
// the request says counts for nothing. ErrRefused where the nodes' certificates come from files:
// they need not believe the cluster's own authority.
//
// Authorities are all that the client is to believe, PEM: while one is being replaced, there are
// two.
func (s *Service) IssueCertificate(
	ctx context.Context, name string, request []byte, life time.Duration,
) (chain, authorities []byte, err error) {
	if chain, authorities, err = s.issueCertificate(ctx, name, request, life); err != nil {
		return nil, nil, fmt.Errorf("issue certificate: %w", err)
	}
	return chain, authorities, nil
}

func (s *Service) issueCertificate(
	ctx context.Context, name string, request []byte, life time.Duration,
) (chain, authorities []byte, err error) {
	switch {
	case s.o.Peering.TLSMode() == peering.FromFiles:
		return nil, nil, fmt.Errorf("%w: the nodes' certificates come from files; their authority signs those of "+
			"clients, for the URI nexus-raft://%v/client/%.64s", nexusraft.ErrRefused, s.self().Cluster, name)
	case len(request) > nexusraft.MaxCertificateRequestBytes:
		return nil, nil, fmt.Errorf("%w: a request for a certificate of %d bytes, limit %d", nexusraft.ErrTooLarge,
			len(request), nexusraft.MaxCertificateRequestBytes)
	}
	if err := CheckClient(name, life); err != nil {
		return nil, nil, err
	}
	err = s.o.Zone.Read(ctx, func(r nexusraft.Reader) error {
		all, err := system.Principals(r)
		if err == nil && system.FindPrincipal(all, name) == nil {
			err = system.UnknownPrincipal(name)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	a, err := s.record()
	if err != nil {
		return nil, nil, err
	}
	s.o.Logger.Info("certificate signed for a client", "change", fmt.Sprintf("certificate of %q", name), "by",
		authz.RequesterName(ctx))
	subject := pki.Subject{Cluster: s.self().Cluster, Client: name}
	chain, err = pki.Sign(system.SignerOfClients(a), request, subject, s.o.Clock(), life)
	return chain, believedBy(a).Certificates, err
}

func checkAccessLife(life time.Duration) error {
	if life <= 0 || life > maxAccessLife {
		return fmt.Errorf("%w: it can be good for up to %v, not for %v", nexusraft.ErrRefused, maxAccessLife, life)
	}
	return nil
}
