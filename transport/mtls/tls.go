package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// TLS is how a node proves its identity and which others it believes: TLS 1.3, with certificates
// that name nodes and clients by URI. It is safe for concurrent use. A nil *TLS, where one is
// expected, means that nothing is encrypted.
type TLS struct {
	source func() (Certificates, error)
	clock  func() time.Time           // see Clocked
	admits func(Caller, string) error // nil: see Admitting

	known *knownConns // shared with copies

	log     *slog.Logger // nil: see Telling
	notices *rate.Limiter
}

// Certificates is what one handshake needs.
type Certificates struct {
	Own   tls.Certificate // empty: this side has none, and can't be a server
	Roots *x509.CertPool  // that vouch for others; nil: see Pin

	// Pin makes a client without Roots believe the chain whose CA has this SHA-256. It is for
	// a node's first contact with a cluster.
	Pin *[32]byte
}

// NewTLS returns TLS with the certificates of source, which is asked at each handshake, from
// many goroutines: so they can change, and it should be quick.
func NewTLS(source func() (Certificates, error)) *TLS {
	return &TLS{source: source, clock: time.Now, known: &knownConns{}}
}

func (t *TLS) certificates() (Certificates, error) {
	c, err := t.source()
	if err != nil {
		return Certificates{}, fmt.Errorf("find the certificates of this node: %w", err)
	}
	return c, nil
}

// ServerCredentials returns what a grpc.Server needs. Callers are asked for a certificate; those
// that show none, or none that is believed, are connected all the same, within Limits of their own,
// and have no identity (CallerOf), so that the refusal of what they ask can say why.
func (t *TLS) ServerCredentials() credentials.TransportCredentials {
	return serverSide{t: t, limits: NewLimits(LimitOptions{})}
}

// ClientCredentials returns what a connection to a node needs, 0 for any node of the cluster.
func (t *TLS) ClientCredentials(node nexusraft.NodeID) credentials.TransportCredentials {
	return clientSide{t: t, node: node}
}

// Caller is what a verified client certificate names: a node or a client.
type Caller struct {
	Cluster nexusraft.ClusterID
	Node    nexusraft.NodeID // 0 for a client
	Client  string           // "" for a node

	// Role is what the certificate of a node says that it is: RoleMember if it holds data,
	// RoleWitness, or "" if it does not say.
	Role nexusraft.Role
}

// CallerOf returns what the verified client certificate of a call names; false without TLS or
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

// LapsedCallerOf returns the node that the client certificate of a call names if nothing is wrong
// with the certificate but its dates; false otherwise, and for a certificate that is valid. That
// proves which node calls, and is good for Cluster.Renew and nothing else: for all else the caller
// has no identity (CallerOf).
func LapsedCallerOf(ctx context.Context) (Caller, bool) {
	info, _ := infoOf(ctx)
	return info.lapsed, info.lapsed.Node != 0
}

// ServerOf returns the node that the certificate of a connection's server names, given what a
// client of TLS knows of the connection; false without TLS.
func ServerOf(info credentials.AuthInfo) (Caller, bool) {
	client, ok := info.(authInfo)
	return client.caller, ok
}

// authInfo is what one side knows of a connection.
type authInfo struct {
	credentials.TLSInfo

	caller Caller      // the other side
	why    error       // why a caller has no identity
	lapsed Caller      // see LapsedCallerOf
	conn   *connection // of a server's; what Limits know of it
}

func infoOf(ctx context.Context) (authInfo, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return authInfo{}, false
	}
	info, ok := p.AuthInfo.(authInfo)
	return info, ok
}

// serverSide is the credentials of a server.
type serverSide struct {
	t      *TLS
	limits *Limits
}

// ServerHandshake implements credentials.TransportCredentials.
func (s serverSide) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	place, err := s.limits.accepted(raw)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.t.certificates()
	if err != nil {
		place.leave()
		return nil, nil, err
	}
	turn := s.limits.turn(raw)
	secure, info, err := s.shake(turn, c)
	turn.end()
	if err == nil {
		info.conn = place
		secure, err = s.limits.settled(secure, place, info)
	}
	if err == nil && (info.why == nil || info.lapsed.Node != 0) {
		chain := info.State.PeerCertificates
		secure, err = s.t.keep(raw, secure, info.caller.Node, c, func(c Certificates) error {
			return s.t.identifyAny(chain,
				c)
		})
	}
	if err != nil {
		place.leave()
		return nil, nil, err
	}
	return secure, info, nil
}

// shake is the handshake of TLS.
func (s serverSide) shake(conn net.Conn, c Certificates) (_ net.Conn, info authInfo, err error) {
	secure, shaken, err := credentials.NewTLS(&tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Own},
		ClientAuth:             tls.RequestClientCert, // identify verifies it
		SessionTicketsDisabled: true,                  // each connection shows what is valid now
	}).ServerHandshake(conn)
	if err != nil {
		s.t.tell(conn.RemoteAddr(), err)
		return nil, info, explainServer(err)
	}
	info.TLSInfo = shaken.(credentials.TLSInfo)
	info.caller, info.why = identify(info.State.PeerCertificates, c, s.t.clock())
	if info.why == nil {
		return s.t.endWith(secure, info.State.PeerCertificates[0]), info, nil
	}
	info.lapsed = identifyLapsed(info.State.PeerCertificates, c, s.t.clock())
	return secure, info, nil
}

// identifyLapsed returns the node that a caller's chain names whose leaf is not valid now but was,
// or will be; the zero Caller if there is more wrong with it.
func identifyLapsed(chain []*x509.Certificate, c Certificates, now time.Time) Caller {
	if len(chain) == 0 {
		return Caller{}
	}
	if leaf := chain[0]; now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	} else if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	caller, err := identify(chain, c, now)
	if err != nil || caller.Node == 0 {
		return Caller{}
	}
	return caller
}

// identify returns what a caller's chain names at the time now.
func identify(chain []*x509.Certificate, c Certificates, now time.Time) (Caller, error) {
	s, err := pki.Verify(chain, c.Roots, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return Caller{}, err
	}
	own, ok := ownSubject(c)
	if !ok {
		return Caller{}, fmt.Errorf("%w: this node's own certificate names no cluster, so it believes no caller",
			nexusraft.ErrRefused)
	}
	if s.Cluster != own.Cluster {
		return Caller{}, fmt.Errorf("%w: cluster mismatch: the certificate of %v is shown to %v", nexusraft.ErrRefused, s,
			own)
	}
	return Caller{Cluster: s.Cluster, Node: s.Node, Client: s.Client, Role: pki.RoleOf(chain[0])}, nil
}

// ownSubject returns what this side's own certificate names.
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
	if leaf == nil && len(own.Certificate) > 0 { // the maker of the tls.Certificate need not have parsed it
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
func (s clientSide) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
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
	if server, err := pki.SubjectOf(leaf); err == nil {
		info.caller = Caller{Cluster: server.Cluster, Node: server.Node}
	}
	kept, err := s.t.keep(conn, s.t.endWith(secure, leaf), 0, c,
		func(c Certificates) error { return s.verify(info.State.PeerCertificates, c) })
	if err != nil {
		return nil, nil, err
	}
	return kept, info, nil
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
	return pki.VerifyNode(chain, roots, own.Cluster, s.node, s.t.clock())
}

func explainClient(err error) error {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return fmt.Errorf("the other side does not speak TLS: give it certificates, or use http:// if the network is "+
			"trusted: %w", err)
	}
	return err
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
		return fmt.Errorf("%w: this node's certificate names %q; it needs the URI %v", nexusraft.ErrRefused, own.String(),
			want)
	}
	return nil
}
