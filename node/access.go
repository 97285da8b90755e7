package node

import (
	"context"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// CreateToken makes a token with which up to uses nodes (1 to 64) can join within life (at
// most 30 days), in a role: RoleMember or RoleWitness. The text is a secret, and
// is not to be had again. Errors are those of Zone.Propose, and ErrRefused with the reason.
func (n *Node) CreateToken(
	ctx context.Context, role nexusraft.Role, life time.Duration, uses int,
) (text string, info nexusraft.JoinToken, err error) {
	return n.authority.CreateToken(ctx, role, life, uses)
}

// Tokens returns the join tokens that are still good, by identifier. Errors are those of Zone.Read.
func (n *Node) Tokens(ctx context.Context) ([]nexusraft.JoinToken, error) {
	return n.authority.Tokens(ctx)
}

// RevokeToken takes a join token back. Nodes that have joined with it stay. Errors are those of
// Zone.Propose, and ErrRefused if there is no such token.
func (n *Node) RevokeToken(ctx context.Context, id nexusraft.TokenID) error {
	return n.authority.RevokeToken(ctx, id)
}

// SetRole gives a name a role in a zone, in place of the one that it has there, or in every zone
// for zone 0; AccessNone takes it back. A name that loses its last role loses its tokens. Errors are
// those of Zone.Propose, and ErrRefused with the reason.
func (n *Node) SetRole(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error {
	return n.authority.SetRole(ctx, name, zone, role)
}

// RevokeAccess takes all roles and tokens of a name back. Its certificates are good for nothing
// until the name is given a role again. Errors are those of SetRole.
func (n *Node) RevokeAccess(ctx context.Context, name string) error {
	return n.authority.RevokeAccess(ctx, name)
}

// Access returns all clients that have a role, by name. Errors are those of Zone.Read.
func (n *Node) Access(ctx context.Context) ([]nexusraft.Principal, error) {
	return n.authority.Access(ctx)
}

// CreateAccessToken makes a bearer token for a name that has a role, good for life, at most 366
// days. The text is a secret, and is not to be had again. Errors are those of SetRole.
func (n *Node) CreateAccessToken(
	ctx context.Context, name string, life time.Duration,
) (text string, info nexusraft.AccessToken, err error) {
	return n.authority.CreateAccessToken(ctx, name, life)
}

// RevokeAccessToken takes one bearer token back. Errors are those of SetRole.
func (n *Node) RevokeAccessToken(ctx context.Context, id nexusraft.TokenID) error {
	return n.authority.RevokeAccessToken(ctx, id)
}

// IssueCertificate signs the key of a certificate request (PEM) for a client that has a role, good
// for life, at most 366 days, and returns the chain, the authority's certificate last. What else
// the request says counts for nothing. ErrRefused where the nodes' certificates come from files:
// they need not believe the cluster's own authority.
//
// Authorities are all that the client is to believe, PEM: while one is being replaced, there are
// two.
func (n *Node) IssueCertificate(
	ctx context.Context, name string, request []byte, life time.Duration,
) (chain, authorities []byte, err error) {
	return n.authority.IssueCertificate(ctx, name, request, life)
}
