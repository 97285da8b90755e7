package transport

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Server takes what other nodes send, checks who they are and hands it to its handlers.
// To end it, stop the grpc.Server it is registered with, which ends what reads streams, and then
// Close it. That must be Stop, not GracefulStop, since peers never end their Exchange streams.
type Server struct {
	id     func() Identity
	peer   PeerHandler
	member MemberHandler // nil on a witness
	seen   lives
	votes  voteGate

	receipts receipts
}

// NewServer returns a server of the node that id describes; id is called for each
// handshake, because a node learns its cluster late. Until then every peer is refused. A
// nil mh makes it a witness's server: what only a full node does is answered Unimplemented.
func NewServer(id func() Identity, ph PeerHandler, mh MemberHandler) *Server {
	return &Server{id: id, peer: ph, member: mh, receipts: newReceipts()}
}

// Close ends snapshots of which only a part has come, and waits for their handlers. It may be called
// again.
func (s *Server) Close() { s.receipts.close() }

// Register adds the services to r, which should be a grpc.Server with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	pb.RegisterRaftTransportServer(r, raftService{s: s})
	pb.RegisterClusterServer(r, clusterService{s: s})
	pb.RegisterZonesServer(r, zonesService{s: s})
	if h, ok := s.member.(EventHandler); ok {
		pb.RegisterEventStreamServer(r, eventService{handler: h})
	}
}

// greet accepts a handshake or says why not.
func (s *Server) greet(ctx context.Context, h *pb.Hello, joining bool) (Identity, error) {
	self := s.id()
	peer, err := checkCaller(self, h, joining)
	if err != nil {
		return Identity{}, err
	}
	if err := checkSender(ctx, self, h, joining); err != nil {
		return Identity{}, err
	}
	if err := s.seen.check(peer); err != nil {
		return Identity{}, err
	}
	if err := s.peer.Hello(peer); err != nil {
		return Identity{}, refused(err)
	}
	if WhyUnknown(ctx) == nil { // else whoever it is could end a node's life by claiming to be its next one
		s.seen.record(peer)
	}
	return peer, nil
}

// GreetAgain has a node that is connected shake hands anew. That is how one that was
// removed, and has nothing to send, learns that PeerHandler.Hello refuses it now.
func (s *Server) GreetAgain(node nexusraft.NodeID) { s.seen.greetAgain(node) }

// hello is this node's answer to the node that h claims to be.
func (s *Server) hello(h *pb.Hello) *pb.Hello {
	return hello(s.id(), nexusraft.NodeID(h.GetNodeId()))
}

// raftService is pb.RaftTransportServer.
type raftService struct {
	pb.UnimplementedRaftTransportServer
	s *Server
}

// RequestVote implements pb.RaftTransportServer.
func (r raftService) RequestVote(ctx context.Context, req *pb.RequestVoteRequest) (*pb.RequestVoteResponse, error) {
	peer, err := r.s.greet(ctx, req.GetHello(), false)
	if err != nil {
		return nil, refusalStatus(r.s.id(), req.GetHello(), err)
	}
	votes, err := votesFromProto(req.GetVotes())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if !r.s.votes.enter(peer.Node) {
		return nil, status.Errorf(codes.ResourceExhausted, "request votes of node %v: too many calls at once, %d of one node and %d of all; try again later",
			r.s.id().Node, maxVoteCallsOfNode, maxVoteCalls)
	}
	defer r.s.votes.leave(peer.Node)
	results, err := r.s.peer.RequestVote(ctx, peer.Node, votes)
	if err != nil {
		return nil, callError(err)
	}
	return &pb.RequestVoteResponse{Hello: r.s.hello(req.GetHello()), Results: resultsToProto(results)}, nil
}

// clusterService is pb.ClusterServer.
type clusterService struct {
	pb.UnimplementedClusterServer
	s *Server
}

// Join implements pb.ClusterServer.
func (c clusterService) Join(ctx context.Context, req *pb.JoinRequest) (*pb.JoinResponse, error) {
	if c.s.member == nil {
		return nil, errWitness
	}
	resp := &pb.JoinResponse{}
	result, err := c.s.join(ctx, req)
	if err != nil {
		resp.Result = &pb.JoinResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.JoinResponse_Admission{Admission: &pb.Admission{
			ClusterId:  uint64(result.Cluster),
			Zone:       uint64(result.Zone),
			Replica:    uint64(result.Replica),
			Membership: wire.MembershipToProto(result.Membership),

			Certificate: result.Certificate,
		}}
	}
	resp.Hello = c.s.hello(req.GetHello())
	return resp, nil
}

func (s *Server) join(ctx context.Context, req *pb.JoinRequest) (JoinResult, error) {
	peer, err := s.greet(ctx, req.GetHello(), true)
	if err != nil {
		return JoinResult{}, err
	}
	r, err := joinRequestFromProto(peer, req)
	if err == nil {
		err = checkJoinRole(r)
	}
	if err != nil {
		return JoinResult{}, err
	}
	return s.member.Join(ctx, r)
}

// checkJoinRole refuses a role in which no node can join, and one that contradicts what
// the node says of itself.
func checkJoinRole(r JoinRequest) error {
	if r.Role != nexusraft.RoleMember && r.Role != nexusraft.RoleWitness {
		return fmt.Errorf("%w: join as %q: only %q and %q can join", nexusraft.ErrRefused, r.Role, nexusraft.RoleMember, nexusraft.RoleWitness)
	}
	if r.Peer.Witness != (r.Role == nexusraft.RoleWitness) {
		return fmt.Errorf("%w: join as %q: node %v says of itself witness=%t", nexusraft.ErrRefused, r.Role, r.Peer.Node, r.Peer.Witness)
	}
	return nil
}

// Status implements pb.ClusterServer.
func (c clusterService) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	st, err := c.s.peer.Status(ctx)
	if err != nil {
		return nil, callError(err)
	}
	return &pb.StatusResponse{Status: wire.NodeStatusToProto(st)}, nil
}

// zonesService is pb.ZonesServer.
type zonesService struct {
	pb.UnimplementedZonesServer
	s *Server
}

// Propose implements pb.ZonesServer.
func (z zonesService) Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if z.s.member == nil {
		return nil, errWitness
	}
	resp := &pb.ProposeResponse{}
	result, err := z.s.propose(ctx, req)
	if err != nil {
		resp.Result = &pb.ProposeResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.ProposeResponse_Ok{Ok: &pb.ProposeResult{
			Data:   result.Data,
			Index:  uint64(result.Index),
			Copies: uint32(max(result.Copies, 0)),
		}}
	}
	resp.Hello = z.s.hello(req.GetHello())
	return resp, nil
}

func (s *Server) propose(ctx context.Context, req *pb.ProposeRequest) (nexusraft.Result, error) {
	if _, err := s.greet(ctx, req.GetHello(), false); err != nil {
		return nexusraft.Result{}, err
	}
	if err := checkCommand(req.GetCommand()); err != nil {
		return nexusraft.Result{}, err
	}
	return s.member.Propose(ctx, Proposal{
		Zone:    nexusraft.ZoneID(req.GetZone()),
		Request: nexusraft.RequestID{Session: req.GetRequest().GetSession(), Sequence: req.GetRequest().GetSequence()},
		Own:     req.GetOwn(),
		Command: req.GetCommand(),
	})
}

func checkCommand(command []byte) error {
	if len(command) > MaxCommandBytes {
		return fmt.Errorf("%w: a command of %d bytes, limit %d", nexusraft.ErrTooLarge, len(command), MaxCommandBytes)
	}
	return nil
}

// Checksum implements pb.ZonesServer.
func (z zonesService) Checksum(ctx context.Context, req *pb.ChecksumRequest) (*pb.ChecksumResponse, error) {
	if z.s.member == nil {
		return nil, errWitness
	}
	resp := &pb.ChecksumResponse{Hello: hello(z.s.id(), 0)}
	sum, err := z.s.member.Checksum(ctx, nexusraft.ZoneID(req.GetZone()))
	if err != nil {
		resp.Result = &pb.ChecksumResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.ChecksumResponse_Checksum{Checksum: wire.ChecksumToProto(sum)}
	}
	return resp, nil
}

// ChangeMembership implements pb.ZonesServer.
func (z zonesService) ChangeMembership(ctx context.Context, req *pb.ChangeMembershipRequest) (*pb.ChangeMembershipResponse, error) {
	if z.s.member == nil {
		return nil, errWitness
	}
	change := nexusraft.MembershipChange{
		Remove: nexusraft.NodeID(req.GetRemove()), Promote: nexusraft.NodeID(req.GetPromote()),
		Replace: nexusraft.NodeID(req.GetReplace().GetOld()), With: nexusraft.NodeID(req.GetReplace().GetNew()),
	}
	var members nexusraft.Membership
	err := change.Validate()
	if err == nil {
		members, err = z.s.member.ChangeMembership(ctx, nexusraft.ZoneID(req.GetZone()), change)
	}
	if err != nil {
		return &pb.ChangeMembershipResponse{Result: &pb.ChangeMembershipResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.ChangeMembershipResponse{Result: &pb.ChangeMembershipResponse_Membership{Membership: wire.MembershipToProto(members)}}, nil
}

// TransferLeader implements pb.ZonesServer.
func (z zonesService) TransferLeader(ctx context.Context, req *pb.TransferLeaderRequest) (*pb.TransferLeaderResponse, error) {
	if z.s.member == nil {
		return nil, errWitness
	}
	leader, err := z.s.member.TransferLeader(ctx, nexusraft.ZoneID(req.GetZone()), nexusraft.NodeID(req.GetTo()))
	if err != nil {
		return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Error{Error: wire.ErrorToProto(err)}}, nil
	}
	return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Leader{Leader: uint64(leader)}}, nil
}

// errWitness answers what only a full node does.
var errWitness = status.Error(codes.Unimplemented, "this node is a witness: it holds no data and never leads")

// callError gives a handler's error a code, for methods whose response has no room for it.
func callError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}
