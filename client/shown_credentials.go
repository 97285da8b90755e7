package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// security takes an endpoint apart: where it is, and whether it is encrypted.
func (o Options) security(endpoint string) (hostPort string, encrypted bool, err error) {
	hostPort, encrypted = endpoint, o.Credentials != nil
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return "", false, fmt.Errorf("endpoint %q: unknown scheme; give host:port, http://host:port or https://host:port",
				endpoint)
		}
		hostPort, encrypted = rest, scheme == "https"
	}
	switch _, _, err := net.SplitHostPort(hostPort); {
	case strings.ContainsAny(hostPort, "/@"):
		return "", false, errors.New("an endpoint has a path or user information; give host:port alone") // maybe a secret
	case err != nil:
		return "", false, fmt.Errorf("endpoint %q is not host:port: %w", endpoint, err)
	case !encrypted && o.Credentials != nil && !slices.Contains(o.Endpoints, endpoint):
		return "", false, fmt.Errorf("endpoint %q, which a node has named, is not encrypted: with credentials only those "+
			"are asked so that Options.Endpoints names", endpoint)
	case encrypted && o.Credentials == nil:
		return "", false, fmt.Errorf("endpoint %q: https:// needs credentials, which say what cluster to believe", endpoint)
	}
	return hostPort, encrypted, nil
}

// checkBearer returns what is wrong with BearerToken, which it doesn't repeat.
func (o Options) checkBearer() error {
	if o.BearerToken == "" {
		return nil
	}
	if err := pki.ValidateBearer(o.BearerToken); err != nil {
		return err
	}
	if o.Credentials == nil {
		return errors.New("a bearer token needs credentials, too, at least the certificate of the cluster's CA: it is sent " +
			"to no server that the client can't verify")
	}
	for _, endpoint := range o.Endpoints {
		if _, encrypted, err := o.security(endpoint); err == nil && !encrypted {
			return fmt.Errorf("endpoint %q is not encrypted, and a bearer token is not sent where others can read it: leave "+
				"the token out, or http://", endpoint)
		}
	}
	return nil
}

// dialOptions returns where an endpoint's connection goes, and how it is secured.
func (o Options) dialOptions(e *endpoint) (hostPort string, _ []grpc.DialOption, err error) {
	hostPort, encrypted, err := o.security(e.address)
	if err != nil {
		return "", nil, err
	}
	if !encrypted {
		e.plain = true
		return hostPort, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	options, err := secured(o.Credentials, o.BearerToken,
		func(c credentials.TransportCredentials) credentials.TransportCredentials {
			return handshakes{c, e}
		})
	return hostPort, options, err
}

// DialOptions returns the options of a gRPC connection to a member, for generated code or etcd's
// client (clientv3.Config.DialOptions). The connection is encrypted, accepts only nodes of the
// credentials' cluster, at whatever address, and shows the credentials or, if it is not "", the
// bearer token; see Options. As with gRPC's defaults, a proxy that the environment names is used;
// grpc.WithNoProxy prevents that.
func DialOptions(credentials []byte, bearerToken string) ([]grpc.DialOption, error) {
	if bearerToken != "" {
		if err := pki.ValidateBearer(bearerToken); err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
	}
	options, err := secured(credentials, bearerToken, nil)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return options, nil
}

// secured returns options for an encrypted connection, its handshakes wrapped in what wrap returns,
// if that is not nil.
func secured(
	text []byte, token string, wrap func(credentials.TransportCredentials) credentials.TransportCredentials,
) ([]grpc.DialOption, error) {
	bundle, err := pki.ParseBundle(text)
	if err != nil {
		return nil, err
	}
	config, err := bundle.Config(time.Now)
	if err != nil {
		return nil, err
	}
	shakes := credentials.NewTLS(config)
	if wrap != nil {
		shakes = wrap(shakes)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(shakes)}
	if token := cmp.Or(token, bundle.Token); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return options, nil
}

// hint says what may be wrong if something listens at an address and does not answer.
func (e *endpoint) hint() string {
	switch {
	case strings.Contains(e.address, "://") && e.plain:
		return "; if it speaks TLS, credentials are needed, and no http://"
	case e.plain:
		return "; if it speaks TLS, credentials are needed"
	}
	return ""
}

// handshakes notes why one has failed.
type handshakes struct {
	credentials.TransportCredentials

	e *endpoint
}

// ClientHandshake implements credentials.TransportCredentials.
func (h handshakes) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil {
		if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
			err = fmt.Errorf("it does not speak TLS; leave the credentials out, or name it as http://host:port: %w", err)
		}
	}
	h.e.failure.Store(&err)
	return secure, info, err
}

// Clone implements credentials.TransportCredentials.
func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.e}
}

// bearer is a token that goes with every call, except to a node whose certificate says that it is a
// witness: a witness knows no tokens, and must not learn any.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	call, _ := credentials.RequestInfoFromContext(ctx)
	if info, ok := call.AuthInfo.(credentials.TLSInfo); ok && ofWitness(info.State) {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// ofWitness reports whether a connection leads to a node that is a witness by its certificate.
func ofWitness(s tls.ConnectionState) bool {
	return len(s.PeerCertificates) > 0 && pki.RoleOf(s.PeerCertificates[0]) == nexusraft.RoleWitness
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return true }
