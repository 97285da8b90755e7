package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// CABundle is the list of authorities that the nodes of a cluster believe.
type CABundle struct {
	Step uint64 // how many steps of rotations have been taken: a list of more steps replaces one of fewer
	// PEM, that of the one that signs for nodes first; at most pki.MaxAuthoritiesBytes; nil if it is
	// not known
	Certificates []byte
}

// Trust is what a node believes, so that it outlives a restart, and shows.
type Trust struct {
	Step uint64 // the list that it believes, by CABundle.Step
	// SHA-256 of the authority that has signed its certificate; nil if that comes from a file, or
	// there is none
	Signer []byte
}

func bundleToProto(a CABundle) *pb.Authorities {
	if a.Certificates == nil {
		return nil
	}
	return &pb.Authorities{Step: a.Step, Certificates: a.Certificates}
}

func bundleFromProto(a *pb.Authorities) (CABundle, error) {
	if n := len(a.GetCertificates()); n > pki.MaxAuthoritiesBytes {
		return CABundle{}, fmt.Errorf("%w: a list of authorities of %d bytes, limit %d", nexusraft.ErrTooLarge, n,
			pki.MaxAuthoritiesBytes)
	}
	return CABundle{Step: a.GetStep(), Certificates: a.GetCertificates()}, nil
}

// Trust implements pb.ClusterServer.
func (c clusterService) Trust(ctx context.Context, req *pb.TrustRequest) (*pb.TrustResponse, error) {
	resp := &pb.TrustResponse{}
	if t, err := c.s.trust(ctx, req); err != nil {
		resp.Result = &pb.TrustResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.TrustResponse_Trust{Trust: &pb.Trust{Step: t.Step, Signer: t.Signer}}
	}
	resp.Hello = c.s.hello(req.GetHello())
	return resp, nil
}

func (s *Server) trust(ctx context.Context, req *pb.TrustRequest) (Trust, error) {
	if s.h.Trust == nil {
		return Trust{}, fmt.Errorf("%w: this node has no certificates of the cluster's own authority", nexusraft.ErrRefused)
	}
	from, err := s.greet(ctx, req.GetHello(), false)
	if err != nil {
		return Trust{}, err
	}
	a, err := bundleFromProto(req.GetAuthorities())
	if err != nil {
		return Trust{}, err
	}
	return s.h.Trust(ctx, from, a)
}

// Trust tells a node which authorities this one believes, and asks which it does. ErrUnreachable:
// there is no answer; ErrRefused: it does not say, or runs a release that can't.
func (p *Peers) Trust(ctx context.Context, to nexusraft.NodeID, a CABundle) (Trust, error) {
	x := p.peer(to)
	if x == nil {
		return Trust{}, p.errUnknown(to)
	}
	client, err := x.awaitUp(ctx)
	if err != nil {
		return Trust{}, err
	}
	return client.trust(ctx, a)
}

func (c *Client) trust(ctx context.Context, a CABundle) (Trust, error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return Trust{}, err
	}
	defer end()
	self := c.pool.self()
	resp, err := pb.NewClusterClient(c.conn).Trust(ctx, &pb.TrustRequest{
		Hello:       hello(self, c.addr.ID),
		Authorities: bundleToProto(a),
	})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return Trust{}, fmt.Errorf("%w: node %v runs an earlier release, which knows of no other authority; update it first",
			nexusraft.ErrRefused, c.addr.ID)
	case err != nil:
		return Trust{}, fmt.Errorf("%w: %w", ErrUnreachable, forPeople(reason(ctx, err)))
	case resp.GetError() != nil:
		return Trust{}, wire.ErrorFromProto(resp.GetError())
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return Trust{}, err
	}
	return Trust{Step: resp.GetTrust().GetStep(), Signer: resp.GetTrust().GetSigner()}, nil
}
