package authz

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// maxStreamZones bounds what is kept of a stream.
const maxStreamZones = 256

// guardedStream is a stream of a client. Its context ends when the caller may not do any more what
// it has asked for: its role was taken back, its token was revoked or has expired. That is noticed
// even while nothing is sent. A handler that waits for a message of such a caller goes on waiting,
// and gets none.
type guardedStream struct {
	grpc.ServerStream

	guard      *Guard
	caller     credentials
	permission nexusraft.Permission
	method     string
	ctx        context.Context
	cancel     context.CancelFunc

	mu      sync.Mutex // guards what follows
	name    string     // of the caller
	asks    []asked    // all that was asked for so far
	refused error      // a status, once there was one
}

func (g *Guard) stream(
	srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
) error {
	ctx := stream.Context()
	c := credentialsOf(ctx)
	p, checked, err := g.asks(c, info.FullMethod)
	if err != nil {
		return g.tell(ctx, info.FullMethod, err)
	}
	if !checked {
		return handle(srv, stream)
	}
	s := &guardedStream{ServerStream: stream, guard: g, caller: c, permission: p, method: info.FullMethod}
	s.ctx, s.cancel = context.WithCancel(WithRequester(ctx, s.requester))
	defer s.cancel()
	if err := s.ask(askedBefore(info.FullMethod, p)); err != nil {
		return err
	}
	var watcher sync.WaitGroup
	watcher.Go(s.watch)
	err = handle(srv, s)
	s.cancel()
	watcher.Wait()
	if refused := s.refusal(); refused != nil {
		return refused
	}
	return err
}

// ask adds to what is asked for; it returns a status if the caller may not. It is added before it
// is looked at: a change of the records meanwhile is seen here, or by watch.
func (s *guardedStream) ask(asks asked) error {
	if err := s.add(asks); err != nil {
		return s.refuse(err)
	}
	by, err := s.guard.check(s.caller, asks)
	if err == nil {
		s.mu.Lock()
		s.name = by.name
		s.mu.Unlock()
	}
	return s.refuse(err)
}

// requester is the caller with all that it has asked for on this stream.
func (s *guardedStream) requester() *nexusraft.Requester {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.caller.requester(s.name, s.asks...)
}

func (s *guardedStream) add(asks asked) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.asks, asks) {
		return nil
	}
	if len(s.asks) > maxStreamZones {
		return wire.Status(fmt.Errorf("%w: a stream about more than %d zones; open another one",
			nexusraft.ErrOverloaded, maxStreamZones))
	}
	s.asks = append(s.asks, asks)
	return nil
}

// refuse ends the stream for a reason, the first one; nil is none.
func (s *guardedStream) refuse(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = s.guard.tell(s.ctx, s.method, err)
		s.cancel()
	}
	return s.refused
}

func (s *guardedStream) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// watch ends the stream as soon as its caller may not go on.
func (s *guardedStream) watch() {
	for {
		changed := s.guard.NextChange() // before the records are looked at, so that nothing falls in between
		until, err := s.checkAll()
		if s.refuse(err) != nil {
			return
		}
		if !s.wait(changed, until) {
			return
		}
	}
}

func (s *guardedStream) checkAll() (until time.Time, err error) {
	s.mu.Lock()
	asks := slices.Clone(s.asks)
	s.mu.Unlock()
	var by client
	for _, a := range asks {
		if by, err = s.guard.check(s.caller, a); err != nil {
			return until, err
		}
	}
	return by.until, nil
}

// wait returns when there is something to look at; false when the stream has ended.
func (s *guardedStream) wait(changed <-chan struct{}, until time.Time) bool {
	var expired <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(max(until.Sub(s.guard.config.Clock()), time.Millisecond))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-changed:
	case <-expired:
	case <-s.ctx.Done():
		return false
	}
	return true
}

// Context implements grpc.ServerStream.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.refusal(); err != nil { // what was refused meanwhile gets no more messages
		return err
	}
	return s.ask(askedBy(s.ctx, s.method, s.permission, m))
}

// SendMsg implements grpc.ServerStream. It looks at the records itself, for what is sent may be
// newer than what watch has seen.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.refusal(); err != nil {
		return err
	}
	if _, err := s.checkAll(); err != nil {
		return s.refuse(err)
	}
	return s.ServerStream.SendMsg(m)
}
