package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Grant gives a name a role in a zone, or in nexusraft.EveryZone, in place of its present one there.
//
// Grant and the other calls about access are for admins of the root zone, whatever the
// client's own zone is: others get nexusraft.ErrDenied. They try until ctx ends where that is
// safe; with nexusraft.ErrUncertain it may have happened or may still happen: ListAccess shows it.
// Of any other error nothing was changed; nexusraft.ErrRefused says why.
func (c *Client) Grant(ctx context.Context, name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) error {
	req := &pb.GrantRequest{Name: name, Role: &pb.ZoneRole{
		Zone: uint64(zone),
		Role: wire.AccessRoleToProto(role),
	}}
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewAccessClient(conn).Grant(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	return nil
}

// Revoke takes back the role that a name has in a zone, or the one in nexusraft.EveryZone.
// A name that loses its last role loses its tokens too. Errors are those of Grant.
func (c *Client) Revoke(ctx context.Context, name string, zone nexusraft.ZoneID) error {
	return c.revoke(ctx, &pb.RevokeRequest{Name: name, Zone: uint64(zone)})
}

// RevokeAll takes all roles and tokens of a name back. A certificate in that name is good for
// nothing until the name is given a role again. Errors are those of Grant.
func (c *Client) RevokeAll(ctx context.Context, name string) error {
	return c.revoke(ctx, &pb.RevokeRequest{Name: name, Everything: true})
}

func (c *Client) revoke(ctx context.Context, req *pb.RevokeRequest) error {
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewAccessClient(conn).Revoke(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}

// ListAccess returns all clients that have a role, by name, with the tokens that are still valid.
func (c *Client) ListAccess(ctx context.Context) ([]nexusraft.Principal, error) {
	var resp *pb.ListAccessResponse
	err := c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewAccessClient(conn).ListAccess(ctx, &pb.ListAccessRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list access: %w", err)
	}
	var list []nexusraft.Principal
	for _, p := range resp.GetPrincipals() {
		list = append(list, wire.PrincipalFromProto(p))
	}
	return list, nil
}

// CreateAccessToken makes a bearer token for a name that has a role, good for ttl. The text is a
// secret that is told once. Errors are those of Grant.
func (c *Client) CreateAccessToken(
	ctx context.Context, name string, ttl time.Duration,
) (text string, info nexusraft.AccessToken, err error) {
	var resp *pb.CreateAccessTokenResponse
	req := &pb.CreateAccessTokenRequest{Name: name, TtlNanos: int64(ttl)}
	err = c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewAccessClient(conn).CreateAccessToken(ctx, req)
		return err
	})
	if err != nil {
		return "", nexusraft.AccessToken{}, fmt.Errorf("create access token: %w", err)
	}
	return resp.GetToken(), wire.AccessTokenFromProto(resp.GetInfo()), nil
}

// RevokeAccessToken takes a bearer token back. Errors are those of Grant.
func (c *Client) RevokeAccessToken(ctx context.Context, id string) error {
	req := &pb.RevokeAccessTokenRequest{Id: id}
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewAccessClient(conn).RevokeAccessToken(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke access token: %w", err)
	}
	return nil
}

// IssueCertificate makes a key, has the cluster sign a certificate for it in a name that has a
// role, good for ttl, and returns both as Options.Credentials wants them: a secret. The key does
// not leave the process. The client needs Credentials itself, whose CA the new ones believe. Errors
// are those of Grant.
func (c *Client) IssueCertificate(ctx context.Context, name string, ttl time.Duration) (secret []byte, err error) {
	if secret, err = c.issueCertificate(ctx, name, ttl); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return secret, nil
}

func (c *Client) issueCertificate(ctx context.Context, name string, ttl time.Duration) ([]byte, error) {
	if c.opts.Credentials == nil {
		return nil, errors.New("without credentials nothing says which cluster to believe, and a cluster that does not " +
			"speak TLS asks for no certificate")
	}
	own, err := pki.ParseBundle(c.opts.Credentials)
	if err != nil {
		return nil, err
	}
	request, key, err := pki.NewRequest()
	if err != nil {
		return nil, err
	}
	var resp *pb.IssueCertificateResponse
	req := &pb.IssueCertificateRequest{Name: name, Request: request, TtlNanos: int64(ttl)}
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) { // it changes nothing
		resp, err = pb.NewAccessClient(conn).IssueCertificate(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	issued := pki.Bundle{Pair: pki.Pair{Cert: resp.GetChain(), Key: key}, Roots: own.Roots}
	if all := resp.GetAuthorities(); len(all) > 0 { // while one is replaced there are two
		issued.Roots = all
	}
	if err := checkIssued(issued, name); err != nil {
		return nil, fmt.Errorf("the certificate that came: %w", err)
	}
	return issued.PEM(), nil
}

// checkIssued returns what is wrong with a certificate that a node has given for a name.
func checkIssued(b pki.Bundle, name string) error {
	if _, err := b.Certificate(); err != nil {
		return err
	}
	chain, err := pki.Certificates(b.Cert)
	if err != nil {
		return err
	}
	roots, err := pki.Pool(b.Roots)
	if err != nil {
		return err
	}
	subject, err := pki.Verify(chain, roots, x509.ExtKeyUsageClientAuth, time.Now())
	if err != nil {
		return err
	}
	if subject.Client != name {
		return fmt.Errorf("it is in the name of %v, not of client %q", subject, name)
	}
	return nil
}

// TokenCredentials returns credentials for Options that show a bearer token, and believe the CA
// that others believe, whose certificate, key and token are left out. The errors hold no secrets.
func TokenCredentials(others []byte, token string) ([]byte, error) {
	b, err := pki.ParseBundle(others)
	if err != nil {
		return nil, err
	}
	if err := pki.ValidateBearer(token); err != nil {
		return nil, err
	}
	return pki.Bundle{Roots: b.Roots, Token: token}.PEM(), nil
}

// AuthorityOf returns the certificate of the cluster's CA that credentials for Options believe:
// PEM, no secret, and credentials itself for a client that shows a BearerToken. The errors hold no
// secrets.
func AuthorityOf(credentials []byte) ([]byte, error) {
	b, err := pki.ParseBundle(credentials)
	if err != nil {
		return nil, err
	}
	return b.Roots, nil
}
