package client

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Authorities returns the cluster's certificate authorities, and how far each node is with their
// replacement.
func (c *Client) Authorities(ctx context.Context) (nexusraft.Authorities, error) {
	var resp *pb.GetAuthorityResponse
	err := c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewRotationClient(conn).GetAuthority(ctx, &pb.GetAuthorityRequest{})
		return err
	})
	if err != nil {
		return nexusraft.Authorities{}, fmt.Errorf("ask for the cluster's authorities: %w", err)
	}
	return wire.AuthoritiesFromProto(resp.GetAuthority()), nil
}

// RotateAuthority takes one step of replacing the cluster's certificate authority. It returns
// nexusraft.ErrRefused if a node that is not in without is not ready for the step; the nodes in
// without need a join token to come back. It tries until ctx ends where that is safe; after
// nexusraft.ErrUncertain the step may have happened or may still happen: Authorities shows it.
func (c *Client) RotateAuthority(
	ctx context.Context, to nexusraft.AuthorityPhase, without ...nexusraft.NodeID,
) (nexusraft.Authorities, error) {
	req := &pb.RotateAuthorityRequest{To: wire.AuthorityPhaseToProto(to)}
	for _, id := range without {
		req.Without = append(req.Without, uint64(id))
	}
	var resp *pb.RotateAuthorityResponse
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = pb.NewRotationClient(conn).RotateAuthority(ctx, req)
		return err
	})
	if err != nil {
		return nexusraft.Authorities{}, fmt.Errorf("rotate the authority: %w", err)
	}
	return wire.AuthoritiesFromProto(resp.GetAuthority()), nil
}

// Authority is a certificate authority.
type Authority struct {
	Fingerprint [sha256.Size]byte // SHA-256 of its certificate
	Expires     time.Time
}

// DescribeAuthorities returns what Authorities.Certificates are.
func DescribeAuthorities(certificates []byte) (list []Authority, err error) {
	certs, err := pki.Certificates(certificates)
	if err != nil {
		return nil, fmt.Errorf("the cluster's authorities: %w", err)
	}
	for _, cert := range certs {
		list = append(list, Authority{sha256.Sum256(cert.Raw), cert.NotAfter})
	}
	return list, nil
}

// Outlives returns an error if the next step of a rotation would make the credentials useless: if
// they do not believe the new authority, or, before the last step, if their certificate is of the
// old one.
func Outlives(credentials []byte, all nexusraft.Authorities) error {
	own, err := pki.ParseBundle(credentials)
	if err != nil {
		return err
	}
	believed, err := pki.Fingerprints(own.Roots)
	if err != nil {
		return err
	}
	list, err := pki.Fingerprints(all.Certificates)
	if err != nil {
		return err
	}
	newest := list[0]
	if all.Phase == nexusraft.AuthorityBelieved {
		newest = list[len(list)-1]
	}
	if !slices.Contains(believed, newest) {
		return errors.New("they do not believe the new authority, so they would refuse every node after this step")
	}
	if all.Phase != nexusraft.AuthoritySigns || own.Key == nil {
		return nil
	}
	chain, err := pki.Certificates(own.Cert)
	if err != nil {
		return err
	}
	pool, err := pki.Pool(pki.First(all.Certificates))
	if err != nil {
		return err
	}
	if _, err := pki.Verify(chain, pool, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		return errors.New("their certificate is of the old authority, and would be refused after this step")
	}
	return nil
}
