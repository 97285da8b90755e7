package mtls

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testCluster nexusraft.ClusterID = 0xc1
	nodeA       nexusraft.NodeID    = 0xa
	nodeB       nexusraft.NodeID    = 0xb
)

func testCA(t *testing.T) pki.Pair {
	t.Helper()
	ca, err := pki.NewCA(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certificate returns one that ca has signed at the time then, for an hour.
func certificate(t *testing.T, ca pki.Pair, s pki.Subject, then time.Time) tls.Certificate {
	t.Helper()
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.Sign(ca, csr, s, then, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Pair{Cert: text, Key: key}.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func testCertificates(t *testing.T, ca pki.Pair, s pki.Subject) Certificates {
	t.Helper()
	roots, err := pki.Pool(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return Certificates{Own: certificate(t, ca, s, time.Now()), Roots: roots}
}

func testTLS(c Certificates) *TLS {
	return NewTLS(func() (Certificates, error) { return c, nil })
}

func subject(node nexusraft.NodeID) pki.Subject { return pki.Subject{Cluster: testCluster, Node: node} }

// services answer votes and statuses with nothing; status, if it is there, sees the calls of the
// second.
type services struct {
	pb.UnimplementedRaftTransportServer
	pb.UnimplementedClusterServer
	pb.UnimplementedZonesServer

	status func(context.Context)
}

// RequestVote implements pb.RaftTransportServer.
func (services) RequestVote(context.Context, *pb.RequestVoteRequest) (*pb.RequestVoteResponse, error) {
	return &pb.RequestVoteResponse{}, nil
}

// Status implements pb.ClusterServer.
func (s services) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if s.status != nil {
		s.status(ctx)
	}
	return &pb.StatusResponse{}, nil
}

// serve runs a server with services within limits, and with TLS if security is not nil.
func serve(t *testing.T, limits *Limits, security *TLS, s services, more ...grpc.ServerOption) (addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(8 << 20),
		grpc.MaxConcurrentStreams(budget.StreamsOfConnection),
		grpc.ConnectionTimeout(budget.HandshakeTimeout),
	}
	options = append(append(options, limits.ServerOptions(security)...), more...)
	srv := grpc.NewServer(options...)
	pb.RegisterRaftTransportServer(srv, s)
	pb.RegisterClusterServer(srv, s)
	pb.RegisterZonesServer(srv, s)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(limits.Listen(lis)) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String()
}

// serveTLS runs a server with TLS and limits of its own.
func serveTLS(t *testing.T, security *TLS, s services, more ...grpc.ServerOption) (addr string) {
	t.Helper()
	return serve(t, NewLimits(LimitOptions{}), security, s, more...)
}

func dialWith(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func dialPlain(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	return dialWith(t, addr, insecure.NewCredentials())
}

// anyServer are the credentials of a caller that believes everybody and shows own, if it is given.
func anyServer(own ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: own})
}

func vote(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewRaftTransportClient(conn).RequestVote(ctx, &pb.RequestVoteRequest{})
	return err
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}
