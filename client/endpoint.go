package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// maxAnswerBytes is well above the largest answer that a client gets, which asks for pages of keys.
const maxAnswerBytes = 64 << 20

// endpoint is the connection to one node.
type endpoint struct {
	address string
	conn    *grpc.ClientConn
	plain   bool                  // not encrypted
	failure atomic.Pointer[error] // why the last dial or handshake failed
}

func newEndpoint(address string, o Options) (*endpoint, error) {
	e := &endpoint{address: address}
	hostPort, security, err := o.dialOptions(e)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	conn, err := grpc.NewClient(wire.Target(hostPort), append(security,
		grpc.WithNoProxy(),
		grpc.WithMaxHeaderListSize(budget.AnswerHeaderListBytes),
		grpc.WithContextDialer(e.dial),
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.5, MaxDelay: maxBackoff},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithDisableRetry(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("client: endpoint %s: %w", address, err)
	}
	e.conn = conn
	return e, nil
}

func (e *endpoint) dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if op, ok := errors.AsType[*net.OpError](err); ok { // its text names the address, which the caller does
		err = op.Err
	}
	if err != nil || e.plain { // else it is open until the handshake whether the last failure is over
		e.failure.Store(&err)
	}
	return conn, err
}

// ready waits until requests can be sent, for at most timeout. Its error means that
// nothing was sent.
func (e *endpoint) ready(ctx context.Context, timeout time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		state := e.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			e.conn.Connect()
		case connectivity.Shutdown:
			return fmt.Errorf("client: %w", nexusraft.ErrClosed)
		case connectivity.TransientFailure:
			if err := e.failure.Load(); err != nil && *err != nil {
				return fmt.Errorf("client: %s: %w", e.address, *err)
			}
			return fmt.Errorf("client: %s: something listens there, but does not answer as a node does%s", e.address, e.hint())
		}
		if !e.conn.WaitForStateChange(wait, state) {
			if ctx.Err() != nil {
				return fmt.Errorf("client: %s: no connection in time: %w", e.address, ctx.Err())
			}
			return fmt.Errorf("client: %s: no connection within %v", e.address, timeout)
		}
	}
}

// sentKey is the context key of the *atomic.Bool that sentHandler sets.
type sentKey struct{}

// trackSent returns a context for one call, and a function that reports whether anything
// of the call was handed to a connection. If not, it certainly did not happen.
func trackSent(ctx context.Context) (context.Context, func() bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent.Load
}

// sentHandler notes when the headers of a call, which precede its message, are handed to
// a connection.
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
