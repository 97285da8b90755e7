package rpc

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Rotator replaces the cluster's certificate authority.
type Rotator interface {
	// Authorities returns the authorities that the cluster believes, and how far each node is.
	Authorities(ctx context.Context) (nexusraft.Authorities, error)

	// RotateAuthority takes one step, unless nodes that are not in without are not ready for it.
	RotateAuthority(ctx context.Context, to nexusraft.AuthorityPhase, without []nexusraft.NodeID) (nexusraft.Authorities,
		error)
}

// rotation is pb.RotationServer.
type rotation struct {
	pb.UnimplementedRotationServer
	rotator Rotator
}

// GetAuthority implements pb.RotationServer.
func (s *rotation) GetAuthority(ctx context.Context, _ *pb.GetAuthorityRequest) (*pb.GetAuthorityResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	all, err := s.rotator.Authorities(ctx)
	if err != nil {
		return nil, Status(err)
	}
	return &pb.GetAuthorityResponse{Authority: wire.AuthoritiesToProto(all)}, nil
}

// maxWithout is how many nodes a step may leave behind.
const maxWithout = 64

// RotateAuthority implements pb.RotationServer.
func (s *rotation) RotateAuthority(
	ctx context.Context, req *pb.RotateAuthorityRequest,
) (*pb.RotateAuthorityResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	if len(req.GetWithout()) > maxWithout {
		return nil, Status(fmt.Errorf("%w: %d nodes are to be left behind, limit %d", nexusraft.ErrTooLarge,
			len(req.GetWithout()), maxWithout))
	}
	var without []nexusraft.NodeID
	for _, id := range req.GetWithout() {
		without = append(without, nexusraft.NodeID(id))
	}
	all, err := s.rotator.RotateAuthority(ctx, wire.AuthorityPhaseFromProto(req.GetTo()), without)
	if err != nil {
		return nil, Status(err)
	}
	return &pb.RotateAuthorityResponse{Authority: wire.AuthoritiesToProto(all)}, nil
}
