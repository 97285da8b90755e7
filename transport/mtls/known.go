package mtls

import (
	"crypto/x509"
	"net"
	"sync"
	"syscall"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// knownConns are the connections whose other side has proved its identity by a certificate, of all
// servers and clients with one TLS. The zero value is ready. Its methods may be called from any
// goroutine.
type knownConns struct {
	mu  sync.Mutex
	all map[net.Conn]knownConn // by socket
}

// knownConn is what a connection was made by.
type knownConn struct {
	node     nexusraft.NodeID // that has made it; 0 for a client's, and for one that this side has made
	believed func() bool      // whether the other side's certificate would do now, as far as authorities go
}

// connected keeps the socket of a connection until conn, which is returned wrapped, is closed.
func (k *knownConns) connected(socket, conn net.Conn, c knownConn) net.Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil {
		k.all = make(map[net.Conn]knownConn)
	}
	k.all[socket] = c
	leaving := leavingConn{conn, func() { k.closed(socket) }}
	if options, ok := conn.(syscall.Conn); ok {
		return leavingSocket{leaving, options}
	}
	return leaving
}

func (k *knownConns) closed(socket net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.all, socket)
}

// leavingConn is a connection that tells when it is closed.
type leavingConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c leavingConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// leavingSocket is a leavingConn of which gRPC can set options.
type leavingSocket struct {
	leavingConn
	syscall.Conn
}

// those returns the sockets of the connections that are so.
func (k *knownConns) those(are func(knownConn) bool) (sockets []net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for socket, c := range k.all {
		if are(c) {
			sockets = append(sockets, socket)
		}
	}
	return sockets
}

// HangUp closes the connections that a node has made with its certificate. It may connect again:
// that it is refused then is its answer. It may be called on nil.
func (t *TLS) HangUp(node nexusraft.NodeID) {
	if t == nil {
		return
	}
	t.hangUp(func(c knownConn) bool { return c.node == node })
}

// Recheck closes the connections whose other side has shown a certificate of an authority that is
// not believed any more. It is called when what the source returns has lost one.
func (t *TLS) Recheck() {
	t.hangUp(func(c knownConn) bool { return !c.believed() })
}

func (t *TLS) hangUp(are func(knownConn) bool) {
	for _, socket := range t.known.those(are) { // a good-bye by TLS could wait for a peer that reads nothing
		_ = socket.Close() // what reads it ends, and says so
	}
}

// keep has a connection closed by HangUp and Recheck. Chain is what the other side has shown, by
// which verify knew it with the certificates c. A connection that comes while c is replaced is
// looked at again here, or by Recheck.
func (t *TLS) keep(
	socket, conn net.Conn, node nexusraft.NodeID, c Certificates, verify func(Certificates) error,
) (net.Conn, error) {
	kept := t.known.connected(socket, conn, knownConn{node, func() bool {
		now, err := t.certificates()
		return err != nil || now.Roots == c.Roots || verify(now) == nil
	}})
	now, err := t.certificates()
	if err == nil && now.Roots != c.Roots {
		err = verify(now)
	}
	if err != nil {
		t.known.closed(socket)
		return nil, err
	}
	return kept, nil
}

// identifyAny returns nil if a caller's chain names a node or client, whether or not it is valid
// now.
func (t *TLS) identifyAny(chain []*x509.Certificate, c Certificates) error {
	_, err := identify(chain, c, t.clock())
	if err != nil && identifyLapsed(chain, c, t.clock()).Node != 0 {
		return nil
	}
	return err
}
