package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/transport"
)

// maxAsking is how many questions of this node's own program may be under way, and askTimeout how long one without a
// deadline may take.
const (
	maxAsking  = 128
	askTimeout = 10 * time.Second
)

// askers counts the questions of this node's own program.
type askers struct{ count atomic.Int32 }

// AskLeader asks the zone's leader, which may be this node, and returns what its Config.Answer has answered. It
// borrows the question. Nothing is written by it, so it may be asked again after any error: ErrNotLeader, where no
// leader is known or reached, or its node runs an earlier release; ErrTooLarge over 64 KiB; ErrOverloaded if too
// many are under way; ErrNotLeader, too, where this node has no copy of the zone's state; ErrNoQuorum without an
// answer in time; and those of the answering program, by the sentinel that they match.
//
// It does not wait for a leader. A node that leads no more but does not know that yet may answer.
func (n *Node) AskLeader(ctx context.Context, zone nexusraft.ZoneID, question []byte) (answer []byte, err error) {
	if n.asking.count.Add(1) > maxAsking {
		n.asking.count.Add(-1)
		return nil, fmt.Errorf("%w: %d questions are under way", nexusraft.ErrOverloaded, maxAsking)
	}
	defer n.asking.count.Add(-1)
	if _, err := n.replicas.View(zone); err != nil {
		return nil, err // where there is no copy, the leader would refuse
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err = n.answer(ctx, zone, question)
	leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
	if !ok || leader.Leader == 0 || leader.Leader == n.self().Node {
		return answer, err
	}
	return n.askAt(ctx, leader, transport.Question{Zone: zone, Text: question})
}

// askAt asks another node.
func (n *Node) askAt(
	ctx context.Context, leader *nexusraft.NotLeaderError, q transport.Question,
) (answer []byte, err error) {
	ctx, end, ok := n.forwards.Start(ctx, q.Zone, leader.Leader)
	if !ok {
		return nil, leader
	}
	defer end()
	answer, err = n.peers.AskLeader(ctx, leader.Leader, q)
	switch {
	case err == nil || !errors.Is(err, transport.ErrUnreachable):
		return answer, err
	case errors.Is(context.Cause(ctx), forward.ErrLeaderLost):
		return nil, &nexusraft.NotLeaderError{Zone: q.Zone}
	case ctx.Err() != nil:
		return nil, fmt.Errorf("ask node %v: %w: %w", leader.Leader, nexusraft.ErrNoQuorum, err)
	}
	return nil, fmt.Errorf("%w: %w", leader, err)
}

// answer answers a question if this node leads its zone.
func (n *Node) answer(ctx context.Context, zone nexusraft.ZoneID, question []byte) ([]byte, error) {
	if len(question) > transport.MaxQuestionBytes {
		return nil, fmt.Errorf("%w: a question of %d bytes, limit %d", nexusraft.ErrTooLarge, len(question),
			transport.MaxQuestionBytes)
	}
	term, err := n.workers.LeadsIn(ctx, zone)
	switch {
	case err != nil:
		return nil, err
	case term == 0:
		return nil, n.errNotLeader(ctx, zone)
	case n.config.Answer == nil:
		return nil, fmt.Errorf("%w: the program of node %v answers no questions", nexusraft.ErrRefused, n.ID())
	}
	answer, err := n.config.Answer(ctx, zone, question)
	if err == nil && len(answer) > transport.MaxQuestionBytes {
		return nil, fmt.Errorf("%w: an answer of %d bytes, limit %d", nexusraft.ErrTooLarge, len(answer),
			transport.MaxQuestionBytes)
	}
	return answer, err
}

// errNotLeader names the zone's leader, if this node knows another one.
func (n *Node) errNotLeader(ctx context.Context, zone nexusraft.ZoneID) error {
	s, err := n.workers.Status(ctx, zone)
	if err != nil {
		return err
	}
	m, ok := s.Membership.Replica(s.Leader)
	if !ok || m.Node == n.ID() {
		return &nexusraft.NotLeaderError{Zone: zone}
	}
	return &nexusraft.NotLeaderError{Zone: zone, Leader: m.Node, Address: m.Address}
}

// AskLeader is transport.Handlers.AskLeader. It goes by the zone's records as this node has them, which are all that
// were acknowledged once it leads.
func (n handler) AskLeader(ctx context.Context, from transport.Identity, q transport.Question) ([]byte, error) {
	asker, known := n.replicas.Members(q.Zone).Node(from.Node)
	if _, err := n.replicas.View(q.Zone); err != nil {
		return nil, err
	}
	if !known || !asker.Role.Full() {
		return nil, fmt.Errorf("%w: node %v has no copy of the state of zone %v, and asks its leader nothing",
			nexusraft.ErrRefused, from.Node, q.Zone)
	}
	return n.answer(ctx, q.Zone, q.Text)
}
