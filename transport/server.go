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
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Server takes what other nodes send, checks which nodes they are and hands it to its handlers.
// To end it, stop the grpc.Server it is registered with, which ends what reads streams, and then
// Close it. That must be Stop, not GracefulStop, since peers never end their Exchange streams.
type Server struct {
	id    func() Identity
	h     Handlers
	seen  openings
	votes *callLimiter

	questions *callLimiter // to leaders

	incoming incomingSnapshots
}

// NewServer returns a server of the node that id describes; id is called for each
// handshake, because a node learns its cluster late. Until then every peer is refused.
func NewServer(id func() Identity, h Handlers) *Server {
	return &Server{
		id: id, h: h, incoming: newIncomingSnapshots(),
		votes:     newCallLimiter(maxVoteCalls, maxVoteCallsOfNode),
		questions: newCallLimiter(maxQuestions, maxQuestionsOfNode),
	}
}

// Close ends snapshots of which only a part has come, and waits for their handlers. It may be
// called again.
func (s *Server) Close() { s.incoming.close() }

// Register adds the services to r, which should be a grpc.Server with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	pb.RegisterRaftTransportServer(r, raftService{s: s})
	pb.RegisterClusterServer(r, clusterService{s: s})
	pb.RegisterZonesServer(r, zonesService{s: s})
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
	peer.Full = provesFull(ctx, h)
	if err := s.seen.check(peer); err != nil {
		return Identity{}, err
	}
	if err := s.h.Peer.Hello(peer); err != nil {
		return Identity{}, refused(err)
	}
	if mtls.WhyUnknown(ctx) == nil { // else any caller could end a node by claiming to be its next opening
		s.seen.record(peer)
	}
	return peer, nil
}

// End ends all that a node has under way here, streams and snapshots, with the reason, which should
// match ErrFenced; it is refused from now on, and nothing more that it has sent is handed on. That
// is for a node that was removed: one that has nothing to send learns of it by that. It does not
// block.
func (s *Server) End(node nexusraft.NodeID, why error) {
	s.seen.end(node, why)
	s.incoming.end(node, why)
}

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
		return nil, status.Errorf(codes.ResourceExhausted, "request votes of node %v: too many calls at once, %d of one "+
			"node and %d of all; try again later",
			r.s.id().Node, maxVoteCallsOfNode, maxVoteCalls)
	}
	defer r.s.votes.leave(peer.Node)
	results, err := r.s.h.Peer.RequestVote(ctx, peer.Node, votes)
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
	if c.s.h.Member == nil {
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
			Authorities: bundleToProto(result.Authorities),
		}}
	}
	resp.Hello = c.s.hello(req.GetHello())
	if err != nil && mtls.WhyUnknown(ctx) != nil {
		resp.Hello = helloToAnonymous(c.s.id())
	}
	return resp, nil
}

// helloToAnonymous is this node's answer to an anonymous caller: what its certificate says,
// and the version.
func helloToAnonymous(self Identity) *pb.Hello {
	return &pb.Hello{
		Protocol: ProtocolVersion, Minor: MinorVersion, ClusterId: uint64(self.Cluster),
		NodeId: uint64(self.Node),
	}
}

func (s *Server) join(ctx context.Context, req *pb.JoinRequest) (JoinResult, error) {
	r, err := joinRequestFromProto(ctx, req)
	if err != nil {
		return JoinResult{}, err
	}
	if err := s.screen(ctx, req.GetHello(), r); err != nil {
		return JoinResult{}, err
	}
	if r.Peer, err = s.greet(ctx, req.GetHello(), true); err != nil {
		return JoinResult{}, err
	}
	if err := checkJoinRole(r); err != nil {
		return JoinResult{}, err
	}
	return s.h.Member.Join(ctx, r)
}

// screen refuses a caller without a certificate that shows no good join token, before it is
// compared with what is known of the node that it claims to be: a refusal would tell of that.
func (s *Server) screen(ctx context.Context, h *pb.Hello, r JoinRequest) error {
	if s.h.CheckToken == nil || mtls.WhyUnknown(ctx) == nil {
		return nil
	}
	self := s.id()
	if _, err := checkCaller(self, h, true); err != nil {
		return err
	}
	if err := checkSender(ctx, self, h, true); err != nil {
		return err
	}
	return s.h.CheckToken(ctx, r.Proof)
}

// checkJoinRole refuses a role in which no node can join, and one that contradicts what
// the node says of itself.
func checkJoinRole(r JoinRequest) error {
	if r.Role != nexusraft.RoleMember && r.Role != nexusraft.RoleWitness {
		return fmt.Errorf("%w: join as %q: only %q and %q can join", nexusraft.ErrRefused, r.Role, nexusraft.RoleMember,
			nexusraft.RoleWitness)
	}
	if r.Peer.Witness != (r.Role == nexusraft.RoleWitness) {
		return fmt.Errorf("%w: join as %q: node %v says of itself witness=%t", nexusraft.ErrRefused, r.Role, r.Peer.Node,
			r.Peer.Witness)
	}
	return nil
}

// Status implements pb.ClusterServer.
func (c clusterService) Status(ctx context.Context, req *pb.StatusRequest) (*pb.StatusResponse, error) {
	st, err := c.s.h.Peer.Status(ctx, nexusraft.ZoneID(req.GetZone()))
	if err != nil {
		return nil, callError(err)
	}
	return &pb.StatusResponse{Status: wire.NodeStatusToProto(st)}, nil
}

// zonesService is pb.ZonesServer: Propose is for nodes, the rest for operators.
type zonesService struct {
	pb.UnimplementedZonesServer
	s *Server
}

// Propose implements pb.ZonesServer.
func (z zonesService) Propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if z.s.h.Member == nil {
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
	requester, err := decodeRequester(req.GetRequester())
	if err != nil {
		return nexusraft.Result{}, err
	}
	return s.h.Member.Propose(ctx, Proposal{
		Zone:    nexusraft.ZoneID(req.GetZone()),
		Request: nexusraft.RequestID{Session: req.GetRequest().GetSession(), Sequence: req.GetRequest().GetSequence()},
		Own:     req.GetOwn(),
		Command: req.GetCommand(),

		Requester: requester,
	})
}

func checkCommand(command []byte) error {
	if len(command) > nexusraft.MaxCommandBytes {
		return fmt.Errorf("%w: a command of %d bytes, limit %d", nexusraft.ErrTooLarge, len(command),
			nexusraft.MaxCommandBytes)
	}
	return nil
}

// CreateZone implements pb.ZonesServer.
func (z zonesService) CreateZone(ctx context.Context, req *pb.CreateZoneRequest) (*pb.CreateZoneResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.CreateZone(ctx, req)
}

// ReshapeZone implements pb.ZonesServer.
func (z zonesService) ReshapeZone(ctx context.Context, req *pb.ReshapeZoneRequest) (*pb.ReshapeZoneResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.ReshapeZone(ctx, req)
}

// DeleteZone implements pb.ZonesServer.
func (z zonesService) DeleteZone(ctx context.Context, req *pb.DeleteZoneRequest) (*pb.DeleteZoneResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.DeleteZone(ctx, req)
}

// ListZones implements pb.ZonesServer.
func (z zonesService) ListZones(ctx context.Context, req *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.ListZones(ctx, req)
}

// Checksum implements pb.ZonesServer.
func (z zonesService) Checksum(ctx context.Context, req *pb.ChecksumRequest) (*pb.ChecksumResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	resp, err := z.s.h.Operators.Checksum(ctx, req)
	if resp != nil {
		resp.Hello = hello(z.s.id(), 0)
	}
	return resp, err
}

// ChangeMembership implements pb.ZonesServer.
func (z zonesService) ChangeMembership(
	ctx context.Context, req *pb.ChangeMembershipRequest,
) (*pb.ChangeMembershipResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.ChangeMembership(ctx, req)
}

// TransferLeader implements pb.ZonesServer.
func (z zonesService) TransferLeader(
	ctx context.Context, req *pb.TransferLeaderRequest,
) (*pb.TransferLeaderResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.TransferLeader(ctx, req)
}

// RegisterSession implements pb.ZonesServer.
func (z zonesService) RegisterSession(
	ctx context.Context, req *pb.RegisterSessionRequest,
) (*pb.RegisterSessionResponse, error) {
	if z.s.h.Operators == nil {
		return nil, errWitness
	}
	return z.s.h.Operators.RegisterSession(ctx, req)
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
