package nexusraft

import (
	"context"
	"time"
)

// Credentials gives clients of a cluster, and nodes that are to join it, what they prove themselves
// with, says what clients may do, and takes both back. Any node with the root zone's state does that
// (node.Node.Credentials). Its methods may be called from many goroutines.
//
// Errors are those of node.Zone.Propose, of Access and Tokens those of node.Zone.Read, and ErrRefused
// with the reason.
type Credentials interface {
	// SetRole gives a name a role in a zone, in place of the one that it has there, or in every zone
	// for EveryZone; AccessNone takes it back. A name that loses its last role loses its tokens.
	SetRole(ctx context.Context, name string, zone ZoneID, role AccessRole) error

	// RevokeAccess takes all roles and tokens of a name back. Its certificates are good for nothing
	// until the name is given a role again.
	RevokeAccess(ctx context.Context, name string) error

	// Access returns all clients that have a role, by name.
	Access(ctx context.Context) ([]Principal, error)

	// CreateAccessToken makes a bearer token for a name that has a role, good for life, at most 366
	// days. The text is a secret, and is not to be had again.
	CreateAccessToken(ctx context.Context, name string, life time.Duration) (text string, info AccessToken, err error)

	// RevokeAccessToken takes one bearer token back.
	RevokeAccessToken(ctx context.Context, id TokenID) error

	// IssueCertificate signs the key of a certificate request (PEM) for a client that has a role, good
	// for life, at most 366 days, and returns the chain, the authority's certificate last. What else
	// the request says counts for nothing. ErrRefused where the nodes' certificates come from files:
	// they need not believe the cluster's own authority.
	//
	// Authorities are all that the client is to believe, PEM: while one is being replaced, there are
	// two.
	IssueCertificate(ctx context.Context, name string, request []byte, life time.Duration) (
		chain, authorities []byte, err error)

	// CreateToken makes a token with which up to uses nodes (1 to 64) can join within life (at most 30
	// days), in a role: RoleMember or RoleWitness. The text is a secret, and is not to be had again.
	CreateToken(ctx context.Context, role Role, life time.Duration, uses int) (text string, info JoinToken, err error)

	// Tokens returns the join tokens that are still good, by identifier.
	Tokens(ctx context.Context) ([]JoinToken, error)

	// RevokeToken takes a join token back; ErrRefused if there is no such token. Nodes that have joined
	// with it stay.
	RevokeToken(ctx context.Context, id TokenID) error
}
