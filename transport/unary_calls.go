package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Propose runs a command on another node, which should lead the zone. It borrows the
// command until it returns.
//
// If the peer could not be reached at the last attempt, or doesn't connect within
// VoteTimeout (by then there may be another leader), or ctx ends before, it returns
// ErrUnreachable: nothing was sent. From then on it is Client.Propose.
func (p *Peers) Propose(ctx context.Context, to nexusraft.NodeID, c Proposal) (nexusraft.Result, error) {
	if err := checkCommand(c.Command); err != nil {
		return nexusraft.Result{}, err
	}
	x := p.peer(to)
	if x == nil {
		return nexusraft.Result{}, p.errUnknown(to)
	}
	waitCtx, cancel := context.WithTimeout(ctx, p.o.VoteTimeout)
	defer cancel()
	client, err := x.awaitUp(waitCtx)
	if err != nil {
		return nexusraft.Result{}, err
	}
	return client.Propose(ctx, c)
}

// Status asks a peer what it says of itself, and of one zone; see PeerHandler.Status. It returns
// ErrUnreachable at once for one that could not be reached at the last attempt.
func (p *Peers) Status(
	ctx context.Context, of nexusraft.NodeID, zone nexusraft.ZoneID,
) (nexusraft.NodeStatus, error) {
	x := p.peer(of)
	if x == nil {
		return nexusraft.NodeStatus{}, p.errUnknown(of)
	}
	client, err := x.awaitUp(ctx)
	if err != nil {
		return nexusraft.NodeStatus{}, err
	}
	return client.status(ctx, zone)
}

// Propose runs a command on the node, which should lead the zone. It borrows the command until
// it returns.
//
// Every failure but the node's own answer is ErrUncertain: the command may still
// commit. The answer matches the sentinel that it was there; see MemberHandler.
func (c *Client) Propose(ctx context.Context, r Proposal) (nexusraft.Result, error) {
	if err := checkCommand(r.Command); err != nil {
		return nexusraft.Result{}, err
	}
	requester, err := encodeRequester(r.Requester)
	if err != nil {
		return nexusraft.Result{}, err
	}
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nexusraft.Result{}, err
	}
	defer end()
	self := c.pool.self()
	resp, err := pb.NewZonesClient(c.conn).Propose(ctx, &pb.ProposeRequest{
		Hello:   hello(self, c.addr.ID),
		Zone:    uint64(r.Zone),
		Request: &pb.RequestID{Session: r.Request.Session, Sequence: r.Request.Sequence},
		Own:     r.Own,
		Command: r.Command,

		Requester: requester,
	})
	if err == nil {
		return c.proposeResult(self, resp)
	}
	if status.Code(err) == codes.Unimplemented {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %s", c.addr.ID, nexusraft.ErrNotLeader,
			status.Convert(err).Message())
	}
	return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %w", c.addr.ID, nexusraft.ErrUncertain, err)
}

// proposeResult reads a node's answer. One that can't be trusted says nothing.
func (c *Client) proposeResult(self Identity, resp *pb.ProposeResponse) (nexusraft.Result, error) {
	if e := resp.GetError(); e != nil {
		return nexusraft.Result{}, wire.ErrorFromProto(e)
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: %s", c.addr.ID, nexusraft.ErrUncertain, err)
	}
	ok := resp.GetOk()
	if ok == nil {
		return nexusraft.Result{}, fmt.Errorf("propose to node %v: %w: the answer is empty", c.addr.ID,
			nexusraft.ErrUncertain)
	}
	return nexusraft.Result{Data: ok.GetData(), Index: nexusraft.Index(ok.GetIndex()), Copies: int(ok.GetCopies())}, nil
}

// Join asks the node at addr to admit this one; see Client.Join.
func (p *Peers) Join(ctx context.Context, addr string, r JoinRequest) (JoinResult, error) {
	c, end, err := p.pool.spare(NodeAddress{Endpoint: addr})
	if err != nil {
		return JoinResult{}, err
	}
	defer end()
	return c.Join(ctx, r)
}

// Join asks the node to admit this one. It returns the node's own answer (a
// NotLeaderError names the node to ask instead), or ErrUnreachable if it got none. Asking again
// is safe. ErrRefused, if the node can't prove to be one of the cluster.
func (c *Client) Join(ctx context.Context, r JoinRequest) (JoinResult, error) {
	self, addr := c.pool.self(), c.addr.Endpoint
	r.Peer = self
	if err := checkJoinRole(r); err != nil {
		return JoinResult{}, err
	}
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return JoinResult{}, err
	}
	defer end()
	var at grpcpeer.Peer
	resp, err := pb.NewClusterClient(c.conn).Join(ctx, joinRequestToProto(hello(self, c.addr.ID), r),
		append(mtls.ProveToken(r.Token), grpc.Peer(&at))...)
	if why := c.distrust(); err != nil && why != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, why)
	}
	if err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w%s", addr, joinError(ctx, err), c.hint(err))
	}
	if e := resp.GetError(); e != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w%s", addr, wire.ErrorFromProto(e), tokenHint(r, resp))
	}
	if err := checkAnswerer(at.AuthInfo, resp.GetHello()); err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, err)
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, err)
	}
	return joinResult(addr, resp.GetAdmission())
}

// proofMinor is the first minor version of the protocol whose members take a proof for a token.
const proofMinor = 3

// tokenHint says why a member of an earlier release refuses a node that proves its token. The token
// is not told it.
func tokenHint(r JoinRequest, resp *pb.JoinResponse) string {
	if r.Token == (pki.Token{}) || resp.GetHello().GetMinor() >= proofMinor {
		return ""
	}
	return " (it runs an earlier release, which a join token would have to be told to: update the members first, or let " +
		"this node join with their release)"
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
	authorities, err := bundleFromProto(a.GetAuthorities())
	if err != nil {
		return JoinResult{}, fmt.Errorf("join by %s: %w", addr, err)
	}
	result := JoinResult{
		Cluster:    nexusraft.ClusterID(a.GetClusterId()),
		Zone:       nexusraft.ZoneID(a.GetZone()),
		Replica:    nexusraft.ReplicaID(a.GetReplica()),
		Membership: wire.MembershipFromProto(a.GetMembership()),

		Certificate: a.GetCertificate(),
		Authorities: authorities,
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
