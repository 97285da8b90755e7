package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// register registers a session. It is retried as a read is: a session that nobody hears of does no harm.
func (c *Client) register(ctx context.Context) (id uint64, err error) {
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		req := &pb.RegisterSessionRequest{Zone: uint64(c.opts.Zone)}
		resp, err := pb.NewZonesClient(conn).RegisterSession(ctx, req)
		id = resp.GetSession()
		return answered(resp.GetError(), err)
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("register a session: %w", err)
	case id == 0: // a call with it would be one without a session
		return 0, fmt.Errorf("register a session: client: %w: the answer is no session's ID", nexusraft.ErrCorrupt)
	}
	return id, nil
}

// writeKeys makes a write of the key-value service: with Options.ExactlyOnce under a number of a session, and
// again with the same number while nobody knows whether it has happened.
func (c *Client) writeKeys(ctx context.Context, call callFunc) error {
	if !c.opts.ExactlyOnce {
		return c.write(ctx, call)
	}
	return c.numbers.Propose(ctx, func(id nexusraft.RequestID) (forgotten bool, err error) {
		err = c.try(metadata.AppendToOutgoingContext(ctx, wire.SessionHeader, wire.RequestText(id)), writesOnce, call)
		return errors.Is(err, nexusraft.ErrUnknownSession) && !errors.Is(err, nexusraft.ErrUncertain), err
	})
}
