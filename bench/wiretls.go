package main

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// With TLS all ways shake hands with the same certificates, and end with the same cipher.

// keyPair is what a process needs for TLS.
type keyPair struct {
	Own pki.Pair
	CA  []byte
}

// newCredentials makes an authority, and certificates for both processes.
func newCredentials() (own, other keyPair, err error) {
	ca, err := pki.NewCA(1, time.Now())
	if err != nil {
		return own, other, err
	}
	own, ownErr := newKeyPair(ca, measuring)
	other, otherErr := newKeyPair(ca, receiving)
	return own, other, errors.Join(ownErr, otherErr)
}

func newKeyPair(ca pki.Pair, node nexusraft.NodeID) (keyPair, error) {
	csr, key, err := pki.NewRequest()
	if err != nil {
		return keyPair{}, err
	}
	cert, err := pki.Sign(ca, csr, pki.Subject{Cluster: 1, Node: node}, time.Now(), 24*time.Hour)
	return keyPair{Own: pki.Pair{Cert: cert, Key: key}, CA: ca.Cert}, err
}

func (p keyPair) tls() (*mtls.TLS, error) {
	cert, err := p.Own.Certificate()
	if err != nil {
		return nil, err
	}
	roots, err := pki.Pool(p.CA)
	if err != nil {
		return nil, err
	}
	c := mtls.Certificates{Own: cert, Roots: roots}
	return mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil }), nil
}

// remote is the other process, or how it is known to itself.
type remote struct {
	peers, bare, tcp string    // its addresses, for our way, the bare one, and echoes
	tls              *mtls.TLS // nil: nothing is encrypted
}

// serverOptions are those of a server of our way, with TLS if t is not nil.
func serverOptions(t *mtls.TLS) []grpc.ServerOption {
	return transport.LimitedServerOptions(mtls.NewLimits(mtls.LimitOptions{}), t)
}

// bareOptions are those of a server of the bare way, which has grpc's defaults.
func (r remote) bareOptions() []grpc.ServerOption {
	if r.tls == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.Creds(r.tls.ServerCredentials())}
}

func (r remote) credentials() credentials.TransportCredentials {
	if r.tls == nil {
		return insecure.NewCredentials()
	}
	return r.tls.ClientCredentials(receiving)
}

// dial returns a connection of grpc's with its defaults.
func (r remote) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+r.bare, grpc.WithTransportCredentials(r.credentials()), grpc.WithNoProxy())
}

// dialTCP connects to where files are taken.
func (r remote) dialTCP(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil || r.tls == nil {
		return conn, err
	}
	secure, _, err := r.credentials().ClientHandshake(ctx, "", conn)
	return secure, err
}

// accept is the other side of dialTCP.
func (r remote) accept(conn net.Conn) (net.Conn, error) {
	if r.tls == nil {
		return conn, nil
	}
	secure, _, err := r.tls.ServerCredentials().ServerHandshake(conn)
	return secure, err
}
