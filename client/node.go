package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Status returns what the node at endpoint (host:port, any node's, a witness's too) says
// of itself. It asks once, within the client's timeouts.
func (c *Client) Status(ctx context.Context, endpoint string) (nexusraft.NodeStatus, error) {
	return c.status(ctx, endpoint, 0)
}

// status is Status of one zone and the root zone alone, unless only is 0. A node of an earlier release says more.
func (c *Client) status(
	ctx context.Context, endpoint string, only nexusraft.ZoneID,
) (nexusraft.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
	defer cancel()
	e, err := c.connected(ctx, endpoint)
	if err != nil {
		return nexusraft.NodeStatus{}, err
	}
	resp, err := pb.NewClusterClient(e.conn).Status(ctx, &pb.StatusRequest{Zone: uint64(only)})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			err = fmt.Errorf("no answer within %v: %w", c.opts.AttemptTimeout, context.DeadlineExceeded)
		} else {
			_, err = classify(err, false, true)
		}
		return nexusraft.NodeStatus{}, fmt.Errorf("client: %s: status: %w", endpoint, err)
	}
	return wire.NodeStatusFromProto(resp.GetStatus()), nil
}

// Checksum digests the copy of a zone's state that the node at endpoint holds. It asks
// once and waits for the digest until ctx ends: a large state takes long.
func (c *Client) Checksum(ctx context.Context, endpoint string, zone nexusraft.ZoneID) (nexusraft.Checksum, error) {
	e, err := c.connected(ctx, endpoint)
	if err != nil {
		return nexusraft.Checksum{}, err
	}
	resp, err := pb.NewZonesClient(e.conn).Checksum(ctx, &pb.ChecksumRequest{Zone: uint64(zone)})
	if err == nil {
		err = wire.ErrorFromProto(resp.GetError())
	}
	if err == nil && resp.GetChecksum() == nil {
		err = errors.New("the answer is empty")
	}
	if err != nil {
		return nexusraft.Checksum{}, fmt.Errorf("client: checksum of zone %v at %s: %w", zone, endpoint, err)
	}
	return wire.ChecksumFromProto(resp.GetChecksum()), nil
}

// connected returns the endpoint at address once it is connected.
func (c *Client) connected(ctx context.Context, address string) (*endpoint, error) {
	e, err := c.node(address)
	if err != nil {
		return nil, err
	}
	return e, e.ready(ctx, c.opts.DialTimeout)
}
