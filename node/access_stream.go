package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// maxStreamZones bounds what is kept of a stream.
const maxStreamZones = 256

// guardedStream is a stream of a client. Its context ends when the caller may not do any more what it has asked for:
// its role was taken back, its token was revoked or has expired. That is noticed even while nothing is
// sent. A handler that waits for a message of such a caller goes on waiting, and gets none.
type guardedStream struct {
	grpc.ServerStream

	access *access
	caller credentials
	need   Need
	method string
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	asks    []asked    // all that was asked for so far
	refused error      // a status, once there was one
}

func (a *access) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx := stream.Context()
	c := credentialsOf(ctx)
	need, checked, err := a.need(c, info.FullMethod)
	if err != nil {
		return a.tell(ctx, info.FullMethod, err)
	}
	if !checked {
		return handle(srv, stream)
	}
	s := &guardedStream{ServerStream: stream, access: a, caller: c, need: need, method: info.FullMethod}
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer s.cancel()
	if err := s.ask(need.before(info.FullMethod)); err != nil {
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

// ask adds to what is asked for; it returns a status if the caller may not. It is added before it is looked at: a
// change of the records meanwhile is seen here, or by watch.
func (s *guardedStream) ask(asks asked) error {
	if err := s.add(asks); err != nil {
		return s.refuse(err)
	}
	_, err := s.access.check(s.caller, asks)
	return s.refuse(err)
}

func (s *guardedStream) add(asks asked) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.asks, asks) {
		return nil
	}
	if len(s.asks) > maxStreamZones {
		return detailed(codes.ResourceExhausted, fmt.Errorf("%w: a stream about more than %d zones; open another one", nexusraft.ErrOverloaded, maxStreamZones))
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
		s.refused = s.access.tell(s.ctx, s.method, err)
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
		rung := s.access.bell.wait() // before the records are looked at, so that nothing falls in between
		until, err := s.checkAll()
		if s.refuse(err) != nil {
			return
		}
		if !s.wait(rung, until) {
			return
		}
	}
}

func (s *guardedStream) checkAll() (until time.Time, err error) {
	s.mu.Lock()
	asks := slices.Clone(s.asks)
	s.mu.Unlock()
	for _, a := range asks {
		if until, err = s.access.check(s.caller, a); err != nil {
			return until, err
		}
	}
	return until, nil
}

// wait returns when there is something to look at; false when the stream has ended.
func (s *guardedStream) wait(rung <-chan struct{}, until time.Time) bool {
	var expired <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(max(until.Sub(s.access.node.config.Clock()), time.Millisecond))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-rung:
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
	return s.ask(s.need.of(s.ctx, s.method, m))
}

// SendMsg implements grpc.ServerStream.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.refusal(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
