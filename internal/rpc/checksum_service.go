package rpc

import (
	"context"

	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Checksum implements pb.ZonesServer.
func (s *zones) Checksum(ctx context.Context, req *pb.ChecksumRequest) (*pb.ChecksumResponse, error) {
	select {
	case s.summing <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-s.summing }()
	sum, err := s.handler.Checksum(ctx, nexusraft.ZoneID(req.GetZone()))
	if err != nil {
		return &pb.ChecksumResponse{Result: &pb.ChecksumResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.ChecksumResponse{
		Result: &pb.ChecksumResponse_Checksum{Checksum: wire.ChecksumToProto(sum)},
	}, nil
}
