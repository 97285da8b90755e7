package transport

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Callers without a certificate take no room from those who have one.
func TestStrangersAreBounded(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	const connections, calls = 3, 2
	security.strangers.connections.max, security.strangers.calls.max = connections, calls
	addr := serveTLS(t, security, votes(&fakeNode{}), GuardOptions()...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	ask := func(conn *grpc.ClientConn) error {
		_, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
		return err
	}
	var open []*grpc.ClientConn
	for range connections {
		conn := dialWith(t, addr, anyServer())
		if err := ask(conn); status.Code(err) == codes.Unavailable {
			t.Fatalf("below the limit: got %v, want a connection", err)
		}
		open = append(open, conn)
	}
	if err := ask(dialWith(t, addr, anyServer())); status.Code(err) != codes.Unavailable {
		t.Errorf("over the limit: got %v, want no connection", err)
	}
	node := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	if err := vote(ctx, node); err != nil {
		t.Errorf("a node: got %v, want none", err)
	}
	if err := open[0].Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another stranger gets in", func() bool {
		return status.Code(ask(dialWith(t, addr, anyServer()))) != codes.Unavailable
	})
}

func vote(ctx context.Context, conn *grpc.ClientConn) error {
	return calls["RequestVote"](ctx, conn, hello(identityB, nodeA))
}

func TestCallsOfStrangersAreBounded(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	const most = 2
	security.strangers.calls.max = most
	addr := serveTLS(t, security, votes(&fakeNode{}))
	stranger := healthpb.NewHealthClient(dialWith(t, addr, anyServer()))
	known := healthpb.NewHealthClient(dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA)))

	watch := func(ctx context.Context, c healthpb.HealthClient) error {
		stream, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	first, end := context.WithCancel(t.Context())
	for range most {
		if err := watch(first, stranger); err != nil {
			t.Fatal(err)
		}
	}
	if err := watch(t.Context(), stranger); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "2 calls") {
		t.Errorf("over the limit: got %v, want ResourceExhausted", err)
	}
	if err := watch(t.Context(), known); err != nil {
		t.Errorf("one with a certificate: got %v, want none", err)
	}
	end()
	eventually(t, "another one gets in", func() bool { return watch(t.Context(), stranger) == nil })
}

func TestBounded(t *testing.T) {
	b := bounded{max: 1}
	if !b.enter() || b.enter() {
		t.Fatal("want room for one, and no more")
	}
	b.leave()
	if !b.enter() {
		t.Error("no room after one has left")
	}
}
