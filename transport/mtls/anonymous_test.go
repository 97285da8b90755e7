package mtls

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// Callers without a certificate take no room from those who have one, nor does one that only
// holds its place from one that asks.
func TestStrangersAreBounded(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	limits := NewLimits(LimitOptions{})
	limits.places.Anonymous, limits.places.AnonymousOfAddress = 3, 3
	addr := serve(t, limits, security, services{}, GuardOptions()...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	var idle []*grpc.ClientConn
	for range 2 * limits.places.Anonymous {
		conn := dialWith(t, addr, anyServer())
		if err := watchHealth(ctx, conn); err != nil {
			t.Fatalf("one more anonymous caller: got %v, want a place of one that only watches", err)
		}
		idle = append(idle, conn)
	}
	if n := limits.openOf(kindAnonymous); n > limits.places.Anonymous {
		t.Errorf("%d anonymous callers, want %d at most", n, limits.places.Anonymous)
	}
	node := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	if err := vote(ctx, node); err != nil {
		t.Errorf("a node: got %v, want none", err)
	}
	if limits.counters.Count(budget.IdleConnections) == 0 {
		t.Error("no connection that gave way was counted")
	}
	for _, conn := range idle {
		conn.Close()
	}
	eventually(t, "all places are given back", func() bool { return limits.openOf(kindAnonymous) == 0 })
}

// openOf is how many connections of a kind are open.
func (l *Limits) openOf(k kind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count(k, "")
}

func watchHealth(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// The Health.Watch of anonymous callers take no place from what ends: a check, or a node that
// joins.
func TestCallsOfStrangersAreBounded(t *testing.T) {
	ca := testCA(t)
	security := testTLS(testCertificates(t, ca, subject(nodeA)))
	limits := NewLimits(LimitOptions{})
	const most = 2
	limits.watches = budget.NewLimit(most, most)
	addr := serve(t, limits, security, services{}, GuardOptions()...)
	conn := dialWith(t, addr, anyServer())
	known := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))

	first, end := context.WithCancel(t.Context())
	for range most {
		if err := watchHealth(first, conn); err != nil {
			t.Fatal(err)
		}
	}
	bounded, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), bounded} { // both ways in which a call is refused
		err := watchHealth(ctx, conn)
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("over the limit: got %v, want ResourceExhausted and the address", err)
		}
		if !slices.ContainsFunc(status.Convert(err).Details(), func(d any) bool {
			_,
				ok := d.(*errdetails.RetryInfo)
			return ok
		}) {
			t.Errorf("over the limit: got %v, without a word how soon to ask again", status.Convert(err).Details())
		}
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("a check: got %v, want none", err)
	}
	if err := watchHealth(t.Context(), known); err != nil {
		t.Errorf("one with a certificate: got %v, want none", err)
	}
	end()
	eventually(t, "another one gets in", func() bool { return watchHealth(t.Context(), conn) == nil })
}

// An anonymous caller is refused with why, whether its call has a deadline or not.
func TestStrangersAreToldWhy(t *testing.T) {
	security := testTLS(testCertificates(t, testCA(t), subject(nodeA)))
	addr := serve(t, NewLimits(LimitOptions{Identify: IdentifyByCertificate}), security, services{},
		GuardOptions()...)
	conn := dialWith(t, addr, anyServer())
	bounded, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), bounded} {
		_, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "certificate of the cluster") {
			t.Errorf("got %v, want Unauthenticated and why", err)
		}
	}
}
