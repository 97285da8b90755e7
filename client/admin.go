package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// errAskFirst is what the text of an uncertain change ends with.
var errAskFirst = errors.New("it may have been made or may still be; ask for the members before you ask again")

// Members returns the zone as its leader sees it. The leader need not be among the
// endpoints. Members tries until ctx ends; its error then says what each node said.
func (c *Client) Members(ctx context.Context) (nexusraft.ZoneStatus, error) {
	view, _, err := c.findLeader(ctx)
	if err != nil {
		return nexusraft.ZoneStatus{}, fmt.Errorf("members: %w", err)
	}
	return view, nil
}

// ChangeMembership has the zone's leader make one change of its replicas, and returns what
// the change left once it is in force. As long as the leader says that it is too early (a
// learner has not caught up, another change is under way), it is asked again until ctx ends.
//
// The error is nexusraft.ErrUncertain if the change may have been made or may still be: it
// is never repeated after that. Of any other error nothing was and nothing will be changed;
// nexusraft.ErrRefused says why, and the way out.
func (c *Client) ChangeMembership(
	ctx context.Context, change nexusraft.MembershipChange,
) (nexusraft.Membership, error) {
	if err := change.Validate(); err != nil {
		return nexusraft.Membership{}, err
	}
	var left nexusraft.Membership
	err := c.atLeader(ctx, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.ChangeMembership(ctx, changeRequest(c.opts.Zone, change))
		if resp.GetMembership() != nil {
			left = wire.MembershipFromProto(resp.GetMembership())
		}
		return resp.GetError(), err
	})
	if err != nil {
		return nexusraft.Membership{}, err
	}
	return left, nil
}

// TransferLeader has the zone's leader move the leadership to another member, the one that
// has most of the log if to is 0, and returns the node that leads then. Errors and retries
// are those of ChangeMembership.
func (c *Client) TransferLeader(ctx context.Context, to nexusraft.NodeID) (nexusraft.NodeID, error) {
	var leader nexusraft.NodeID
	err := c.atLeader(ctx, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.TransferLeader(ctx, &pb.TransferLeaderRequest{Zone: uint64(c.opts.Zone), To: uint64(to)})
		leader = nexusraft.NodeID(resp.GetLeader())
		return resp.GetError(), err
	})
	if err != nil {
		return 0, fmt.Errorf("transfer: %w", err)
	}
	return leader, nil
}

func changeRequest(zone nexusraft.ZoneID, c nexusraft.MembershipChange) *pb.ChangeMembershipRequest {
	req := &pb.ChangeMembershipRequest{Zone: uint64(zone)}
	switch {
	case c.Remove != 0:
		req.Change = &pb.ChangeMembershipRequest_Remove{Remove: uint64(c.Remove)}
	case c.Promote != 0:
		req.Change = &pb.ChangeMembershipRequest_Promote{Promote: uint64(c.Promote)}
	default:
		req.Change = &pb.ChangeMembershipRequest_Replace{
			Replace: &pb.Replacement{Old: uint64(c.Replace), New: uint64(c.With)},
		}
	}
	return req
}

// leaderCall makes one call; it returns the answer's error and the call's own.
type leaderCall func(context.Context, pb.ZonesClient) (*pb.Error, error)

// atLeader makes a call at the zone's leader. It looks for the leader with calls that change
// nothing, so that the one that does goes to a node that answers, and may then take as long
// as ctx allows.
func (c *Client) atLeader(ctx context.Context, call leaderCall) error {
	for w := c.waiting(); ; {
		_, address, err := c.findLeader(ctx)
		if err != nil {
			return err
		}
		v, err := c.askLeader(ctx, address, call)
		if nl, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok && nl.Address != "" {
			v, err = c.askLeader(ctx, nl.Address, call) // it has moved just now
		}
		if err == nil || v != again {
			return err
		}
		if err := w.wait(ctx, err); err != nil {
			return err
		}
	}
}

// askLeader makes the call once, at the node at address.
func (c *Client) askLeader(ctx context.Context, address string, call leaderCall) (class, error) {
	e, err := c.connected(ctx, address)
	if err != nil {
		return again, err
	}
	ctx, sent := trackSent(ctx)
	answer, err := call(ctx, pb.NewZonesClient(e.conn))
	var v class
	switch {
	case err != nil:
		v, err = classify(err, true, sent())
	case answer != nil:
		err = wire.ErrorFromProto(answer)
		v, err = classifyAnswer(err, true, codes.OK)
	default:
		return final, nil
	}
	if errors.Is(err, nexusraft.ErrUncertain) {
		err = fmt.Errorf("%w; %w", err, errAskFirst)
	}
	return v, fmt.Errorf("client: %s: %w", address, err)
}
