package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// maxAccessLife is how long a bearer token, or a certificate that the cluster signs for a client, is good at most.
const maxAccessLife = 366 * 24 * time.Hour

// Principal is what a client may do, which is known by its name.
type Principal struct {
	Name   string
	Roles  map[nexusraft.ZoneID]nexusraft.AccessRole // zone 0 is every zone; the highest that fits counts
	Tokens []AccessToken                             // those that are still good
}

// AccessToken is what is known of a bearer token, but for its secret.
type AccessToken struct {
	ID      [8]byte
	Expires time.Time
}

// SetRole gives a name a role in a zone, in place of the one that it has there, or in every zone for zone 0;
// AccessNone takes it back. Who loses its last role loses its tokens. Errors are those of Zone.Propose,
// and ErrRefused with the reason.
func (n *Node) SetRole(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error {
	if err := pki.ValidateClient(name); err != nil {
		return fmt.Errorf("set a role: %w", err)
	}
	if role != nexusraft.AccessNone {
		if _, err := nexusraft.ParseAccessRole(string(role)); err != nil {
			return err
		}
	}
	return n.changeAccess(ctx, fmt.Sprintf("set a role of %q", name), &pb.NodeCommand{Kind: &pb.NodeCommand_SetRole{
		SetRole: &pb.SetRole{Name: name, Role: &pb.ZoneRole{Zone: uint64(zone), Role: wire.AccessRoleToProto(role)}},
	}})
}

// RevokeAccess takes all roles and tokens of a name back. Its certificates are good for nothing until the name is
// given a role again.
func (n *Node) RevokeAccess(ctx context.Context, name string) error {
	if err := pki.ValidateClient(name); err != nil {
		return fmt.Errorf("revoke access: %w", err)
	}
	return n.changeAccess(ctx, fmt.Sprintf("revoke the access of %q", name), &pb.NodeCommand{Kind: &pb.NodeCommand_DeletePrincipal{
		DeletePrincipal: &pb.DeletePrincipal{Name: name},
	}})
}

// CreateAccessToken makes a bearer token for a name that has a role, good for life, at most 366 days.
// The text is a secret, and is not to be had again.
func (n *Node) CreateAccessToken(ctx context.Context, name string, life time.Duration) (text string, info AccessToken, err error) {
	if err := checkAccessLife(life); err != nil {
		return "", AccessToken{}, fmt.Errorf("create access token: %w", err)
	}
	if err := pki.ValidateClient(name); err != nil {
		return "", AccessToken{}, fmt.Errorf("create access token: %w", err)
	}
	text, id, hash := newAccessToken()
	t := &pb.AccessToken{Id: id, Hash: hash, Name: name, ExpiresNanos: n.config.Clock().Add(life).UnixNano()}
	err = n.changeAccess(ctx, "create access token", &pb.NodeCommand{Kind: &pb.NodeCommand_PutAccessToken{PutAccessToken: t}})
	if err != nil {
		return "", AccessToken{}, err
	}
	return text, accessToken(t), nil
}

// RevokeAccessToken takes one bearer token back.
func (n *Node) RevokeAccessToken(ctx context.Context, id [8]byte) error {
	return n.changeAccess(ctx, fmt.Sprintf("revoke access token %x", id), &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteAccessToken{
		DeleteAccessToken: &pb.DeleteAccessToken{Id: id[:]},
	}})
}

func (n *Node) changeAccess(ctx context.Context, what string, c *pb.NodeCommand) error {
	if _, err := n.proposeOwn(ctx, nexusraft.RootZone, c); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Access returns everybody who may do something, by name.
func (n *Node) Access(ctx context.Context) (list []Principal, err error) {
	now := n.config.Clock().UnixNano()
	err = n.readOwn(ctx, nexusraft.RootZone, func(r nexusraft.Reader) error {
		principals, err := readPrincipals(r)
		if err != nil {
			return err
		}
		tokens, err := readAccessTokens(r)
		if err != nil {
			return err
		}
		good := make(map[string][]AccessToken)
		for _, t := range tokens {
			if t.GetExpiresNanos() > now {
				good[t.GetName()] = append(good[t.GetName()], accessToken(t))
			}
		}
		for _, p := range principals {
			list = append(list, Principal{Name: p.GetName(), Roles: roles(p), Tokens: good[p.GetName()]})
		}
		return nil
	})
	return list, err
}

func roles(p *pb.Principal) map[nexusraft.ZoneID]nexusraft.AccessRole {
	by := make(map[nexusraft.ZoneID]nexusraft.AccessRole)
	for _, r := range p.GetRoles() {
		by[nexusraft.ZoneID(r.GetZone())] = wire.AccessRoleFromProto(r.GetRole())
	}
	return by
}

func accessToken(t *pb.AccessToken) AccessToken {
	x := AccessToken{Expires: time.Unix(0, t.GetExpiresNanos())}
	copy(x.ID[:], t.GetId())
	return x
}

// IssueCertificate signs the key of a certificate request (PEM) for a client that has a role, good for life, at
// most 366 days, and returns the chain, the authority's certificate last. What else the request says counts for
// nothing. ErrRefused where the nodes' certificates come from files: they need not believe the
// cluster's own authority.
func (n *Node) IssueCertificate(ctx context.Context, name string, request []byte, life time.Duration) ([]byte, error) {
	chain, err := n.issueCertificate(ctx, name, request, life)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return chain, nil
}

func (n *Node) issueCertificate(ctx context.Context, name string, request []byte, life time.Duration) ([]byte, error) {
	switch {
	case n.config.TLS != nil:
		return nil, fmt.Errorf("%w: the nodes' certificates come from files; whoever signs those signs those of clients, for the URI nexus-raft://%v/client/%.64s", nexusraft.ErrRefused, n.Cluster(), name)
	case len(request) > transport.MaxRequestBytes:
		return nil, fmt.Errorf("%w: a request for a certificate of %d bytes, limit %d", nexusraft.ErrTooLarge, len(request), transport.MaxRequestBytes)
	}
	if err := errors.Join(checkAccessLife(life), pki.ValidateClient(name)); err != nil {
		return nil, err
	}
	err := n.readOwn(ctx, nexusraft.RootZone, func(r nexusraft.Reader) error {
		all, err := readPrincipals(r)
		if err == nil && find(all, name) == nil {
			err = errUnknownPrincipal(name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ca, err := n.authority()
	if err != nil {
		return nil, err
	}
	return ca.Sign(request, pki.Subject{Cluster: n.Cluster(), Client: name}, n.config.Clock(), life)
}

func checkAccessLife(life time.Duration) error {
	if life <= 0 || life > maxAccessLife {
		return fmt.Errorf("%w: it can be good for up to %v, not for %v", nexusraft.ErrRefused, maxAccessLife, life)
	}
	return nil
}
