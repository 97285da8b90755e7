package mtls

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// plainSide is the credentials of a server without TLS, whose connections have limits.
type plainSide struct{ limits *Limits }

// plainInfo is what a server without TLS knows of a connection.
type plainInfo struct {
	credentials.CommonAuthInfo

	conn *connection
}

// AuthType implements credentials.AuthInfo.
func (plainInfo) AuthType() string { return "insecure" }

// ServerHandshake implements credentials.TransportCredentials.
func (s plainSide) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := s.limits.accepted(raw)
	if err != nil {
		return nil, nil, err
	}
	if err := s.limits.settle(c, kindPlain, c.address); err != nil {
		c.leave()
		return nil, nil, err
	}
	info := plainInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, c}
	return &limitedConn{Conn: raw, c: c}, info, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (plainSide) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials of a server, used by a client")
}

// Info implements credentials.TransportCredentials.
func (plainSide) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

// Clone implements credentials.TransportCredentials.
func (s plainSide) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials.
func (plainSide) OverrideServerName(string) error { return nil }

// connectionOf returns the connection of a call; nil if it has no limits.
func connectionOf(ctx context.Context) *connection {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil
	}
	switch info := p.AuthInfo.(type) {
	case authInfo:
		return info.conn
	case plainInfo:
		return info.conn
	}
	return nil
}

// limitedConn is a connection that counts what is read, keeps anonymous callers slow, and ends
// where what is written is not taken.
type limitedConn struct {
	net.Conn

	c *connection
}

// Read implements net.Conn.
func (l *limitedConn) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n <= 0 {
		return n, err
	}
	if l.c.anonymous.Load() && !l.c.pace(n) {
		return 0, net.ErrClosed
	}
	l.c.received(int64(n))
	return n, err
}

// Write implements net.Conn.
func (l *limitedConn) Write(b []byte) (int, error) {
	if err := l.Conn.SetWriteDeadline(time.Now().Add(budget.WriteTimeout)); err != nil {
		return 0, err
	}
	n, err := l.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		l.c.limits.counters.Refused(budget.SlowReaders)
		l.c.raw.Close()
	}
	return n, err
}

// Close implements net.Conn.
func (l *limitedConn) Close() error {
	l.c.leave()
	return l.Conn.Close()
}

// pace waits until an anonymous caller may have sent n bytes; false if the connection has ended
// meanwhile.
func (c *connection) pace(n int) bool {
	wait := c.slow.ReserveN(time.Now(), min(n, budget.AnonymousBurstBytes)).Delay()
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.gone:
		return false
	}
}

// reads notes that a call's request is being read, perhaps one that has all the time.
func (c *connection) reads(k *call, patient bool) {
	c.bytesMu.Lock()
	defer c.bytesMu.Unlock()
	if c.reading[k] = patient; patient {
		if c.patient++; c.patient == 1 {
			c.leaked = time.Now()
		}
	}
	c.unread.Store(int64(len(c.reading)))
}

// overheadBytes is more than what a call costs on the wire besides its request: the count of a
// connection that is never without a call drifts down rather than up.
const overheadBytes = 256

// hasRead notes that a request of a size has arrived, or that its call has ended. Where none is
// being read any more, none of the bytes are held.
func (c *connection) hasRead(k *call, size int64) {
	c.bytesMu.Lock()
	defer c.bytesMu.Unlock()
	c.leak(time.Now())
	if c.reading[k] {
		c.patient--
	}
	delete(c.reading, k)
	c.unread.Store(int64(len(c.reading)))
	n := min(size+overheadBytes, c.bytes)
	if len(c.reading) == 0 {
		n = c.bytes
	}
	c.bytes -= n
	c.requests().Leave(c.key, n)
}

// leakTime is in which time the share of one caller is given back while requests are read that have all the time.
const leakTime = 10 * time.Minute

// leak gives back some bytes on a connection where requests are read that have all the time: there is always one,
// and each byte of HTTP/2 counts, such as those that say that a watch's answers have arrived. A caller that sends
// parts of requests no faster than that, 218 KiB a second, is bounded by its calls alone. bytesMu is held.
func (c *connection) leak(now time.Time) {
	if c.patient == 0 {
		return
	}
	n := min(int64(now.Sub(c.leaked).Seconds()*budget.RequestBytesOfCaller/leakTime.Seconds()), c.bytes)
	if n == 0 && c.bytes > 0 {
		return // not a byte yet
	}
	c.leaked = now
	c.bytes -= n
	c.requests().Leave(c.key, n)
}

// received counts bytes while requests are being read. Where they are too many, the requests of
// this connection that are not whole are given up.
func (c *connection) received(n int64) {
	if c.unread.Load() == 0 {
		return
	}
	c.bytesMu.Lock()
	defer c.bytesMu.Unlock()
	if len(c.reading) == 0 || c.trusted() {
		return
	}
	c.leak(time.Now())
	if c.requests().Enter(c.key, n) {
		c.bytes += n
		return
	}
	c.limits.counters.Refused(budget.RequestBytesOverall)
	for k := range c.reading {
		k.cancel(errRequestBytes)
	}
}

// requests returns the limit of the bytes of its requests that are not whole. bytesMu is held.
func (c *connection) requests() *budget.Limit {
	if c.ofNode() {
		return c.limits.nodes.requests
	}
	return c.limits.clients.requests
}

// ofNode reports whether this is a connection of a node whose certificate is believed, in a place
// of nodes or of callers: a removed node's is an anonymous caller's. bytesMu is held.
func (c *connection) ofNode() bool {
	return c.caller.Node != 0 && (c.kind == kindNode || c.kind == kindClient)
}

// trusted reports whether this is a connection of a full node (I13), whose certificate says so.
// bytesMu is held.
func (c *connection) trusted() bool { return c.ofNode() && c.caller.Role == nexusraft.RoleMember }

// settled wraps a connection by TLS once its handshake is done and its place is settled.
func (l *Limits) settled(conn net.Conn, c *connection, info authInfo) (net.Conn, error) {
	k, key := kindAnonymous, c.address
	switch caller := info.caller; {
	case info.why != nil:
	case caller.Node != 0:
		k, key = kindNode, caller.principal()
	case l.o.Known(caller.Client):
		k, key = kindClient, caller.principal()
	}
	c.caller = info.caller
	if err := l.settle(c, k, key); err != nil {
		return nil, err
	}
	return &limitedConn{Conn: conn, c: c}, nil
}
