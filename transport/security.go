package transport

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// MaxRequestBytes is the longest request for a certificate.
const MaxRequestBytes = 4 << 10

// Renewer is a MemberHandler that renews certificates; a Server whose handler is none refuses
// to.
type Renewer interface {
	// Renew signs the request for a certificate, PEM, of a node that has proved by its present
	// certificate who it is. It returns PEM, the cluster's CA last.
	Renew(ctx context.Context, node nexusraft.NodeID, request []byte) ([]byte, error)
}

func joinRequestToProto(h *pb.Hello, r JoinRequest) *pb.JoinRequest {
	req := &pb.JoinRequest{Hello: h, Role: wire.RoleToProto(r.Role), CertificateRequest: r.CertificateRequest}
	if r.Token != (pki.Token{}) {
		req.TokenId, req.TokenSecret = r.Token.ID[:], r.Token.Secret[:]
	}
	return req
}

func joinRequestFromProto(peer Identity, req *pb.JoinRequest) (JoinRequest, error) {
	r := JoinRequest{Peer: peer, Role: wire.RoleFromProto(req.GetRole()), CertificateRequest: req.GetCertificateRequest()}
	if err := checkRequest(r.CertificateRequest); err != nil {
		return JoinRequest{}, err
	}
	id, secret := req.GetTokenId(), req.GetTokenSecret()
	if len(id) == 0 && len(secret) == 0 {
		return r, nil
	}
	if len(id) != len(r.Token.ID) || len(secret) != len(r.Token.Secret) {
		return JoinRequest{}, fmt.Errorf("%w: a join token with an identifier of %d and a secret of %d bytes", nexusraft.ErrRefused, len(id), len(secret))
	}
	copy(r.Token.ID[:], id)
	copy(r.Token.Secret[:], secret)
	return r, nil
}

func checkRequest(request []byte) error {
	if len(request) > MaxRequestBytes {
		return fmt.Errorf("%w: a request for a certificate of %d bytes, limit %d", nexusraft.ErrTooLarge, len(request), MaxRequestBytes)
	}
	return nil
}

// Renew implements pb.ClusterServer.
func (c clusterService) Renew(ctx context.Context, req *pb.RenewRequest) (*pb.RenewResponse, error) {
	renewer, ok := c.s.member.(Renewer)
	if !ok {
		return nil, errWitness
	}
	err := checkRequest(req.GetCertificateRequest())
	caller, known := CallerOf(ctx)
	if err == nil && (!known || caller.Node == 0) {
		err = fmt.Errorf("%w: only a node that shows its present certificate can renew it", nexusraft.ErrRefused)
	}
	var cert []byte
	if err == nil {
		cert, err = renewer.Renew(ctx, caller.Node, req.GetCertificateRequest())
	}
	if err != nil {
		return &pb.RenewResponse{Result: &pb.RenewResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.RenewResponse{Result: &pb.RenewResponse_Certificate{Certificate: cert}}, nil
}

// Renew asks the node at addr for a new certificate in place of the one that this node shows,
// for the key of the request, PEM. It returns PEM, the cluster's CA last. ErrFenced: this node
// was removed.
func (p *Peers) Renew(ctx context.Context, addr string, request []byte) ([]byte, error) {
	c, end, err := p.pool.spare(NodeAddress{Endpoint: addr})
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, done, err := c.beginCall(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	resp, err := pb.NewClusterClient(c.conn).Renew(ctx, &pb.RenewRequest{CertificateRequest: request})
	if err != nil {
		return nil, fmt.Errorf("renew the certificate by %s: %w", addr, joinError(ctx, err))
	}
	if e := resp.GetError(); e != nil {
		return nil, fmt.Errorf("renew the certificate by %s: %w", addr, wire.ErrorFromProto(e))
	}
	return resp.GetCertificate(), nil
}
