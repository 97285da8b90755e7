package transport

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

func joinRequestToProto(h *pb.Hello, r JoinRequest) *pb.JoinRequest {
	return &pb.JoinRequest{
		Hello: h, Role: wire.RoleToProto(r.Role), CertificateRequest: r.CertificateRequest, TokenId: tokenID(r.Token),
	}
}

func joinRequestFromProto(ctx context.Context, req *pb.JoinRequest) (r JoinRequest, err error) {
	r = JoinRequest{Role: wire.RoleFromProto(req.GetRole()), CertificateRequest: req.GetCertificateRequest()}
	if err := checkRequest(r.CertificateRequest); err != nil {
		return JoinRequest{}, err
	}
	r.Proof, err = mtls.ProofOf(ctx, req.GetTokenId(), req.GetTokenSecret())
	return r, err
}

func checkRequest(request []byte) error {
	if len(request) > nexusraft.MaxCertificateRequestBytes {
		return fmt.Errorf("%w: a request for a certificate of %d bytes, limit %d", nexusraft.ErrTooLarge, len(request),
			nexusraft.MaxCertificateRequestBytes)
	}
	return nil
}

// Renew implements pb.ClusterServer.
func (c clusterService) Renew(ctx context.Context, req *pb.RenewRequest) (*pb.RenewResponse, error) {
	if c.s.h.Renew == nil {
		return nil, errWitness
	}
	r, err := renewing(ctx, req)
	var renewal Renewal
	if err == nil {
		renewal, err = c.s.h.Renew(ctx, r)
	}
	if err != nil {
		return &pb.RenewResponse{Result: &pb.RenewResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.RenewResponse{
		Result:      &pb.RenewResponse_Certificate{Certificate: renewal.Certificate},
		Authorities: bundleToProto(renewal.Authorities),
	}, nil
}

// renewing returns what a call asks for: for the node whose certificate it shows, valid or lapsed,
// or else for the one that it names and shows a join token for.
func renewing(ctx context.Context, req *pb.RenewRequest) (r RenewRequest, err error) {
	r.CertificateRequest = req.GetCertificateRequest()
	if err := checkRequest(r.CertificateRequest); err != nil {
		return r, err
	}
	if caller, ok := mtls.CallerOf(ctx); ok && caller.Node != 0 {
		r.Node = caller.Node
		return r, nil
	}
	if len(req.GetTokenId()) > 0 {
		r.Node = nexusraft.NodeID(req.GetNodeId())
		r.Proof, err = mtls.ProofOf(ctx, req.GetTokenId(), nil)
		return r, err
	}
	if caller, ok := mtls.LapsedCallerOf(ctx); ok {
		r.Node = caller.Node
		return r, nil
	}
	err = fmt.Errorf("%w: only a node that shows its certificate, or a join token, can renew it", nexusraft.ErrRefused)
	if why := mtls.WhyUnknown(ctx); why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return r, err
}

// Renew asks the node at addr for a new certificate; see Client.Renew.
func (p *Peers) Renew(ctx context.Context, addr string, r RenewRequest) (Renewal, error) {
	c, end, err := p.pool.spare(NodeAddress{Endpoint: addr})
	if err != nil {
		return Renewal{}, err
	}
	defer end()
	return c.Renew(ctx, r)
}

// Renew asks for a new certificate in place of the one that this node shows, which may have
// expired, for the key of the request. With a token it shows that instead. ErrFenced: this node was
// removed.
func (c *Client) Renew(ctx context.Context, r RenewRequest) (Renewal, error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return Renewal{}, err
	}
	defer end()
	resp, err := pb.NewClusterClient(c.conn).Renew(ctx, &pb.RenewRequest{
		CertificateRequest: r.CertificateRequest, TokenId: tokenID(r.Token), NodeId: uint64(r.Node),
	}, mtls.ProveToken(r.Token)...)
	if err != nil {
		return Renewal{}, fmt.Errorf("renew the certificate by %s: %w", c.addr.Endpoint, joinError(ctx, err))
	}
	if e := resp.GetError(); e != nil {
		return Renewal{}, fmt.Errorf("renew the certificate by %s: %w", c.addr.Endpoint, wire.ErrorFromProto(e))
	}
	a, err := bundleFromProto(resp.GetAuthorities())
	if err != nil {
		return Renewal{}, fmt.Errorf("renew the certificate by %s: %w", c.addr.Endpoint, err)
	}
	return Renewal{Certificate: resp.GetCertificate(), Authorities: a}, nil
}

// tokenID is a token's identifier as it travels; empty without one.
func tokenID(t pki.Token) []byte {
	if t == (pki.Token{}) {
		return nil
	}
	return t.ID[:]
}
