package mtls

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// call is one that was let through: it ends with its context.
type call struct {
	c         *connection
	method    string
	key       string // of its principal or address
	node      bool   // a node's; without TLS, one that speaks as a node
	anonymous bool   // the caller is anonymous
	watch     bool   // an anonymous caller's Health.Watch
	refused   error  // what the interceptors answer; nil: the call has its place
	headers   int64  // bytes

	cancel context.CancelCauseFunc

	mu      sync.Mutex  // guards what follows
	reading bool        // a request is being read
	waiting *time.Timer // ends the call if its request does not arrive; nil: it has all the time
	ended   bool
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	k, _ := ctx.Value(callKey{}).(*call)
	return k
}

// PrincipalOf returns the principal that a call counts for: a name that is the same for each call
// of one principal, or, without TLS, of one address. It is "" for an anonymous caller's call, and
// without Limits.
func PrincipalOf(ctx context.Context) string {
	k := callOf(ctx)
	if k == nil || k.anonymous {
		return ""
	}
	return k.key
}

// tap looks at each call as soon as its headers are there, before a goroutine or a buffer of its
// own.
//
// A refusal from here costs nothing where the call has no deadline. One with a deadline leaves a
// timer of gRPC behind until then, which may be years: such a call is let through to the
// interceptors, which refuse it with the same words. Of these a connection may have few.
func (l *Limits) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := connectionOf(ctx)
	if c == nil {
		return ctx, nil
	}
	select {
	case <-c.gone:
		return nil, errClosing
	default:
	}
	k := &call{c: c, method: info.FullMethodName, headers: headerBytes(info.Header)}
	k.refused = l.enter(ctx, k)
	if k.refused != nil {
		l.strike(c)
	}
	if _, timed := ctx.Deadline(); k.refused != nil && !timed {
		return nil, k.refused
	}
	l.begin(k)
	ctx, k.cancel = context.WithCancelCause(context.WithValue(ctx, callKey{}, k))
	k.await(true)
	context.AfterFunc(ctx, k.end)
	return ctx, nil
}

// errClosing answers what was sent before a connection was closed.
var errClosing = status.Error(codes.Unavailable, "the connection is being closed")

// strike counts a refusal. An anonymous caller that goes on regardless is closed: each refusal
// costs an answer.
func (l *Limits) strike(c *connection) {
	if !c.anonymous.Load() || c.refusals.Add(1) <= budget.AnonymousRefusals {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(c)
}

// headerBytes counts as HTTP/2 does.
func headerBytes(md metadata.MD) (n int64) {
	for name, values := range md {
		for _, v := range values {
			n += int64(len(name) + len(v) + 32)
		}
	}
	return n
}

// enter takes what a call needs; otherwise it returns what its caller is told.
func (l *Limits) enter(ctx context.Context, k *call) error {
	if _, encrypted := infoOf(ctx); !encrypted {
		k.key, k.node = k.c.address, policy.IsBetweenNodes(k.method)
		l.markNode(k)
		return l.enterKnown(k)
	}
	principal, err := l.o.Identify(ctx, k.method)
	switch {
	case err != nil:
		k.anonymous = true
		l.counters.Refused(budget.Unknown)
		return err
	case principal == "":
		k.anonymous, k.key = true, k.c.address
		return l.enterAnonymous(k)
	}
	k.key, k.node = principal, k.c.caller.Node != 0
	if k.c.anonymous.Load() { // it has shown a token
		if err := l.settle(k.c, kindClient, principal); err != nil {
			return errOver(k.method, err.Error())
		}
	}
	return l.enterKnown(k)
}

// markNode gives the place of a node to a connection without TLS that speaks as one, if there is
// any.
func (l *Limits) markNode(k *call) {
	if !k.node {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[k.c]; open && k.c.kind == kindPlain && l.count(kindNode, "") < l.places.Nodes {
		k.c.rename(kindNode, k.c.address)
	}
}

// known returns the limits of a call whose caller is known.
func (l *Limits) known(k *call) callLimits {
	if k.node {
		return l.nodes
	}
	return l.clients
}

func (l *Limits) enterKnown(k *call) error {
	limits := l.known(k)
	if !limits.calls.Enter(k.key, 1) {
		l.counters.Refused(budget.StreamsOfCaller)
		return errOver(k.method, "too many calls are under way, of "+k.key+" or of all")
	}
	if !limits.headers.Enter(k.key, k.headers) {
		limits.calls.Leave(k.key, 1)
		l.counters.Refused(budget.Headers)
		return errOver(k.method, "too many bytes of headers of calls under way, of "+k.key+" or of all")
	}
	return nil
}

func (l *Limits) enterAnonymous(k *call) error {
	k.watch = strings.HasSuffix(k.method, "/Watch")
	if !l.anonymousCalls(k).Enter(k.key, 1) {
		l.counters.Refused(budget.AnonymousStreams)
		return errOver(k.method,
			"too many calls of callers without a certificate or token are under way, of "+k.key+" or of all")
	}
	return nil
}

func (l *Limits) anonymousCalls(k *call) *budget.Limit {
	if k.watch {
		return l.watches
	}
	return l.joins
}

// begin counts a call on its connection. One with too many of anonymous callers is closed.
func (l *Limits) begin(k *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := k.c
	c.calls++
	if k.watch {
		c.watches++
	}
	if !k.anonymous && k.refused == nil {
		return
	}
	if c.doubtful++; c.doubtful > budget.AnonymousStreamsOfConnection {
		l.counters.Refused(budget.AnonymousStreams)
		l.end(c)
	}
}

// end gives back what a call has.
func (k *call) end() {
	k.whole(0)
	k.mu.Lock()
	ended := k.ended
	k.ended = true
	k.mu.Unlock()
	if ended {
		return
	}
	l := k.c.limits
	switch {
	case k.refused != nil:
	case k.anonymous:
		l.anonymousCalls(k).Leave(k.key, 1)
	default:
		l.known(k).calls.Leave(k.key, 1)
		l.known(k).headers.Leave(k.key, k.headers)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k.leaveConnection()
}

func (k *call) leaveConnection() {
	c := k.c
	if c.calls--; c.calls == 0 {
		c.idle = time.Now()
	}
	if k.watch {
		c.watches--
	}
	if k.anonymous || k.refused != nil {
		c.doubtful--
	}
}

// await begins to wait for a request, which must arrive in time if it is timed.
func (k *call) await(timed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reading || k.ended {
		return
	}
	k.reading = true
	k.c.reads(k, !timed)
	if !timed {
		return
	}
	k.waiting = time.AfterFunc(k.c.limits.requestTimeout(k.anonymous || k.refused != nil), func() {
		k.c.limits.counters.Refused(budget.SlowRequests)
		k.cancel(errSlowRequest)
	})
}

// whole says that no request of a call is being read any more: one of a size has arrived, or the
// call has ended.
func (k *call) whole(size int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.reading {
		return
	}
	k.reading = false
	if k.waiting != nil {
		k.waiting.Stop()
		k.waiting = nil
	}
	k.c.hasRead(k, int64(size))
}

func (l *Limits) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	k := callOf(ctx)
	if k == nil {
		return handle(ctx, req)
	}
	k.whole(sizeOf(req))
	if k.refused != nil {
		return nil, k.refused
	}
	return l.answer(ctx, k, req, handle)
}

func (l *Limits) stream(
	srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler,
) error {
	k := callOf(stream.Context())
	switch {
	case k == nil:
		return handle(srv, stream)
	case k.refused != nil:
		return k.refused
	case policy.IsBetweenNodes(info.FullMethod): // nodes' streams may be silent for days
		return handle(srv, firstInTime{stream, k})
	}
	messages := l.counted(stream, k)
	defer messages.end()
	// Whoever has something to hear on a stream may be silent for days: a watch, or a lease's keepalives.
	hears := info.IsClientStream && info.IsServerStream && !k.anonymous
	return handle(srv, &eachInTime{ServerStream: messages, k: k, hears: hears})
}

// firstInTime is a stream whose first request must arrive in time.
type firstInTime struct {
	grpc.ServerStream

	k *call
}

// RecvMsg implements grpc.ServerStream.
func (s firstInTime) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	s.k.whole(0)
	return err
}

// eachInTime is a stream each of whose requests must arrive in time once the handler waits for it. Where the
// caller hears something, too, that goes for the first one only: of later ones the bytes count.
type eachInTime struct {
	grpc.ServerStream

	k     *call
	hears bool
	begun bool // the first request has arrived
}

// RecvMsg implements grpc.ServerStream.
func (s *eachInTime) RecvMsg(m any) error {
	s.k.await(!s.hears || !s.begun)
	s.begun = true
	err := s.ServerStream.RecvMsg(m)
	s.k.whole(sizeOf(m))
	return err
}

func sizeOf(m any) int {
	if p, ok := m.(proto.Message); ok {
		return proto.Size(p)
	}
	return 0
}
