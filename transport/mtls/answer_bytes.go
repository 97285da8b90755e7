package mtls

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// answer has a handler's answer count: it reserves before it reads (budget.Reserve), and what it
// holds is given back when the answer is on the wire. An answer that its caller doesn't read in
// time costs it its connection.
func (l *Limits) answer(ctx context.Context, k *call, req any, handle grpc.UnaryHandler) (any, error) {
	a := l.answers.NewAnswer(k.key)
	ctx = budget.WithEffects(budget.WithAnswer(ctx, a), l.effects, k.key)
	resp, err := handle(ctx, req)
	// never a write's, which is done: a caller that is refused believes that it is not
	if err == nil && k.method == pb.Cluster_Status_FullMethodName {
		err = overBudget(a.ReserveMade(ctx, sizeOf(resp)))
	}
	if err != nil || a.Held() == 0 {
		a.End()
		return resp, err
	}
	a.Message = resp
	k.c.sends(a)
	return a, nil
}

// overBudget is what a caller is told whose answer has no place.
func overBudget(err error) error {
	if _, ok := errors.AsType[*budget.Exceeded](err); ok {
		return overloaded(err)
	}
	return err
}

// countedStream is a stream whose large messages count, as answers do: the handler reserves before
// it makes one. Its context knows the answer that it makes next.
type countedStream struct {
	grpc.ServerStream

	k      *call
	ctx    context.Context
	answer *budget.Answer
	sent   []*budget.Answer // messages that may not be on the wire yet
}

// counted has a stream's messages count. The handler's end must be followed by end.
func (l *Limits) counted(stream grpc.ServerStream, k *call) *countedStream {
	a := l.answers.NewAnswer(k.key)
	return &countedStream{ServerStream: stream, k: k, ctx: budget.WithAnswer(stream.Context(), a), answer: a}
}

// end gives back what the stream holds for messages that will never be on the wire: its next one, and, if
// its caller has ended it, all others. gRPC drops those, and does not say so of one that it was given
// in that moment.
func (s *countedStream) end() {
	s.answer.End()
	if s.ServerStream.Context().Err() == nil {
		return
	}
	for _, a := range s.sent {
		a.End()
	}
}

// Context implements grpc.ServerStream.
func (s *countedStream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *countedStream) SendMsg(m any) error {
	if s.answer.Held() == 0 {
		return s.ServerStream.SendMsg(m)
	}
	a := s.answer.Part(m)
	s.sent = append(slices.DeleteFunc(s.sent, func(a *budget.Answer) bool { return a.Held() == 0 }), a)
	s.k.c.sends(a)
	err := s.ServerStream.SendMsg(a)
	if err != nil {
		a.End()
	}
	return err
}

// maxSendTime is how long a connection may take for an answer, of whatever size.
const maxSendTime = 2 * time.Minute

// sends ends an answer with its connection, and a connection that doesn't take it in time: gRPC
// doesn't say that it lets go of what a connection has not taken.
func (c *connection) sends(a *budget.Answer) {
	if !c.addAnswer(a) {
		a.End()
		return
	}
	// Nobody else gets a large answer while one holds more than the share of a caller.
	limit := min(c.limits.sendTime+time.Duration(a.Held()/c.limits.sendRate)*time.Second, maxSendTime)
	t := time.AfterFunc(limit, c.tooSlow)
	a.OnEnd(func() {
		t.Stop()
		c.answersMu.Lock()
		defer c.answersMu.Unlock()
		delete(c.answers, a)
	})
}

// addAnswer reports whether the connection is still there to take it.
func (c *connection) addAnswer(a *budget.Answer) bool {
	c.answersMu.Lock()
	defer c.answersMu.Unlock()
	if c.answers == nil {
		return false
	}
	c.answers[a] = struct{}{}
	return true
}

// endAnswers ends those that the connection has not taken, which is closed.
func (c *connection) endAnswers() {
	c.answersMu.Lock()
	left := c.answers
	c.answers = nil
	c.answersMu.Unlock()
	for a := range left {
		a.End()
	}
}

// tooSlow closes the connection.
func (c *connection) tooSlow() {
	c.limits.counters.Refused(budget.SlowReaders)
	c.limits.mu.Lock()
	defer c.limits.mu.Unlock()
	c.limits.end(c)
}
