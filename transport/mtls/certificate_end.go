package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// A certificate proves something when a connection is made, and connections live for months.
// What it proves ends in two ways: it expires, and its node is removed from the cluster.

// dated is a connection that ends soon after the certificate which the other side has shown
// expires: a side that has a newer one connects again. Pings see to it that there is something to
// read.
type dated struct {
	net.Conn

	until time.Time
	clock func() time.Time
}

// Read implements net.Conn.
func (c dated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.clock().After(c.until) {
		return 0, fmt.Errorf("the certificate that the other side has shown expired at %s",
			c.until.UTC().Format(time.RFC3339))
	}
	return n, err
}

// datedSocket is a dated connection of which gRPC can set options.
type datedSocket struct {
	dated
	syscall.Conn
}

// endWith makes a connection end with the certificate of the other side.
func (t *TLS) endWith(conn net.Conn, leaf *x509.Certificate) net.Conn {
	d := dated{Conn: conn, until: leaf.NotAfter, clock: t.clock}
	if socket, ok := conn.(syscall.Conn); ok {
		return datedSocket{d, socket}
	}
	return d
}

// Admitting returns TLS that asks admits about the caller of each call that has an identity,
// and the full name of its method, on connections that are open already, too; and about each
// message that a stream sends. Calls that begin with a handshake of nodes (those ask
// PeerHandler.Hello) and health are left out. Admits is called from many goroutines, often,
// and what it returns is what the caller is told.
func (t *TLS) Admitting(admits func(c Caller, method string) error) *TLS {
	with := *t
	with.admits = admits
	return &with
}

// Clocked returns TLS that goes by a clock in place of time.Now. It is called from many goroutines.
func (t *TLS) Clocked(clock func() time.Time) *TLS {
	with := *t
	with.clock = clock
	return &with
}

// plainNotice is how often at most a server logs that a caller does not speak TLS.
const plainNotice = 10 * time.Second

// Telling returns TLS whose servers tell log, now and then, of callers that do not speak TLS: each
// of them may be a node that waits to be let in.
func (t *TLS) Telling(log *slog.Logger) *TLS {
	with := *t
	with.log, with.notices = log, rate.NewLimiter(rate.Every(plainNotice), 1)
	return &with
}

// tell tells of one whose handshake has failed.
func (t *TLS) tell(caller net.Addr, err error) {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain && t.log != nil && t.notices.Allow() {
		t.log.Warn("a caller does not speak TLS, which this port does: give it credentials, or a join token and --tls",
			"addr", caller.String())
	}
}

// admission are the options of a server that asks t.admits.
func (t *TLS) admission() []grpc.ServerOption {
	if t.admits == nil {
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			handle grpc.UnaryHandler,
		) (any, error) {
			if err := t.admit(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			handle grpc.StreamHandler,
		) error {
			if err := t.admit(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handle(srv, admitted{stream, t, info.FullMethod})
		}),
	}
}

func (t *TLS) admit(ctx context.Context, method string) error {
	caller, ok := CallerOf(ctx)
	if !ok || policy.IsPublic(method) || policy.IsBetweenNodes(method) {
		return nil
	}
	if err := t.admits(caller, method); err != nil {
		return status.Errorf(codes.PermissionDenied, "%s: %v", method, err)
	}
	return nil
}

// admitted is a stream that ends when its caller is not admitted any more.
type admitted struct {
	grpc.ServerStream

	t      *TLS
	method string
}

// SendMsg implements grpc.ServerStream.
func (s admitted) SendMsg(m any) error {
	if err := s.t.admit(s.Context(), s.method); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// warnFraction: there is a problem when less than this part of a certificate's life is left. What
// is renewed in time never gets there.
const warnFraction = 9

// Until is when this side's own certificate expires; the zero time if there is none. It may be
// called on nil.
func (t *TLS) Until() time.Time {
	leaf := t.leaf()
	if leaf == nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// ValidAt reports whether this side's own certificate is valid at a time. It may be called on nil.
func (t *TLS) ValidAt(now time.Time) bool {
	leaf := t.leaf()
	return leaf != nil && !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter)
}

// ProvesFull reports whether this side's own certificate says that its node is a full one:
// Identity.Full of those that it calls. It may be called on nil.
func (t *TLS) ProvesFull() bool {
	leaf := t.leaf()
	return leaf != nil && pki.RoleOf(leaf) == nexusraft.RoleMember
}

// Problem says that this side's own certificate is about to expire, "" if it is not. It may be
// called on nil.
func (t *TLS) Problem(now time.Time) string {
	leaf := t.leaf()
	if leaf == nil || leaf.NotAfter.Sub(now) > leaf.NotAfter.Sub(leaf.NotBefore)/warnFraction {
		return ""
	}
	return fmt.Sprintf("this node's certificate was not renewed and expires at %s",
		leaf.NotAfter.UTC().Format(time.RFC3339))
}

func (t *TLS) leaf() *x509.Certificate {
	if t == nil {
		return nil
	}
	c, err := t.source()
	if err != nil {
		return nil
	}
	return leafOf(c.Own)
}
