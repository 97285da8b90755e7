package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// MaxQuestionBytes bounds a question to a zone's leader, and its answer.
const MaxQuestionBytes = 64 << 10

// Question is what a node asks a zone's leader.
type Question struct {
	Zone nexusraft.ZoneID
	Text []byte // at most MaxQuestionBytes
}

// checkQuestion refuses what is over its limit, a question or an answer.
func checkQuestion(what string, text []byte) error {
	if len(text) > MaxQuestionBytes {
		return fmt.Errorf("%w: %s of %d bytes, limit %d", nexusraft.ErrTooLarge, what, len(text), MaxQuestionBytes)
	}
	return nil
}

// AskLeader implements pb.ZonesServer.
func (z zonesService) AskLeader(ctx context.Context, req *pb.AskLeaderRequest) (*pb.AskLeaderResponse, error) {
	if z.s.h.AskLeader == nil {
		return nil, errWitness
	}
	resp := &pb.AskLeaderResponse{}
	if answer, err := z.s.askLeader(ctx, req); err != nil {
		resp.Result = &pb.AskLeaderResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.AskLeaderResponse_Answer{Answer: answer}
	}
	resp.Hello = z.s.hello(req.GetHello())
	return resp, nil
}

func (s *Server) askLeader(ctx context.Context, req *pb.AskLeaderRequest) (answer []byte, err error) {
	from, err := s.greet(ctx, req.GetHello(), false)
	if err != nil {
		return nil, err
	}
	if err := checkQuestion("a question", req.GetQuestion()); err != nil {
		return nil, err
	}
	if !s.questions.enter(from.Node) {
		return nil, fmt.Errorf("%w: node %v answers %d questions at once of one node, and %d of all", nexusraft.ErrOverloaded,
			s.id().Node, maxQuestionsOfNode, maxQuestions)
	}
	defer s.questions.leave(from.Node)
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	answer, err = s.h.AskLeader(ctx, from, Question{Zone: nexusraft.ZoneID(req.GetZone()), Text: req.GetQuestion()})
	if err == nil {
		err = checkQuestion("an answer", answer)
	}
	return answer, err
}

// AskLeader asks another node, which should lead the zone. It borrows the question until it returns; the answer is the
// caller's. If the peer could not be reached at the last attempt, or does not connect within VoteTimeout, it returns
// ErrUnreachable; without an answer ErrUnreachable, too, as nothing is written by a question; of a node that runs an
// earlier release ErrNotLeader. Any other error is the node's own.
func (p *Peers) AskLeader(ctx context.Context, to nexusraft.NodeID, q Question) (answer []byte, err error) {
	if err := checkQuestion("a question", q.Text); err != nil {
		return nil, err
	}
	x := p.peer(to)
	if x == nil {
		return nil, p.errUnknown(to)
	}
	waitCtx, cancel := context.WithTimeout(ctx, p.o.VoteTimeout)
	defer cancel()
	client, err := x.awaitUp(waitCtx)
	if err != nil {
		return nil, err
	}
	return client.askLeader(ctx, q)
}

func (c *Client) askLeader(ctx context.Context, q Question) (answer []byte, err error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	self := c.pool.self()
	resp, err := pb.NewZonesClient(c.conn).AskLeader(ctx, &pb.AskLeaderRequest{
		Hello: hello(self, c.addr.ID), Zone: uint64(q.Zone), Question: q.Text,
	})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("%w: node %v answers no questions, it runs an earlier release or is a witness",
			nexusraft.ErrNotLeader, c.addr.ID)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, forPeople(reason(ctx, err)))
	case resp.GetError() != nil:
		return nil, wire.ErrorFromProto(resp.GetError())
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return nil, err
	}
	return resp.GetAnswer(), checkQuestion("an answer", resp.GetAnswer())
}
