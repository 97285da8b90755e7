package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// PoolOptions configures a ClientPool; the zero value is the documented default.
type PoolOptions struct {
	// TLS encrypts connections, except to endpoints that begin with http://; nil: none is
	// encrypted, and https:// is an error.
	TLS *mtls.TLS

	// Dialer opens a connection to host:port; nil dials TCP.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)

	// ConnectTimeout bounds one attempt to connect, by TCP and to HTTP/2; where the
	// connection is encrypted it bounds each of both. 0 for 250 ms.
	ConnectTimeout time.Duration

	// CallTimeout bounds a unary call whose context has no deadline; 0 for 10 s.
	CallTimeout time.Duration

	// SilenceTimeout is how long a peer may leave a ping of an Exchange stream unanswered,
	// and a handshake; then the stream is dropped. One election timeout suits; 0 for 300 ms.
	// Peers of the first protocol version answer no pings, and aren't held to it.
	SilenceTimeout time.Duration

	// IdleTimeout is how long a connection without a call or stream is kept; 0 for 5 min.
	IdleTimeout time.Duration

	// KeepAlive is how long a connection may be silent until it is probed, and half of how
	// long the answer may take: often enough for what translates addresses on the way, and
	// rare and patient enough for wide-area links. At least 10 s; 0 for 10 s.
	KeepAlive time.Duration

	// MaxMessageBytes is how large a single gRPC message may be, in each direction. A server
	// takes 8 MiB, which is what 0 is for.
	MaxMessageBytes int

	// SnapshotBandwidth is how many bytes a second all snapshots that are sent take together, at least
	// MinSnapshotBandwidth, which a lower one becomes; 0 for no limit.
	SnapshotBandwidth int

	// SnapshotCompression has snapshots compressed on their way (DEFLATE, at its fastest), which
	// spares a link that is slower than about 100 MB/s and costs the time of a core on one that is
	// not.
	SnapshotCompression bool

	// UnaryInterceptors and StreamInterceptors see every call, the first one outermost: the place for
	// metrics and tracing. A message that goes out is theirs until SendMsg returns: its memory is used
	// again.
	UnaryInterceptors  []grpc.UnaryClientInterceptor
	StreamInterceptors []grpc.StreamClientInterceptor

	// Accept decides whether a node is believed; see PeersOptions. nil accepts whatever the pool
	// has not seen in a later opening.
	Accept func(Identity) error

	// BeforeCall is called for each call and stream once there is a connection for it, before anything
	// of it is sent: what a handshake says can be made durable here. An error ends the call. It may
	// write to the disk; it must not call back into the pool. nil does nothing.
	BeforeCall func() error
}

func (o PoolOptions) withDefaults() PoolOptions {
	setDefault(&o.ConnectTimeout, 250*time.Millisecond)
	setDefault(&o.CallTimeout, 10*time.Second)
	setDefault(&o.SilenceTimeout, 300*time.Millisecond)
	setDefault(&o.IdleTimeout, 5*time.Minute)
	setDefault(&o.KeepAlive, pingAfter)
	setDefault(&o.MaxMessageBytes, maxRPCBytes)
	if o.Dialer == nil {
		o.Dialer = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if o.Accept == nil {
		o.Accept = func(Identity) error { return nil }
	}
	if o.BeforeCall == nil {
		o.BeforeCall = func() error { return nil }
	}
	return o
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// ClientPool hands out clients, one for each node, and keeps one connection for each. The
// methods may be called from many goroutines.
type ClientPool struct {
	self   func() Identity
	o      PoolOptions
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	seen   openings

	nodes     bool          // Peers' own: with TLS, http:// endpoints, which come from other nodes, are refused
	snapshots *rate.Limiter // what snapshots may take; nil for no limit

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup          // calls, streams and their goroutines; grows under mu, while not closed
	clients map[NodeAddress]*Client // by ID alone, or endpoint alone where that is 0
}

// NewClientPool returns a pool without connections. It speaks for the node that self describes;
// self is called for each handshake and must not call into the pool.
func NewClientPool(self func() Identity, o PoolOptions) *ClientPool {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &ClientPool{
		self: self, o: o.withDefaults(), ctx: ctx, cancel: cancel,
		snapshots: newThrottle(o.SnapshotBandwidth),
		clients:   make(map[NodeAddress]*Client),
	}
}

// Get returns the client of a node once it is connected. However many ask for a node, they
// share one connection and its attempts, which follow each other with growing, jittered pauses of
// at most 250 ms; Get waits for the next one until ctx ends. Then it returns ErrUnreachable with
// why the last attempt has failed.
//
// An endpoint other than before moves the node: what goes on at the old one ends with
// ErrUnreachable, and its client is of no use any more. A client stays good otherwise: it
// connects again by itself, after a failure or when it was idle.
func (p *ClientPool) Get(ctx context.Context, addr NodeAddress) (*Client, error) {
	for {
		c, err := p.client(addr)
		if err != nil {
			return nil, err
		}
		err = c.await(ctx)
		if err == nil {
			return c, nil
		}
		if !errors.Is(context.Cause(c.ctx), errBroken) || ctx.Err() != nil {
			return nil, fmt.Errorf("connect to %v: %w", addr, err)
		}
	}
}

// Remove drops a node's connection; what goes on there ends with ErrUnreachable. With an ID
// of 0 that is the node that was asked for by this endpoint alone.
func (p *ClientPool) Remove(addr NodeAddress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[keyOf(addr)]; c != nil {
		p.drop(c, errRemoved)
	}
}

// Len returns how many connections stand or are being made: idle ones don't count.
func (p *ClientPool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.clients {
		if c.conn.GetState() != connectivity.Idle {
			n++
		}
	}
	return n
}

// Close refuses further calls with ErrClosed, ends those that go on, waits for them and for
// every goroutine of the pool, and then closes the connections. A user closes its streams
// before, if the other sides are to get all that was sent. Only the first call does anything.
func (p *ClientPool) Close() {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed {
		return
	}
	p.cancel(nexusraft.ErrClosed)
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		p.drop(c, nexusraft.ErrClosed)
	}
}

// client returns the client of a node, which need not be connected.
func (p *ClientPool) client(addr NodeAddress) (*Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nexusraft.ErrClosed
	}
	known := p.clients[keyOf(addr)]
	if known != nil && known.addr == addr {
		return known, nil
	}
	c, err := newClient(p, addr)
	if err != nil {
		return nil, err
	}
	if known != nil {
		p.drop(known, errMoved)
	}
	p.clients[keyOf(addr)] = c
	return c, nil
}

// spare returns a client with a connection of its own; end closes it.
func (p *ClientPool) spare(addr NodeAddress) (c *Client, end func(), err error) {
	c, err = newClient(p, addr)
	if err != nil {
		return nil, nil, err
	}
	return c, func() { c.end(errRemoved) }, nil
}

// discard drops a client whose connection is no good, unless that was done.
func (p *ClientPool) discard(c *Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(c, errBroken)
}

// drop ends a client, and takes it out of the pool if it is there. The caller holds mu.
func (p *ClientPool) drop(c *Client, why error) {
	if key := keyOf(c.addr); p.clients[key] == c {
		delete(p.clients, key)
	}
	c.end(why)
}

// hold keeps Close waiting until release. It fails once the pool is closed.
func (p *ClientPool) hold() (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nexusraft.ErrClosed
	}
	p.running.Add(1)
	return p.running.Done, nil
}

// accept checks what a node that was asked says of itself.
func (p *ClientPool) accept(self Identity, h *pb.Hello, asked nexusraft.NodeID) error {
	peer, err := checkAnswer(self, h, asked)
	if err != nil {
		return err
	}
	if err := p.seen.check(peer); err != nil {
		return err
	}
	if err := p.o.Accept(peer); err != nil {
		return refused(err)
	}
	p.seen.record(peer)
	return nil
}

func keyOf(addr NodeAddress) NodeAddress {
	if addr.ID != 0 {
		addr.Endpoint = ""
	}
	return addr
}
