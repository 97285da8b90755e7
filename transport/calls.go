package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Propose runs a command on another node, which should lead the zone. It borrows command
// until it returns.
//
// If the peer could not be reached at the last attempt, or doesn't connect within
// VoteTimeout (by then there may be another leader), or ctx ends before, it returns
// ErrUnreachable: nothing was sent. From then on every failure but the peer's own answer is ErrUncertain: the command may still
// commit. The peer's answer matches the sentinel that it was there; see MemberHandler.
func (p *Peers) Propose(ctx context.Context, to nexusraft.NodeID, zone nexusraft.ZoneID, request nexusraft.RequestID, command []byte) (nexusraft.Result, error) {
	if err := checkCommand(command); err != nil {
		return nexusraft.Result{}, err
	}
	x := p.peer(to)
	if x == nil {
		return nexusraft.Result{}, p.errUnknown(to)
	}
	waitCtx, cancel := context.WithTimeout(ctx, p.o.VoteTimeout)
	defer cancel()
	conn, err := x.awaitUp(waitCtx)
	if err != nil {
		return nexusraft.Result{}, err
	}
	self := p.id()
	resp, err := pb.NewZonesClient(conn).Propose(ctx, &pb.ProposeRequest{
		Hello:   hello(self, to),
		Zone:    uint64(zone),
		Request: &pb.RequestID{Session: request.Session, Sequence: request.Sequence},
		Command: command,
	})
	if err == nil {
		return p.proposeResult(self, to, resp)
	}
	if status.Code(err) == codes.Unimplemented {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %s", to, nexusraft.ErrNotLeader, status.Convert(err).Message())
	}
	return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %w", to, nexusraft.ErrUncertain, err)
}

// proposeResult reads a peer's answer. One that can't be trusted says nothing.
func (p *Peers) proposeResult(self Identity, to nexusraft.NodeID, resp *pb.ProposeResponse) (nexusraft.Result, error) {
	if e := resp.GetError(); e != nil {
		return nexusraft.Result{}, wire.ErrorFromProto(e)
	}
	if err := p.accept(self, resp.GetHello(), to); err != nil {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %s", to, nexusraft.ErrUncertain, err)
	}
	ok := resp.GetOk()
	if ok == nil {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: the answer is empty", to, nexusraft.ErrUncertain)
	}
	return nexusraft.Result{Data: ok.GetData(), Index: nexusraft.Index(ok.GetIndex()), Copies: int(ok.GetCopies())}, nil
}

// Join asks the node at addr to admit this one. It returns the node's own answer (a
// NotLeaderError names whom to ask instead), or ErrUnreachable if it got none. Asking again
// is safe.
func (p *Peers) Join(ctx context.Context, addr string, r JoinRequest) (JoinResult, error) {
	self := p.id()
	r.Peer = self
	if err := checkJoinRole(r); err != nil {
		return JoinResult{}, err
	}
	conn, err := p.dial(addr)
	if err != nil {
		return JoinResult{}, err
	}
	defer conn.Close()
	ctx, cancel := p.bound(ctx)
	defer cancel()
	resp, err := pb.NewClusterClient(conn).Join(ctx, &pb.JoinRequest{Hello: hello(self, 0), Role: wire.RoleToProto(r.Role)})
	if err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, joinError(ctx, err))
	}
	if e := resp.GetError(); e != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, wire.ErrorFromProto(e))
	}
	if err := p.accept(self, resp.GetHello(), 0); err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, err)
	}
	return joinResult(addr, resp.GetAdmission())
}

func joinError(ctx context.Context, err error) error {
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("%w: %w", ErrUnreachable, forPeople(reason(ctx, err)))
	}
	text := status.Convert(err).Message()
	if strings.HasPrefix(text, "unknown service") {
		text += ": it is no node of this kind; give the address of a member"
	}
	return fmt.Errorf("%w: %s", nexusraft.ErrRefused, text)
}

// forPeople returns what the operating system said, without what gRPC has wrapped it in.
func forPeople(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := s.Message()
	if i := strings.Index(text, "dial tcp "); i >= 0 {
		text = strings.TrimRight(text[i:], `"`)
	}
	return errors.New(text)
}

func joinResult(addr string, a *pb.Admission) (JoinResult, error) {
	result := JoinResult{
		Cluster:    nexusraft.ClusterID(a.GetClusterId()),
		Zone:       nexusraft.ZoneID(a.GetZone()),
		Replica:    nexusraft.ReplicaID(a.GetReplica()),
		Membership: wire.MembershipFromProto(a.GetMembership()),
	}
	if result.Cluster == 0 || result.Zone == 0 || result.Replica == 0 {
		return JoinResult{}, fmt.Errorf("join by %s: %w: the admission names cluster %v, zone %v, replica %v",
			addr, nexusraft.ErrCorrupt, result.Cluster, result.Zone, result.Replica)
	}
	if err := result.Membership.Validate(); err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w: membership: %w", addr, nexusraft.ErrCorrupt, err)
	}
	return result, nil
}
