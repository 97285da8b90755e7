package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// TLS is how a node proves who it is and whom it believes: TLS 1.3, with certificates that
// name nodes and clients by URI. It is safe for concurrent use. A nil *TLS, where one is
// expected, means that nothing is encrypted.
type TLS struct {
	source func() (Certificates, error)
	admits func(Caller, string) error // nil: see Admitting

	strangers *strangers // shared with copies

	log  *slog.Logger // nil: see Telling
	said *rate.Limiter
}

// Certificates is what one handshake needs.
type Certificates struct {
	Own   tls.Certificate // empty: this side has none, and can't be a server
	Roots *x509.CertPool  // who vouches for others; nil: see Pin

	// Pin makes a client without Roots believe the chain whose CA has this SHA-256. It is for
	// a node's first contact with a cluster.
	Pin *[32]byte
}

// NewTLS returns TLS with the certificates of source, which is asked at each handshake, from
// many goroutines: so they can change, and it should be quick.
func NewTLS(source func() (Certificates, error)) *TLS {
	return &TLS{source: source, strangers: newStrangers()}
}

func (t *TLS) certificates() (Certificates, error) {
	c, err := t.source()
	if err != nil {
		return Certificates{}, fmt.Errorf("find the certificates of this node: %w", err)
	}
	return c, nil
}

// ServerCredentials returns what a grpc.Server needs. Callers are asked for a certificate;
// those that show none, or none that is believed, are connected all the same, up to 1024 at a time, and
// have no identity (CallerOf), so that the refusal of what they ask can say why.
func (t *TLS) ServerCredentials() credentials.TransportCredentials { return serverSide{t: t} }

// ClientCredentials returns what a connection to a node needs, 0 for any node of the cluster.
func (t *TLS) ClientCredentials(node nexusraft.NodeID) credentials.TransportCredentials {
	return clientSide{t: t, node: node}
}

// Caller is whom a verified client certificate names: a node or a client.
type Caller struct {
	Cluster nexusraft.ClusterID
	Node    nexusraft.NodeID // 0 for a client
	Client  string           // "" for a node
}

// CallerOf returns who the verified client certificate of a call names; false without TLS or
// without such a certificate.
func CallerOf(ctx context.Context) (Caller, bool) {
	info, ok := infoOf(ctx)
	return info.caller, ok && info.why == nil
}

// Encrypted reports whether a call came by TLS.
func Encrypted(ctx context.Context) bool {
	_, ok := infoOf(ctx)
	return ok
}

// authInfo is what one side knows of a connection.
type authInfo struct {
	credentials.TLSInfo

	caller Caller // the other side
	why    error  // why a caller has no identity
}

func infoOf(ctx context.Context) (authInfo, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return authInfo{}, false
	}
	info, ok := p.AuthInfo.(authInfo)
	return info, ok
}

// checkSender refuses a handshake with another node or cluster than the certificate of its
// sender names. A node that joins and belongs to no cluster may have no certificate yet.
// Without TLS all pass.
func checkSender(ctx context.Context, self Identity, h *pb.Hello, joining bool) error {
	info, ok := infoOf(ctx)
	if !ok {
		return nil
	}
	said := Caller{Cluster: nexusraft.ClusterID(h.GetClusterId()), Node: nexusraft.NodeID(h.GetNodeId())}
	if joining && said.Cluster == 0 {
		said.Cluster = self.Cluster
	}
	switch {
	case info.why != nil && joining && h.GetClusterId() == 0:
		return nil
	case info.why != nil:
		return refuse("peer %v has no certificate that node %v believes: %v", said.Node, self.Node, info.why)
	case info.caller.Node == 0:
		return refuse("peer %v shows the certificate of client %q; a node needs one of its own", said.Node, info.caller.Client)
	case info.caller.Node != said.Node:
		return refuse("node mismatch: peer %v shows the certificate of node %v", said.Node, info.caller.Node)
	case info.caller.Cluster != said.Cluster:
		return refuse("cluster mismatch: peer %v of cluster %v shows a certificate of cluster %v", said.Node, said.Cluster, info.caller.Cluster)
	}
	return nil
}

// serverSide is the credentials of a server.
type serverSide struct{ t *TLS }

// ServerHandshake implements credentials.TransportCredentials.
func (s serverSide) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := s.t.certificates()
	if err != nil {
		return nil, nil, err
	}
	secure, shaken, err := credentials.NewTLS(&tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Own},
		ClientAuth:             tls.RequestClientCert, // identify verifies it
		SessionTicketsDisabled: true,                  // each connection shows what is valid now
	}).ServerHandshake(conn)
	if err != nil {
		s.t.tell(conn.RemoteAddr(), err)
		return nil, nil, explainServer(err)
	}
	info := authInfo{TLSInfo: shaken.(credentials.TLSInfo)}
	info.caller, info.why = identify(info.State.PeerCertificates, c)
	if info.why == nil {
		return endWith(secure, info.State.PeerCertificates[0]), info, nil
	}
	if secure, err = s.t.strangers.connected(secure); err != nil {
		return nil, nil, err
	}
	return secure, info, nil
}

// identify returns whom a caller's chain names.
func identify(chain []*x509.Certificate, c Certificates) (Caller, error) {
	s, err := pki.Verify(chain, c.Roots, x509.ExtKeyUsageClientAuth, time.Now())
	if err != nil {
		return Caller{}, err
	}
	own, ok := ownSubject(c)
	if !ok {
		return Caller{}, fmt.Errorf("%w: this node's own certificate names no cluster, so it believes nobody", nexusraft.ErrRefused)
	}
	if s.Cluster != own.Cluster {
		return Caller{}, fmt.Errorf("%w: cluster mismatch: the certificate of %v is shown to %v", nexusraft.ErrRefused, s, own)
	}
	return Caller{Cluster: s.Cluster, Node: s.Node, Client: s.Client}, nil
}

// ownSubject returns whom this side's own certificate names.
func ownSubject(c Certificates) (pki.Subject, bool) {
	leaf := leafOf(c.Own)
	if leaf == nil {
		return pki.Subject{}, false
	}
	s, err := pki.SubjectOf(leaf)
	return s, err == nil
}

// leafOf returns the first certificate of a chain, nil if there is none.
func leafOf(own tls.Certificate) *x509.Certificate {
	leaf := own.Leaf
	if leaf == nil && len(own.Certificate) > 0 { // whoever made the tls.Certificate need not have parsed it
		leaf, _ = x509.ParseCertificate(own.Certificate[0])
	}
	return leaf
}

func explainServer(err error) error {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return fmt.Errorf("the caller does not speak TLS, which this port does: give it credentials: %w", err)
	}
	return err
}

// ClientHandshake implements credentials.TransportCredentials.
func (s serverSide) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials of a server, used by a client")
}

// Info implements credentials.TransportCredentials.
func (s serverSide) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (s serverSide) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials.
func (s serverSide) OverrideServerName(string) error { return nil }

// clientSide is the credentials of a connection to node.
type clientSide struct {
	t    *TLS
	node nexusraft.NodeID
}

// ClientHandshake implements credentials.TransportCredentials.
func (s clientSide) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := s.t.certificates()
	if err != nil {
		return nil, nil, err
	}
	secure, shaken, err := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		// Not insecure: VerifyConnection does more. Only the host name is not compared: a
		// node is its ID, wherever it is reached, and the address comes from other nodes.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return s.verify(state.PeerCertificates, c) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.Own, nil // shown even if the server's list of CAs lacks its CA: the refusal says more
		},
	}).ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, explainClient(err)
	}
	info := authInfo{TLSInfo: shaken.(credentials.TLSInfo)}
	leaf := info.State.PeerCertificates[0]
	if s, err := pki.SubjectOf(leaf); err == nil {
		info.caller = Caller{Cluster: s.Cluster, Node: s.Node}
	}
	return endWith(secure, leaf), info, nil
}

// verify returns nil if a server's chain proves it to be the node that is meant.
func (s clientSide) verify(chain []*x509.Certificate, c Certificates) error {
	roots := c.Roots
	if roots == nil && c.Pin != nil {
		var err error
		if roots, err = pki.Pinned(chain, *c.Pin); err != nil {
			return err
		}
	}
	own, _ := ownSubject(c)
	return pki.VerifyNode(chain, roots, own.Cluster, s.node, time.Now())
}

func explainClient(err error) error {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return fmt.Errorf("the other side does not speak TLS: give it certificates, or use http:// if the network is trusted: %w", err)
	}
	return err
}

// hint is what is probably wrong where something listens that hangs up on plain text.
func (c *Client) hint(err error) string {
	if c.pool.o.TLS == nil && strings.Contains(err.Error(), "error reading server preface") {
		return "; if it speaks TLS, this side needs certificates, too"
	}
	return ""
}

// ServerHandshake implements credentials.TransportCredentials.
func (s clientSide) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials of a client, used by a server")
}

// Info implements credentials.TransportCredentials.
func (s clientSide) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (s clientSide) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials.
func (s clientSide) OverrideServerName(string) error { return nil }

// CheckOwn returns what is wrong with this side's own certificate, as that of a node: cluster
// 0 stands for any. The error matches ErrRefused and says which URI it needs.
func (t *TLS) CheckOwn(cluster nexusraft.ClusterID, node nexusraft.NodeID) error {
	c, err := t.certificates()
	if err != nil {
		return err
	}
	own, ok := ownSubject(c)
	if cluster == 0 {
		cluster = own.Cluster
	}
	if want := (pki.Subject{Cluster: cluster, Node: node}); !ok || own != want {
		return fmt.Errorf("%w: this node's certificate names %q; it needs the URI %v", nexusraft.ErrRefused, own.String(), want)
	}
	return nil
}

// ServerOptions are the package's ServerOptions, with this TLS if t is not nil.
func (t *TLS) ServerOptions() []grpc.ServerOption {
	if t == nil {
		return ServerOptions()
	}
	options := append(ServerOptions(), grpc.Creds(t.ServerCredentials()))
	return append(append(options, t.strangers.limits()...), t.admission()...)
}
