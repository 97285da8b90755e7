package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Client calls one node. It comes from a ClientPool, which owns it; there is nothing to
// close. The methods may be called from many goroutines.
//
// Errors: ErrUnreachable, if the node got nothing of the call or its connection broke, ErrClosed
// after the pool was closed, ErrRefused or ErrFenced, if one side refused the other's
// handshake, with which every call begins, and what the methods say of themselves.
type Client struct {
	pool   *ClientPool
	addr   NodeAddress
	conn   *grpc.ClientConn
	ctx    context.Context // ends when the client is of no use any more
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	failed error // why the last attempt to connect has failed; nil if it has not
}

// newClient returns a client that connects when it is first used. The address is resolved at
// each attempt, so that a name may move.
func newClient(p *ClientPool, addr NodeAddress) (*Client, error) {
	target, security, err := parseEndpoint(addr.Endpoint)
	if err != nil {
		return nil, err
	}
	c := &Client{pool: p, addr: addr}
	creds, err := c.credentials(security)
	if err != nil {
		return nil, err
	}
	c.conn, err = grpc.NewClient(wire.Target(target), c.dialOptions(creds)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr.Endpoint, err)
	}
	c.ctx, c.cancel = context.WithCancelCause(p.ctx)
	return c, nil
}

func (c *Client) credentials(s security) (credentials.TransportCredentials, error) {
	t := c.pool.o.TLS
	switch {
	case t == nil && s == encrypted:
		return nil, fmt.Errorf("endpoint %q: https needs credentials, and there are none", c.addr.Endpoint)
	case t != nil && s == plain && c.pool.nodes:
		return nil, fmt.Errorf("%w: endpoint %q is not encrypted, and this node speaks TLS with other nodes; give host:port",
			nexusraft.ErrRefused, c.addr.Endpoint)
	case t == nil || s == plain:
		return insecure.NewCredentials(), nil
	}
	return noting{t.ClientCredentials(c.addr.ID), c}, nil
}

// noting remembers why a handshake of TLS has failed.
type noting struct {
	credentials.TransportCredentials
	c *Client
}

// ClientHandshake implements credentials.TransportCredentials.
func (n noting) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := n.TransportCredentials.ClientHandshake(ctx, authority, conn)
	n.c.note(err)
	return secured, info, err
}

// Clone implements credentials.TransportCredentials.
func (n noting) Clone() credentials.TransportCredentials {
	return noting{n.TransportCredentials.Clone(), n.c}
}

// note remembers how an attempt to connect has ended.
func (c *Client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = err
}

// distrust is why the last handshake of TLS has proved the other side to be another node;
// nil if it has not.
func (c *Client) distrust() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.failed, nexusraft.ErrRefused) {
		return c.failed
	}
	return nil
}

// dialOptions are DialOptions, with what the pool's options say in their place.
func (c *Client) dialOptions(creds credentials.TransportCredentials) []grpc.DialOption {
	o := c.pool.o
	return append(DialOptions(),
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(beforeCall(o.BeforeCall)),
		grpc.WithContextDialer(c.dial),
		grpc.WithIdleTimeout(o.IdleTimeout),
		grpc.WithChainUnaryInterceptor(o.UnaryInterceptors...),
		grpc.WithChainStreamInterceptor(o.StreamInterceptors...),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: c.connectTimeout(),
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: o.KeepAlive, Timeout: 2 * o.KeepAlive,
			PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(o.MaxMessageBytes),
			grpc.MaxCallSendMsgSize(o.MaxMessageBytes),
		),
	)
}

// beforeCall has PoolOptions.BeforeCall called where gRPC asks for a call's credentials: it has a
// connection for the call by then, and has sent nothing of it.
type beforeCall func() error

// GetRequestMetadata implements credentials.PerRPCCredentials. Status and Renew say nothing of this
// node, and may reach the node itself, by another name than it knows: they need no BeforeCall.
func (f beforeCall) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	switch info.Method {
	case pb.Cluster_Status_FullMethodName, pb.Cluster_Renew_FullMethodName:
		return nil, nil
	}
	if err := f(); err != nil { // nothing was sent
		return nil, status.Errorf(codes.Unavailable, "before the call: %v", err)
	}
	return nil, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (f beforeCall) RequireTransportSecurity() bool { return false }

// connectTimeout bounds an attempt to connect, the handshake of TLS included.
func (c *Client) connectTimeout() time.Duration {
	if c.pool.o.TLS != nil {
		return 2 * c.pool.o.ConnectTimeout
	}
	return c.pool.o.ConnectTimeout
}

// dial is one attempt to connect.
func (c *Client) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.pool.o.ConnectTimeout)
	defer cancel()
	conn, err := c.pool.o.Dialer(ctx, addr)
	c.note(err)
	return conn, err
}

// await waits until the client is connected, for as many attempts as ctx allows.
func (c *Client) await(ctx context.Context) error {
	for {
		c.conn.Connect() // if it is idle
		state := c.conn.GetState()
		switch {
		case c.ctx.Err() != nil:
			return c.gone()
		case state == connectivity.Ready:
			return nil
		case !c.conn.WaitForStateChange(ctx, state):
			return c.unreachable(ctx)
		}
	}
}

// attempt waits until the client is connected, or an attempt fails.
func (c *Client) attempt(ctx context.Context) error {
	for {
		c.conn.Connect()
		state := c.conn.GetState()
		switch {
		case c.ctx.Err() != nil:
			return c.gone()
		case state == connectivity.Ready:
			return nil
		case state == connectivity.TransientFailure || !c.conn.WaitForStateChange(ctx, state):
			return c.unreachable(ctx)
		}
	}
}

// gone is why the client is of no use any more.
func (c *Client) gone() error {
	err := context.Cause(c.ctx)
	if errors.Is(err, nexusraft.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// unreachable is why there is no connection.
func (c *Client) unreachable(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failed != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, c.failed)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	}
	return fmt.Errorf("%w: it does not speak HTTP/2 within %v; where round trips take that long, raise ConnectTimeout, "+
		"which nodes take from their election timeout", ErrUnreachable, c.connectTimeout())
}

// end makes the client one of no use.
func (c *Client) end(why error) {
	c.cancel(why)
	_ = c.conn.Close() // it says that it was closed before
}

// begin returns the context of a call or stream, which ends with the client, too. Until end
// is called, the pool's Close waits.
func (c *Client) begin(ctx context.Context) (context.Context, func(), error) {
	release, err := c.pool.hold()
	if err != nil {
		return nil, nil, err
	}
	if c.ctx.Err() != nil {
		release()
		return nil, nil, c.gone()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		release()
	}, nil
}

// beginCall is begin for a unary call: it gives ctx a deadline if it has none.
func (c *Client) beginCall(ctx context.Context) (context.Context, func(), error) {
	if _, ok := ctx.Deadline(); ok {
		return c.begin(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, c.pool.o.CallTimeout)
	ctx, end, err := c.begin(ctx)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() { end(); cancel() }, nil
}

// fail is how a call has failed, given its context from begin.
func (c *Client) fail(ctx context.Context, err error) error {
	err = reason(ctx, err)
	code := status.Code(err)
	moved := errors.Is(err, errMoved) || errors.Is(err, errRemoved) || errors.Is(err, errBroken)
	if moved || code == codes.Unavailable {
		return fmt.Errorf("%w: %w%s", ErrUnreachable, err, c.hint(err))
	}
	return err
}

// Status asks the node what it says of itself. It shakes no hands, so anyone may ask.
func (c *Client) Status(ctx context.Context) (nexusraft.NodeStatus, error) { return c.status(ctx, 0) }

func (c *Client) status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nexusraft.NodeStatus{}, err
	}
	defer end()
	resp, err := pb.NewClusterClient(c.conn).Status(ctx, &pb.StatusRequest{Zone: uint64(only)})
	if err != nil {
		return nexusraft.NodeStatus{}, fmt.Errorf("ask %v for its status: %w", c.addr, c.fail(ctx, err))
	}
	return wire.NodeStatusFromProto(resp.GetStatus()), nil
}

// RequestVote asks for votes of several zones, at most 4,096: pre-votes and votes, each with its
// term, candidate and last entry. The results are in any order; votes without one were ignored.
func (c *Client) RequestVote(ctx context.Context, votes []Vote) ([]VoteResult, error) {
	if len(votes) > MaxVotes {
		return nil, fmt.Errorf("%w: request %d votes, limit %d", nexusraft.ErrTooLarge, len(votes), MaxVotes)
	}
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	self := c.pool.self()
	resp, err := pb.NewRaftTransportClient(c.conn).RequestVote(ctx, &pb.RequestVoteRequest{
		Hello: hello(self, c.addr.ID),
		Votes: votesToProto(votes),
	})
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return nil, err
	}
	return resultsFromProto(resp.GetResults(), len(votes))
}

// String returns the node and its endpoint.
func (a NodeAddress) String() string {
	if a.ID == 0 {
		return a.Endpoint
	}
	return fmt.Sprintf("node %v at %s", a.ID, a.Endpoint)
}

// hint is what is probably wrong where something listens that hangs up on plain text.
func (c *Client) hint(err error) string {
	if c.pool.o.TLS == nil && strings.Contains(err.Error(), "error reading server preface") {
		return "; if it speaks TLS, this side needs certificates, too"
	}
	return ""
}
