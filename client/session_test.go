package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// sessionZone is a zone that registers sessions 1, 2 and so on at any of its nodes, and notes under which numbers
// writes come. Outcome is what the nth of them, from 0 on, comes to; nil is success.
type sessionZone struct {
	outcome func(ctx context.Context, nth int) error

	mu       sync.Mutex // guards what follows
	sessions uint64
	zones    []uint64
	numbers  []string
}

func (z *sessionZone) serve(n *fakeNode) {
	n.register = func(_ context.Context, req *pb.RegisterSessionRequest) (*pb.RegisterSessionResponse, error) {
		z.mu.Lock()
		defer z.mu.Unlock()
		z.sessions++
		z.zones = append(z.zones, req.GetZone())
		return &pb.RegisterSessionResponse{Result: &pb.RegisterSessionResponse_Session{Session: z.sessions}}, nil
	}
	n.put = func(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
		err := z.write(ctx)
		return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 5}}, err
	}
	n.del = func(ctx context.Context, _ *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
		return &etcdserverpb.DeleteRangeResponse{Deleted: 1}, z.write(ctx)
	}
}

func (z *sessionZone) write(ctx context.Context) error {
	z.mu.Lock()
	nth := len(z.numbers)
	z.numbers = append(z.numbers, strings.Join(metadata.ValueFromIncomingContext(ctx, "nexus-session"), ","))
	z.mu.Unlock()
	if z.outcome == nil {
		return nil
	}
	return z.outcome(ctx, nth)
}

// wantNumbers compares the numbers that have come so far.
func (z *sessionZone) wantNumbers(t *testing.T, want ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	if diff := cmp.Diff(want, z.numbers); diff != "" {
		t.Errorf("numbers of writes (-want +got):\n%s", diff)
	}
}

// inOrder returns an outcome that is each of errs in turn, and then success.
func inOrder(errs ...error) func(context.Context, int) error {
	return func(_ context.Context, nth int) error {
		if nth < len(errs) {
			return errs[nth]
		}
		return nil
	}
}

var (
	uncertain = answer(nexusraft.ErrUncertain, codes.Unknown, "nexusraft: outcome unknown")
	forgotten = answer(nexusraft.ErrUnknownSession, codes.FailedPrecondition, "nexusraft: unknown or expired session")
)

// connectOnce returns a client with a session of two nodes of z.
func connectOnce(t *testing.T, z *sessionZone) *Client {
	t.Helper()
	return connect(t, Options{
		Endpoints: []string{start(t, z.serve).address, start(t, z.serve).address}, ExactlyOnce: true, Zone: 7,
	})
}

func TestWritesAreNumbered(t *testing.T) {
	z := &sessionZone{}
	c := connectOnce(t, z)
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Error(err)
	}
	if r, err := c.Delete(within(t), []byte("k")); err != nil || r.Deleted != 1 {
		t.Errorf("delete: got %+v, %v", r, err)
	}
	var callers sync.WaitGroup
	for range 200 { // more than may be under way
		callers.Go(func() {
			if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	z.mu.Lock()
	defer z.mu.Unlock()
	slices.Sort(z.numbers)
	if got := len(slices.Compact(z.numbers)); got != 202 || len(z.numbers) != 202 || z.numbers[0] != "1/1" {
		t.Errorf("got %d numbers, %d of them different, the first %q", len(z.numbers), got, z.numbers[0])
	}
	if want := []uint64{7}; !slices.Equal(z.zones, want) {
		t.Errorf("sessions were registered in zones %v, want %v", z.zones, want)
	}
}

// A write without the option has no number.
func TestWritesWithoutASession(t *testing.T) {
	z := &sessionZone{}
	c := connect(t, Options{Endpoints: []string{start(t, z.serve).address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Error(err)
	}
	z.wantNumbers(t, "")
}

// Whatever leaves the outcome open: the write is sent again with the same number, and its error is that of none.
func TestUncertainWritesOfASessionAreSentAgain(t *testing.T) {
	for name, err := range map[string]error{
		"a node says so":                   uncertain,
		"unavailable, and nobody says why": status.Error(codes.Unavailable, "proxy lost its server"),
		"internal":                         status.Error(codes.Internal, "who knows"),
		"corrupt":                          answer(nexusraft.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster"),
		"not written":                      answer(nexusraft.ErrClosed, codes.Unavailable, "etcdserver: server stopped"),
	} {
		t.Run(name, func(t *testing.T) {
			z := &sessionZone{outcome: inOrder(err)}
			c := connectOnce(t, z)
			if r, err := c.Put(within(t), []byte("k"), nil); err != nil || r.Revision != 5 {
				t.Errorf("put: got %+v, %v", r, err)
			}
			if r, err := c.Delete(within(t), []byte("k")); err != nil || r.Deleted != 1 {
				t.Errorf("delete: got %+v, %v", r, err)
			}
			z.wantNumbers(t, "1/1", "1/1", "1/2")
		})
	}
}

// A node that hangs is left for another one; so is one that dies with the write.
func TestWritesOfASessionPassOver(t *testing.T) {
	for name, fail := range map[string]func(*fakeNode){
		"one that hangs": func(*fakeNode) {},
		"one that dies":  func(n *fakeNode) { go n.server.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			z := &sessionZone{}
			bad := start(t, func(n *fakeNode) {
				z.serve(n)
				n.put = func(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
					_ = z.write(ctx)
					fail(n)
					<-ctx.Done()
					return nil, ctx.Err()
				}
			})
			c := connect(t, Options{
				Endpoints: []string{bad.address, start(t, z.serve).address}, ExactlyOnce: true,
				AttemptTimeout: 200 * time.Millisecond,
			})
			_, err := c.Put(within(t), []byte("k"), nil)
			if err != nil {
				t.Error(err)
			}
			z.mu.Lock()
			defer z.mu.Unlock()
			if got := slices.Compact(slices.Clone(z.numbers)); !slices.Equal(got, []string{"1/1"}) || len(z.numbers) < 2 {
				t.Errorf("got the numbers %q, want 1/1 twice", z.numbers)
			}
		})
	}
}

// A session that the zone does not know is replaced, unless the write may have happened in it.
func TestForgottenSession(t *testing.T) {
	z := &sessionZone{outcome: inOrder(nil, forgotten)}
	c := connectOnce(t, z)
	for range 2 {
		if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
			t.Error(err)
		}
	}
	z.wantNumbers(t, "1/1", "1/2", "2/1")

	z = &sessionZone{outcome: inOrder(uncertain, forgotten, forgotten)} // both nodes say so
	c = connectOnce(t, z)
	_, err := c.Put(within(t), []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrUncertain) || !errors.Is(err, nexusraft.ErrUnknownSession) {
		t.Errorf("got %v, want ErrUncertain with ErrUnknownSession", err)
	}
	z.wantNumbers(t, "1/1", "1/1", "1/1")
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Error(err)
	}

	z = &sessionZone{outcome: inOrder(uncertain, forgotten)} // a leader that is none any more has not heard of it
	c = connectOnce(t, z)
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Error(err)
	}
	z.wantNumbers(t, "1/1", "1/1", "1/1")
}

// A session that nobody ever knows ends the call; nothing was written.
func TestSessionsThatAreForgottenAtOnce(t *testing.T) {
	z := &sessionZone{outcome: func(context.Context, int) error { return forgotten }}
	c := connectOnce(t, z)
	_, err := c.Put(within(t), []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrUnknownSession) || errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want ErrUnknownSession and nothing uncertain", err)
	}
	z.wantNumbers(t, "1/1", "2/1", "3/1")
}

// A call that runs out of time, or whose client is closed, is uncertain if it was sent, and says that nothing was
// written if it was not.
func TestWritesOfASessionEnd(t *testing.T) {
	z := &sessionZone{}
	ctx, cancel := context.WithCancel(within(t))
	z.outcome = func(context.Context, int) error {
		cancel()
		return uncertain
	}
	_, err := connectOnce(t, z).Put(ctx, []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrUncertain) || strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("cancelled: got %v, want ErrUncertain", err)
	}

	z = &sessionZone{}
	c := connectOnce(t, z)
	z.outcome = func(context.Context, int) error {
		_ = c.Close()
		return uncertain
	}
	_, err = c.Put(within(t), []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("closed: got %v, want ErrUncertain", err)
	}

	c = connect(t, Options{Endpoints: []string{deadAddress(t)}, ExactlyOnce: true})
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Put(ctx, []byte("k"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("nobody there: got %v, want DeadlineExceeded and nothing uncertain", err)
	}
}

// What ends a write after an attempt that may have happened leaves it uncertain: the client's role is taken back, for
// example.
func TestRefusalAfterAnUncertainAttempt(t *testing.T) {
	denied := answer(nexusraft.ErrDenied, codes.PermissionDenied, "nexusraft: denied")
	z := &sessionZone{outcome: inOrder(uncertain, denied, denied)}
	_, err := connectOnce(t, z).Put(within(t), []byte("k"), nil)
	if !errors.Is(err, nexusraft.ErrUncertain) || !errors.Is(err, nexusraft.ErrDenied) {
		t.Errorf("got %v, want ErrUncertain with ErrDenied", err)
	}
	z = &sessionZone{outcome: inOrder(denied, denied)}
	_, err = connectOnce(t, z).Put(within(t), []byte("k"), nil)
	if errors.Is(err, nexusraft.ErrUncertain) || !errors.Is(err, nexusraft.ErrDenied) {
		t.Errorf("got %v, want ErrDenied and nothing uncertain", err)
	}
}

// Where sessions are not served no write is sent, and the error says what to do.
func TestSessionsOfAnEarlierRelease(t *testing.T) {
	n := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}, ExactlyOnce: true})
	_, err := c.Put(within(t), []byte("k"), nil)
	if err == nil || errors.Is(err, nexusraft.ErrUncertain) || !strings.Contains(err.Error(), "update it") {
		t.Errorf("got %v, want an error that says so", err)
	}

	refused := &pb.RegisterSessionResponse{Result: &pb.RegisterSessionResponse_Error{
		Error: wire.ErrorToProto(nexusraft.ErrRefused),
	}}
	for name, answer := range map[string]*pb.RegisterSessionResponse{"refused": refused, "nothing": {}} {
		n.register = func(context.Context, *pb.RegisterSessionRequest) (*pb.RegisterSessionResponse, error) {
			return answer, nil
		}
		if _, err = c.Put(within(t), []byte("k"), nil); err == nil || errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("%s: got %v, want an error that says that nothing was written", name, err)
		}
	}
	if got := n.arrivals.Load(); got != 0 {
		t.Errorf("%d writes arrived", got)
	}
}
