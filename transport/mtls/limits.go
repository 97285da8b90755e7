package mtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Limits bound what callers of a server may take: connections, calls, headers, requests that are
// being read, and answers, for each principal, each address and all together. The figures are those
// of package budget. The methods may be called from any goroutine.
//
// A caller is known by its certificate or its access token. Without TLS no caller is known, and all
// callers of one address are taken together. A caller that is not known, where others are, is
// anonymous: little is kept for anonymous callers, nothing of what others need.
type Limits struct {
	o        LimitOptions
	places   budget.Places
	counters *budget.Counters

	clients, nodes   callLimits
	watches, joins   *budget.Limit // calls under way: two kinds of anonymous callers'
	answers, effects *budget.Bytes // of answers and of writes under way

	sendTime time.Duration // for an answer to leave, and besides
	sendRate int64         // bytes a second

	requestTime time.Duration // for a known caller's request to arrive

	mu   sync.Mutex // guards open, and much of each connection
	open map[*connection]struct{}

	sweeps *rate.Limiter
	turns  chan struct{} // see turnConn
}

// callLimits bound the calls under way of known callers, the bytes of their headers, and the
// bytes of requests that are not whole. Nodes have limits of their own: whatever clients do, votes
// and messages get through. Requests of anonymous callers count as clients'.
type callLimits struct{ calls, headers, requests *budget.Limit }

func newCallLimits() callLimits {
	return callLimits{
		calls:    budget.NewLimit(budget.StreamsOfPrincipal, budget.MaxStreams),
		headers:  budget.NewLimit(budget.HeaderBytesOfPrincipal, budget.HeaderBytes),
		requests: budget.NewLimit(budget.RequestBytesOfCaller, budget.RequestBytes),
	}
}

// LimitOptions configure Limits; the zero value is the documented default.
type LimitOptions struct {
	// Connections is how many may be open at a time; 0 for budget.MaxConnections.
	Connections int

	// AnswerBytes is what large answers under way may hold of memory, together; 0 for budget.AnswerBytesTotal.
	AnswerBytes int64

	// Counters count what is refused; nil for counters of its own.
	Counters *budget.Counters

	// Identify returns the principal of a call by TLS: a name that stands for the same caller on each
	// of its connections. An error says why the call is refused; "" without one is an anonymous
	// caller's call of what is for everybody. It is asked before anything of the request is read, and
	// should be quick. nil goes by certificates alone, and refuses no caller.
	Identify func(ctx context.Context, method string) (principal string, err error)

	// Known reports whether a client's certificate still says something; nil: each does.
	Known func(client string) bool
}

// NewLimits returns limits of which nothing is taken.
func NewLimits(o LimitOptions) *Limits {
	if o.Connections == 0 {
		o.Connections = budget.MaxConnections
	}
	if o.Counters == nil {
		o.Counters = &budget.Counters{}
	}
	if o.Identify == nil {
		o.Identify = identifyByCertificate
	}
	if o.Known == nil {
		o.Known = func(string) bool { return true }
	}
	return &Limits{
		o: o, counters: o.Counters, places: budget.PlacesFor(o.Connections),
		clients: newCallLimits(), nodes: newCallLimits(),
		watches: budget.NewLimit(budget.AnonymousWatchesOfAddress, budget.AnonymousWatches),
		joins:   budget.NewLimit(budget.AnonymousCallsOfAddress, budget.AnonymousCalls),
		answers: budget.NewAnswerBytes(o.AnswerBytes, o.Counters), effects: budget.NewEffectBytes(o.Counters),
		sendTime: budget.AnswerSendTime, sendRate: budget.AnswerBytesPerSecond,
		requestTime: budget.RequestTimeout,
		open:        make(map[*connection]struct{}),
		sweeps:      rate.NewLimiter(1, 1),
		turns:       make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
}

// IdentifyByCertificate is for LimitOptions.Identify of a server with GuardOptions: it refuses a
// anonymous caller all but what is for everybody.
func IdentifyByCertificate(ctx context.Context, method string) (string, error) {
	if caller, ok := CallerOf(ctx); ok {
		return caller.principal(), nil
	}
	return "", guard(ctx, method)
}

// identifyByCertificate refuses no caller.
func identifyByCertificate(ctx context.Context, _ string) (string, error) {
	caller, ok := CallerOf(ctx)
	if !ok {
		return "", nil
	}
	return caller.principal(), nil
}

// principal is the caller's name among principals.
func (c Caller) principal() string {
	if c.Node != 0 {
		return NodePrincipal(c.Node)
	}
	return ClientPrincipal(c.Client)
}

// NodePrincipal and ClientPrincipal are how Limits call a node and a client.
func NodePrincipal(node nexusraft.NodeID) string { return "node " + node.String() }

// ClientPrincipal is a client's name, by whatever it shows that it has it.
func ClientPrincipal(name string) string { return "client " + name }

// ServerOptions returns what has a grpc.Server keep the limits, and speak TLS if t is not nil. They are no
// use alone: transport.LimitedServerOptions has them with the codec that gives back what an answer
// holds, the sizes of messages and the time of a handshake.
func (l *Limits) ServerOptions(t *TLS) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.InTapHandle(l.tap),
		grpc.ChainUnaryInterceptor(l.unary),
		grpc.ChainStreamInterceptor(l.stream),
	}
	if t == nil {
		return append(options, grpc.Creds(plainSide{l}))
	}
	return append(append(options, grpc.Creds(serverSide{t: t, limits: l})), t.admission()...)
}

// Listen returns a listener that closes connections for which there is no place, before anything
// else is done for them.
func (l *Limits) Listen(lis net.Listener) net.Listener { return limitedListener{lis, l} }

type limitedListener struct {
	net.Listener
	limits *Limits
}

// Accept implements net.Listener.
func (l limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.limits.accept(conn); c != nil {
			return acceptedConn{conn, c}, nil
		}
		conn.Close()
	}
}

// acceptedConn gives back its place as it is closed, which gRPC does itself where it fails between
// the handshake and the first call.
type acceptedConn struct {
	net.Conn

	c *connection
}

// Close implements net.Conn.
func (a acceptedConn) Close() error {
	a.c.leave()
	return a.Conn.Close()
}

// addressKey is what connections from one place have in common: an address, or, since one
// customer has as many as it likes, the first 64 bits of one of IPv6.
func addressKey(a net.Addr) string {
	port, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	addr := port.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

// errOver tells a caller that a limit was reached, with the way out.
func errOver(method, what string) error {
	return overloaded(fmt.Errorf("%s: %s; end some, or try again later", method, what))
}

// overloaded is the status of ErrOverloaded, which says how soon to ask again.
func overloaded(why error) error {
	return wire.Status(fmt.Errorf("%w: %w", nexusraft.ErrOverloaded, why))
}

// The causes with which calls end before they were handled.
var (
	errSlowRequest  = errors.New("the request took too long to arrive")
	errRequestBytes = errors.New("too many bytes of requests that are not whole")
)

// requestTimeout is how long a request may take to arrive.
func (l *Limits) requestTimeout(anonymous bool) time.Duration {
	if anonymous {
		return budget.AnonymousRequestTimeout
	}
	return l.requestTime
}
