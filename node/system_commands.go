package node

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A zone's log carries two kinds of commands: the state machine's, and system commands, with which
// the nodes change what they keep beside the state machine's keys (internal/system). Both are
// replicated, applied and answered in the same way.

// proposeSystem replicates a system command in a zone and returns its answer. Its errors
// are those of Zone.Propose; what applying it has refused matches the same sentinel
// everywhere.
func (n *Node) proposeSystem(ctx context.Context, z nexusraft.ZoneID, c *pb.NodeCommand) ([]byte, error) {
	q := authz.RequesterOf(ctx)
	if q != nil {
		c.Requester = q.Name
	}
	data, err := proto.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode a node's command: %w", err)
	}
	r, err := n.proposeAnywhere(ctx, transport.Proposal{Zone: z, Own: true, Command: data, Requester: q})
	if err != nil {
		return nil, err
	}
	answer, ok := system.CutAnswer(r.Data)
	if !ok { // an older leader took it for the state machine's
		return nil, fmt.Errorf("%w: the zone's leader runs a release that does not know this command; run the newest "+
			"release on all nodes", nexusraft.ErrUncertain)
	}
	return answer, nil
}

// readSystem runs fn over all that a zone keeps, the system state included, as Zone.Read does over
// the state machine's part.
func (n *Node) readSystem(ctx context.Context, z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	if err := n.workers.Confirm(ctx, z); err != nil {
		return err
	}
	return n.readPermitted(ctx, z, fn)
}

// readPermitted is readSystemLocal for the client of a context, if it has one. The state is taken
// before the records are looked at, so that they are no older.
func (n *Node) readPermitted(ctx context.Context, z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	return n.readSystemLocal(z, func(r nexusraft.Reader) error {
		if err := n.access.Permits(authz.RequesterOf(ctx)); err != nil {
			return err
		}
		return fn(r)
	})
}

// readSystemLocal is readSystem over the state as this replica has it, which may be behind.
func (n *Node) readSystemLocal(z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	return n.replicas.Read(z, fn)
}
