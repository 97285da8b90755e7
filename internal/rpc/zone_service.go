package rpc

import (
	"context"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// ZoneHandler is what a node does for operators and writers of its zones. Its methods are called from many
// goroutines at once. Errors travel in the answers, as the sentinels that they match.
type ZoneHandler interface {
	// ChangeMembership makes one change of a zone's replicas if this node leads the zone,
	// and returns once it is in force. Change is valid.
	ChangeMembership(ctx context.Context, zone nexusraft.ZoneID, change nexusraft.MembershipChange) (nexusraft.Membership,
		error)

	// TransferLeader has another member lead, if this node leads the zone: to, or if that is
	// 0 the member that has most of the log. It returns the new leader, once that leads.
	TransferLeader(ctx context.Context, zone nexusraft.ZoneID, to nexusraft.NodeID) (nexusraft.NodeID, error)

	// Checksum digests this node's own copy of a zone's state.
	Checksum(ctx context.Context, zone nexusraft.ZoneID) (nexusraft.Checksum, error)

	// RegisterSession registers a session of the client of ctx, and returns its ID. It does not wait for a leader.
	RegisterSession(ctx context.Context, zone nexusraft.ZoneID) (uint64, error)
}

// ZoneKeeper makes, places, deletes and lists the zones of a cluster; hosting.Service documents its methods. They
// are called from many goroutines at once.
type ZoneKeeper interface {
	Create(ctx context.Context, name, machine string, plan nexusraft.ZonePlan) (nexusraft.ZoneInfo, error)
	Reshape(ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape) (nexusraft.ZoneInfo, error)
	Delete(ctx context.Context, id nexusraft.ZoneID, name string) error
	List(ctx context.Context, after nexusraft.ZoneID, name string) (zones []nexusraft.ZoneInfo, more bool, err error)
}

// zones is pb.ZonesServer, but for Propose.
type zones struct {
	pb.UnimplementedZonesServer
	handler ZoneHandler
	keeper  ZoneKeeper    // nil: CreateZone, ReshapeZone, DeleteZone and ListZones are not implemented
	summing chan struct{} // has room for the one digest that is computed at a time: it walks over a whole state
}

// NewZones returns the operators' part of the service Zones, for transport.Handlers. Without a keeper,
// which is nil, nothing is served that it is for.
func NewZones(h ZoneHandler, k ZoneKeeper) pb.ZonesServer {
	return &zones{handler: h, keeper: k, summing: make(chan struct{}, 1)}
}

// CreateZone implements pb.ZonesServer.
func (s *zones) CreateZone(ctx context.Context, req *pb.CreateZoneRequest) (*pb.CreateZoneResponse, error) {
	if s.keeper == nil {
		return s.UnimplementedZonesServer.CreateZone(ctx, req)
	}
	ctx, cancel := Bounded(ctx)
	defer cancel()
	zone, err := s.keeper.Create(ctx, req.GetName(), req.GetMachine(), wire.ZonePlanFromProto(req.GetPlan()))
	if err != nil {
		return &pb.CreateZoneResponse{
			Result: &pb.CreateZoneResponse_Error{Error: wire.ErrorToProto(ProposeError(err))},
		}, nil
	}
	return &pb.CreateZoneResponse{Result: &pb.CreateZoneResponse_Zone{Zone: wire.ZoneInfoToProto(zone)}}, nil
}

// ReshapeZone implements pb.ZonesServer.
func (s *zones) ReshapeZone(ctx context.Context, req *pb.ReshapeZoneRequest) (*pb.ReshapeZoneResponse, error) {
	if s.keeper == nil {
		return s.UnimplementedZonesServer.ReshapeZone(ctx, req)
	}
	ctx, cancel := Bounded(ctx)
	defer cancel()
	zone, err := s.keeper.Reshape(ctx, nexusraft.ZoneID(req.GetZone()), req.GetName(), nexusraft.ZoneReshape{
		ZonePlan: wire.ZonePlanFromProto(req.GetPlan()), Off: nexusraft.NodeID(req.GetOff()), Instead: req.GetInstead(),
		With: nexusraft.NodeID(req.GetWith()),
	})
	if err != nil {
		return &pb.ReshapeZoneResponse{
			Result: &pb.ReshapeZoneResponse_Error{Error: wire.ErrorToProto(ProposeError(err))},
		}, nil
	}
	return &pb.ReshapeZoneResponse{Result: &pb.ReshapeZoneResponse_Zone{Zone: wire.ZoneInfoToProto(zone)}}, nil
}

// DeleteZone implements pb.ZonesServer.
func (s *zones) DeleteZone(ctx context.Context, req *pb.DeleteZoneRequest) (*pb.DeleteZoneResponse, error) {
	if s.keeper == nil {
		return s.UnimplementedZonesServer.DeleteZone(ctx, req)
	}
	ctx, cancel := Bounded(ctx)
	defer cancel()
	if err := s.keeper.Delete(ctx, nexusraft.ZoneID(req.GetZone()), req.GetName()); err != nil {
		return &pb.DeleteZoneResponse{Error: wire.ErrorToProto(ProposeError(err))}, nil
	}
	return &pb.DeleteZoneResponse{}, nil
}

// ListZones implements pb.ZonesServer.
func (s *zones) ListZones(ctx context.Context, req *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
	if s.keeper == nil {
		return s.UnimplementedZonesServer.ListZones(ctx, req)
	}
	ctx, cancel := Bounded(ctx)
	defer cancel()
	made := func(proto.Message) {} // one zone's record is small
	if req.GetName() == "" {
		var err error
		if made, err = reserveList(ctx); err != nil {
			return nil, Status(err)
		}
	}
	found, more, err := s.keeper.List(ctx, nexusraft.ZoneID(req.GetAfter()), req.GetName())
	if err != nil {
		return &pb.ListZonesResponse{Result: &pb.ListZonesResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	list := &pb.ZoneList{More: more}
	for _, z := range found {
		list.Zones = append(list.Zones, wire.ZoneInfoToProto(z))
	}
	resp := &pb.ListZonesResponse{Result: &pb.ListZonesResponse_Zones{Zones: list}}
	made(resp)
	return resp, nil
}

// ChangeMembership implements pb.ZonesServer.
func (s *zones) ChangeMembership(
	ctx context.Context, req *pb.ChangeMembershipRequest,
) (*pb.ChangeMembershipResponse, error) {
	change := nexusraft.MembershipChange{
		Remove: nexusraft.NodeID(req.GetRemove()), Promote: nexusraft.NodeID(req.GetPromote()),
		Replace: nexusraft.NodeID(req.GetReplace().GetOld()), With: nexusraft.NodeID(req.GetReplace().GetNew()),
	}
	var members nexusraft.Membership
	err := change.Validate()
	if err == nil {
		members, err = s.handler.ChangeMembership(ctx, nexusraft.ZoneID(req.GetZone()), change)
	}
	if err != nil {
		return &pb.ChangeMembershipResponse{
			Result: &pb.ChangeMembershipResponse_Error{Error: wire.ErrorToProto(err)},
		}, nil
	}
	return &pb.ChangeMembershipResponse{
		Result: &pb.ChangeMembershipResponse_Membership{Membership: wire.MembershipToProto(members)},
	}, nil
}

// TransferLeader implements pb.ZonesServer.
func (s *zones) TransferLeader(
	ctx context.Context, req *pb.TransferLeaderRequest,
) (*pb.TransferLeaderResponse, error) {
	leader, err := s.handler.TransferLeader(ctx, nexusraft.ZoneID(req.GetZone()), nexusraft.NodeID(req.GetTo()))
	if err != nil {
		return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Leader{Leader: uint64(leader)}}, nil
}

// RegisterSession implements pb.ZonesServer.
func (s *zones) RegisterSession(
	ctx context.Context, req *pb.RegisterSessionRequest,
) (*pb.RegisterSessionResponse, error) {
	ctx, cancel := Bounded(ctx)
	defer cancel()
	id, err := s.handler.RegisterSession(ctx, nexusraft.ZoneID(req.GetZone()))
	if err != nil {
		return &pb.RegisterSessionResponse{
			Result: &pb.RegisterSessionResponse_Error{Error: wire.ErrorToProto(ProposeError(err))},
		}, nil
	}
	return &pb.RegisterSessionResponse{Result: &pb.RegisterSessionResponse_Session{Session: id}}, nil
}
