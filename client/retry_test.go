package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

type putFunc = func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error)

// failing answers the first n puts with err, and says yes from then on.
func failing(n int, err error) putFunc {
	return func(context.Context, *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		if n--; n >= 0 {
			return nil, err
		}
		return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 5}}, nil
	}
}

// Endpoints that are dead or stopped are passed over by reads and writes, and the one
// that answered is asked first from then on.
func TestUnreachableEndpointsArePassedOver(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(*testing.T) string{"dead": deadAddress, "silent": silentAddress} {
		t.Run(name, func(t *testing.T) {
			n := start(t, nil)
			c := connect(t, Options{Endpoints: []string{bad(t), n.address}, DialTimeout: 200 * time.Millisecond})
			if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
				t.Errorf("put: %v", err)
			}
			if _, _, err := c.Get(within(t), []byte("k")); err != nil {
				t.Errorf("get: %v", err)
			}
			if got := n.arrivals.Load(); got != 2 {
				t.Errorf("got %d requests, want 2", got)
			}
			if got, want := c.firstIndex(), 1; got != want {
				t.Errorf("endpoint to try first: got %d, want %d", got, want)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	dead := deadAddress(t)
	c := connect(t, Options{Endpoints: []string{dead}})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Put(ctx, []byte("k"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want %v and nothing uncertain", err, context.DeadlineExceeded)
	}
	if err == nil || !strings.Contains(err.Error(), dead) {
		t.Errorf("got %v, want an error that names %s", err, dead)
	}
}

func TestANodeThatComesBackIsFound(t *testing.T) {
	address := deadAddress(t)
	c := connect(t, Options{Endpoints: []string{address}})
	done := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := c.Put(ctx, []byte("k"), nil)
		done <- err
	}()
	e, err := c.node(address)
	if err != nil {
		t.Fatal(err)
	}
	for e.failure.Load() == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // until the first dial has failed
	}
	n := &fakeNode{server: grpc.NewServer()}
	etcdserverpb.RegisterKVServer(n.server, n)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, n.server, l)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := n.arrivals.Load(); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

// A node that says that it wrote nothing is asked again, or another is.
func TestWritesThatDidNotHappenAreRetried(t *testing.T) {
	refusals := map[string]error{
		"not leader": answer(&nexusraft.NotLeaderError{Zone: 1}, codes.Unavailable, "etcdserver: no leader"),
		"overloaded": answer(nexusraft.ErrOverloaded, codes.ResourceExhausted, "etcdserver: too many requests"),
		"closed":     answer(nexusraft.ErrClosed, codes.Unavailable, "etcdserver: server stopped"),
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			n := start(t, func(n *fakeNode) { n.put = failing(3, refusal) })
			c := connect(t, Options{Endpoints: []string{n.address}})
			if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
				t.Error(err)
			}
			if got := n.arrivals.Load(); got != 4 {
				t.Errorf("got %d requests, want 4", got)
			}
		})
	}
}

func TestTheNamedLeaderIsAskedNext(t *testing.T) {
	bystander, leader := start(t, nil), start(t, nil)
	follower := start(t, func(n *fakeNode) {
		hint := &nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: leader.address}
		n.put = failing(1, answer(hint, codes.Unavailable, "etcdserver: no leader"))
	})
	c := connect(t, Options{Endpoints: []string{follower.address, bystander.address, leader.address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Error(err)
	}
	if got := [...]int64{follower.arrivals.Load(), bystander.arrivals.Load(), leader.arrivals.Load()}; got != [...]int64{
		1,
		0, 1,
	} {
		t.Errorf("requests to follower, bystander and leader: got %v, want 1, 0, 1", got)
	}
}

// Whatever leaves the outcome open: the write arrives once, at one node, and never again.
func TestUncertainWritesAreNeverRetried(t *testing.T) {
	outcomes := map[string]func(*fakeNode) error{
		"a node says so": func(*fakeNode) error {
			return answer(nexusraft.ErrUncertain, codes.Unknown, "nexusraft: outcome unknown")
		},
		"unavailable, and nobody says why": func(*fakeNode) error {
			return status.Error(codes.Unavailable,
				"proxy lost its server")
		},
		"internal": func(*fakeNode) error { return status.Error(codes.Internal, "who knows") },
		"the node dies": func(n *fakeNode) error {
			go n.server.Stop()
			return nil
		},
	}
	for name, outcome := range outcomes {
		t.Run(name, func(t *testing.T) {
			other := start(t, nil)
			n := start(t, func(n *fakeNode) {
				fail := func(ctx context.Context) error {
					if err := outcome(n); err != nil {
						return err
					}
					<-ctx.Done()
					return ctx.Err()
				}
				n.put = func(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
					return nil, fail(ctx)
				}
				n.del = func(ctx context.Context, _ *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
					return nil, fail(ctx)
				}
			})
			c := connect(t, Options{Endpoints: []string{n.address, other.address}})
			_, err := c.Put(within(t), []byte("k"), nil)
			if !errors.Is(err, nexusraft.ErrUncertain) {
				t.Errorf("put: got %v, want %v", err, nexusraft.ErrUncertain)
			}
			if got := [...]int64{n.arrivals.Load(), other.arrivals.Load()}; got != [...]int64{1, 0} {
				t.Errorf("puts that arrived: got %v, want 1 and 0", got)
			}
			if name == "the node dies" {
				return
			}
			c = connect(t, Options{Endpoints: []string{n.address, other.address}})
			if _, err = c.Delete(within(t), []byte("k")); !errors.Is(err, nexusraft.ErrUncertain) {
				t.Errorf("delete: got %v, want %v", err, nexusraft.ErrUncertain)
			}
			if got := [...]int64{n.arrivals.Load(), other.arrivals.Load()}; got != [...]int64{2, 0} {
				t.Errorf("puts and deletes that arrived: got %v, want 2 and 0", got)
			}
		})
	}
}

// stuck is a node that takes every request and answers none.
func stuck(t *testing.T) *fakeNode {
	return start(t, func(n *fakeNode) {
		n.put = func(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		n.rangeOf = func(ctx context.Context, _ *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
}

func TestAnAttemptIsBounded(t *testing.T) {
	t.Parallel()
	other, n := start(t, nil), stuck(t)
	c := connect(t, Options{Endpoints: []string{n.address, other.address}, AttemptTimeout: 200 * time.Millisecond})
	if _, err := c.Put(within(t), []byte("k"), nil); !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("put: got %v, want %v", err, nexusraft.ErrUncertain)
	}
	if got := [...]int64{n.arrivals.Load(), other.arrivals.Load()}; got != [...]int64{1, 0} {
		t.Errorf("puts that arrived: got %v, want 1 and 0", got)
	}
	// What has hung once is not asked first again.
	if _, _, err := c.Get(within(t), []byte("k")); err != nil {
		t.Errorf("get: %v", err)
	}
	if got := [...]int64{n.arrivals.Load(), other.arrivals.Load()}; got != [...]int64{1, 1} {
		t.Errorf("all that arrived: got %v, want 1 and 1", got)
	}
	c = connect(t, Options{Endpoints: []string{n.address, other.address}, AttemptTimeout: 200 * time.Millisecond})
	if _, _, err := c.Get(within(t), []byte("k")); err != nil {
		t.Errorf("get that meets the stuck node first: %v", err)
	}
	if got := [...]int64{n.arrivals.Load(), other.arrivals.Load()}; got != [...]int64{2, 2} {
		t.Errorf("all that arrived: got %v, want 2 and 2", got)
	}
}

func TestTheCallersContextBoundsASentWrite(t *testing.T) {
	n := stuck(t)
	c := connect(t, Options{Endpoints: []string{n.address}})
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.Put(ctx, []byte("k"), nil)
		done <- err
	}()
	for n.arrivals.Load() == 0 && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want %v", err, nexusraft.ErrUncertain)
	}
}

func TestReadsAreRetriedOnAnyBrokenCall(t *testing.T) {
	for _, failure := range []error{
		status.Error(codes.Unavailable, "proxy lost its server"),
		answer(nexusraft.ErrNoQuorum, codes.Unavailable, "etcdserver: request timed out"),
	} {
		left := 3
		n := start(t, func(n *fakeNode) {
			n.rangeOf = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				if left--; left >= 0 {
					return nil, failure
				}
				return &etcdserverpb.RangeResponse{}, nil
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		if _, _, err := c.Get(within(t), []byte("k")); err != nil {
			t.Error(err)
		}
		if got := n.arrivals.Load(); got != 4 {
			t.Errorf("got %d requests, want 4", got)
		}
	}
}

// A refusal is the answer, wherever it comes from; it is not uncertain.
func TestRefusedWritesAreFinal(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.put = failing(1, answer(nexusraft.ErrTooLarge, codes.InvalidArgument, "etcdserver: request is too large"))
	})
	other := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address, other.address}})
	_, err := c.Put(within(t), []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrTooLarge) || errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want %v", err, nexusraft.ErrTooLarge)
	}
	if got := other.arrivals.Load(); got != 0 {
		t.Errorf("the other endpoint got %d requests, want none", got)
	}
}

// An endpoint that does not serve the zone, a witness for example, is passed over; when
// none does, that is the answer.
func TestEndpointsWithoutTheZone(t *testing.T) {
	unfit := map[string]error{
		"no such zone": answer(nexusraft.ErrZoneNotFound, codes.NotFound, "nexusraft: zone not found"),
		"a witness":    status.Error(codes.Unimplemented, "unknown service etcdserverpb.KV"),
	}
	for name, refusal := range unfit {
		t.Run(name, func(t *testing.T) {
			always := func(n *fakeNode) { n.put = failing(1000, refusal) }
			a, b, member := start(t, always), start(t, always), start(t, nil)
			c := connect(t, Options{Endpoints: []string{a.address, member.address}})
			if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
				t.Errorf("with a member: %v", err)
			}
			c = connect(t, Options{Endpoints: []string{a.address, b.address}})
			if _, err := c.Put(within(t), []byte("k"), nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without a member: got %v, want the refusal", err)
			}
			if got := b.arrivals.Load(); got != 1 {
				t.Errorf("without a member: the last endpoint got %d requests, want 1", got)
			}
		})
	}
}

// A witness among the endpoints is asked again and again while the members elect a leader; that
// it does not serve them is the answer only if no endpoint does.
func TestUnfitEndpointDuringAnElection(t *testing.T) {
	t.Parallel()
	electing := answer(nexusraft.ErrNoQuorum, codes.Unavailable, "no leader")
	w := start(t, func(n *fakeNode) { n.put = failing(1000, status.Error(codes.Unimplemented, "unknown service")) })
	member := start(t, func(n *fakeNode) { n.put = failing(5, electing) })
	c := connect(t, Options{Endpoints: []string{w.address, member.address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Errorf("got %v, want success once there is a leader", err)
	}
}

// A server that says when to come back is not asked before.
func TestRetryAfterIsKept(t *testing.T) {
	t.Parallel()
	const after = 300 * time.Millisecond
	busy, err := status.New(codes.ResourceExhausted, "busy").WithDetails(
		wire.ErrorToProto(nexusraft.ErrOverloaded), &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, func(n *fakeNode) { n.put = failing(1, busy.Err()) })
	c := connect(t, Options{Endpoints: []string{n.address}})
	begin := time.Now()
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil || time.Since(begin) < after {
		t.Errorf("put: got %v after %v, want success after %v", err, time.Since(begin), after)
	}
	for asked, want := range map[time.Duration]time.Duration{-time.Second: 0, time.Hour: maxRetryAfter} {
		st, _ := status.New(codes.Unavailable, "").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(asked)})
		if got := retryAfter(st.Err()); got != want {
			t.Errorf("asked for %v: got %v, want %v", asked, got, want)
		}
	}
}
