package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A zone's log carries two kinds of commands: the state machine's, and those with which the
// nodes change what they keep beside the state machine's keys (partNode). Both are replicated,
// applied and answered in the same way.

// proposeOwn replicates a command of the nodes in a zone and returns its answer. Its errors
// are those of Zone.Propose; what applying it has refused matches the same sentinel
// everywhere.
func (n *Node) proposeOwn(ctx context.Context, z nexusraft.ZoneID, c *pb.NodeCommand) ([]byte, error) {
	data, err := proto.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode a node's command: %w", err)
	}
	r, err := n.proposeAnywhere(ctx, transport.Proposal{Zone: z, Own: true, Command: data})
	if err != nil {
		return nil, err
	}
	answer, ok := bytes.CutPrefix(r.Data, ownAnswer)
	if !ok { // an older leader took it for the state machine's
		return nil, fmt.Errorf("%w: the zone's leader runs a release that does not know this command; run the newest release on all nodes", nexusraft.ErrUncertain)
	}
	return answer, nil
}

// ownAnswer begins the answer to every command of the nodes.
var ownAnswer = []byte("own\x00")

// checkOwn refuses a command that applyOwn would stop the zone for, before it is in the log.
func checkOwn(command []byte) error {
	c := &pb.NodeCommand{}
	if err := proto.Unmarshal(command, c); err != nil || c.GetKind() == nil {
		return fmt.Errorf("%w: this is a command of the nodes that this release does not know; run the newest release on all nodes", nexusraft.ErrRefused)
	}
	return nil
}

// applyOwn runs one command of the nodes over base, at the zone's time now, in nanoseconds since the Unix
// epoch. Like a state machine it is a function of its arguments alone (I4). A refusal (an error that
// matches a sentinel) is the proposer's answer; any other error is not the command's and
// stops the zone, as does a command of a later release, which no replica may skip.
func applyOwn(base *storage.Overlay, now int64, command []byte) (a applied, err error) {
	c := &pb.NodeCommand{}
	if err := proto.Unmarshal(command, c); err != nil {
		return applied{}, fmt.Errorf("%w: a node's command can't be read: %w", errMachine, err)
	}
	switch k := c.GetKind().(type) {
	case *pb.NodeCommand_Publish:
		a.data, err = applyPublish(base, now, k.Publish)
		a.published = err == nil
	case *pb.NodeCommand_Retention:
		err = applyRetention(base, now, k.Retention)
		a.published = err == nil // who follows is to notice
	case *pb.NodeCommand_PutJoinToken:
		err = applyPutToken(base, now, k.PutJoinToken)
	case *pb.NodeCommand_DeleteJoinToken:
		err = applyDeleteToken(base, k.DeleteJoinToken)
	case *pb.NodeCommand_UseJoinToken:
		err = applyUseToken(base, now, k.UseJoinToken)
	case *pb.NodeCommand_SetRole:
		err = applySetRole(base, k.SetRole)
		a.access = err == nil
	case *pb.NodeCommand_DeletePrincipal:
		err = applyDeletePrincipal(base, k.DeletePrincipal)
		a.access = err == nil
	case *pb.NodeCommand_PutAccessToken:
		err = applyPutAccessToken(base, now, k.PutAccessToken)
		a.access = err == nil
	case *pb.NodeCommand_DeleteAccessToken:
		err = applyDeleteAccessToken(base, k.DeleteAccessToken)
		a.access = err == nil
	default:
		err = fmt.Errorf("%w: a node's command is of a kind that this release does not know; run the newest release on all nodes", errMachine)
	}
	if isRefusal(err) {
		return applied{err: err}, nil
	}
	a.data = append(bytes.Clone(ownAnswer), a.data...)
	return a, err
}

// isRefusal reports whether an error is a command's answer, the same on every replica.
func isRefusal(err error) bool {
	return errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrTooLarge)
}

// readOwn runs fn over all that a zone keeps, the nodes' part included, as Zone.Read does
// over the state machine's part.
func (n *Node) readOwn(ctx context.Context, z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	if err := n.confirm(ctx, z); err != nil {
		return err
	}
	return n.readOwnLocal(z, fn)
}

// readOwnLocal is readOwn over the state as this replica has it, which may be behind.
func (n *Node) readOwnLocal(z nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	reader, end, err := n.reader(z)
	if err != nil {
		return err
	}
	defer end()
	return fn(reader)
}
