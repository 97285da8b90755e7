package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A stranger is a caller without a certificate that is believed. It may be a client with a bearer token, or a node
// that asks to join, or anybody. However many there are, nodes and clients with certificates are served.
const (
	maxStrangers     = 1024 // connections of strangers at a time
	maxStrangerCalls = 256  // calls of strangers at a time of what is for everybody: to follow health, to join
)

// strangers counts them, on all servers with one TLS.
type strangers struct {
	connections, calls bounded
}

// bounded counts up to a maximum. Its methods may be called from any goroutine.
type bounded struct {
	max int64
	now atomic.Int64
}

// enter reports whether there is room for one more; then leave must follow.
func (b *bounded) enter() bool {
	if b.now.Add(1) <= b.max {
		return true
	}
	b.leave()
	return false
}

func (b *bounded) leave() { b.now.Add(-1) }

func newStrangers() *strangers {
	s := &strangers{}
	s.connections.max, s.calls.max = maxStrangers, maxStrangerCalls
	return s
}

// connected counts a stranger's connection until it is closed.
func (s *strangers) connected(conn net.Conn) (net.Conn, error) {
	if !s.connections.enter() {
		return nil, fmt.Errorf("%d connections of callers without a certificate are open, which is the limit", s.connections.max)
	}
	c := &strange{Conn: conn, leave: sync.OnceFunc(s.connections.leave)}
	if socket, ok := conn.(syscall.Conn); ok {
		return strangeSocket{c, socket}, nil
	}
	return c, nil
}

// strange is a stranger's connection, which tells when it is closed.
type strange struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *strange) Close() error {
	c.leave()
	return c.Conn.Close()
}

// strangeSocket is a strange connection of which gRPC can set options.
type strangeSocket struct {
	*strange
	syscall.Conn
}

// limits are the options of a server that bounds the calls of strangers.
func (s *strangers) limits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			leave, err := s.begin(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			defer leave()
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			leave, err := s.begin(stream.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			defer leave()
			return handle(srv, stream)
		}),
	}
}

// begin counts a stranger's call of what is for everybody; all else that they call is refused, or has a token.
func (s *strangers) begin(ctx context.Context, method string) (leave func(), err error) {
	if WhyUnknown(ctx) == nil || !IsPublic(method) {
		return func() {}, nil
	}
	if !s.calls.enter() {
		return nil, status.Errorf(codes.ResourceExhausted, "%s: %d calls of callers without a certificate are under way, which is the limit; try again later", method, s.calls.max)
	}
	return s.calls.leave, nil
}
