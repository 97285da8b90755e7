package mtls_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// largeAnswers answers with as many bytes as are asked for, for which it reserves, or with why it
// can't.
type largeAnswers struct {
	testpb.UnimplementedTestServiceServer
}

func (largeAnswers) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if err := budget.Reserve(ctx, 2*int64(req.ResponseSize)); err != nil {
		return nil, err
	}
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, req.ResponseSize)}}, nil
}

// serveAnswers serves them with a budget, and returns the limits with the address.
func serveAnswers(t *testing.T, b *budget.Bytes, sendTime time.Duration, counters *budget.Counters) (*mtls.Limits,
	string,
) {
	t.Helper()
	l := mtls.NewLimits(mtls.LimitOptions{Counters: counters})
	l.SetAnswers(b, sendTime)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(transport.LimitedServerOptions(l, nil)...)
	testpb.RegisterTestServiceServer(s, largeAnswers{})
	pb.RegisterEventStreamServer(s, largeEvents{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l.Listen(lis)) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return l, lis.Addr().String()
}

// stalledConn reads nothing more once it is stalled.
type stalledConn struct {
	net.Conn
	stalled *atomic.Bool
	gone    <-chan struct{}
}

func (c stalledConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 64)])
	if c.stalled.Load() {
		<-c.gone
		return 0, net.ErrClosed
	}
	return n, err
}

func dialAnswers(t *testing.T, addr string, stalled *atomic.Bool) testpb.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", a)
			if stalled == nil || err != nil {
				return c, err
			}
			return stalledConn{c, stalled, t.Context().Done()}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return testpb.NewTestServiceClient(conn)
}

// awaitUsed waits until the budget's bytes are as they should be.
func awaitUsed(t *testing.T, b *budget.Bytes, what string, ok func(int64) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(b.Used()); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d bytes are held", what, b.Used())
		}
		time.Sleep(time.Millisecond)
	}
}

func none(used int64) bool { return used == 0 }

// An answer counts until it is on the wire, and what was read counts no more.
func TestAnswersCountUntilTheyAreSent(t *testing.T) {
	t.Parallel()
	b := budget.NewBytes(32<<20, 16<<20, 10*time.Second, new(budget.Counters))
	_, addr := serveAnswers(t, b, time.Minute, nil)
	client := dialAnswers(t, addr, nil)
	var wg sync.WaitGroup
	for range 4 { // together far over the share: they wait for each other
		wg.Go(func() {
			resp, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseSize: 3 << 20})
			if err != nil || len(resp.GetPayload().GetBody()) != 3<<20 {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	awaitUsed(t, b, "all was read", none)
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseSize: 100}); err != nil {
		t.Error(err)
	}
	awaitUsed(t, b, "a small one", none)
}

// A caller that doesn't read its answers holds its share at most, and that not for long.
func TestCallerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	b := budget.NewBytes(32<<20, 16<<20, 50*time.Millisecond, new(budget.Counters))
	_, addr := serveAnswers(t, b, time.Minute, nil)
	var stalled atomic.Bool
	client := dialAnswers(t, addr, &stalled)
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil { // it is connected
		t.Fatal(err)
	}
	stalled.Store(true)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 8 {
		wg.Go(func() { _, _ = client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 6 << 20}) })
	}
	awaitUsed(t, b, "it reads nothing", func(n int64) bool { return n >= 6<<20 && n <= 16<<20 })
	if err := b.Take(t.Context(), "10.1.1.1", 12<<20); err != nil {
		t.Errorf("another principal: %v", err)
	} else {
		b.Give("10.1.1.1", 12<<20)
	}
	cancel() // the streams are reset
	wg.Wait()
	awaitUsed(t, b, "its calls were cancelled", none)
}

// A connection that takes no answer is closed, and the answer counts no more.
func TestAnswerThatIsNotReadInTime(t *testing.T) {
	t.Parallel()
	counters := new(budget.Counters)
	b := budget.NewBytes(32<<20, 16<<20, time.Second, counters)
	x, addr := serveAnswers(t, b, 100*time.Millisecond, counters)
	var stalled atomic.Bool
	client := dialAnswers(t, addr, &stalled)
	if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	stalled.Store(true)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wg.Go(func() { _, _ = client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 6 << 20}) })
	awaitUsed(t, b, "it was closed as one that reads nothing", func(n int64) bool {
		return n == 0 && x.Open() == 0 && counters.Count(budget.SlowReaders) == 1
	})
	cancel()
}

// largeEvents sends events whose payload is as long as the sequence says, for each of which it
// reserves.
type largeEvents struct {
	pb.UnimplementedEventStreamServer
}

func (largeEvents) Subscribe(req *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse]) error {
	for {
		if err := budget.Reserve(stream.Context(), 2*int64(req.FromSequence)); err != nil {
			return mtls.OverBudget(err)
		}
		if err := stream.Send(&pb.SubscribeResponse{Events: []*pb.Event{{Payload: make([]byte,
			req.FromSequence)}}}); err != nil {
			return err
		}
	}
}

// Large messages of streams count as answers do, of all streams together; who gets no place is told
// so.
func TestMessagesOfStreamsCount(t *testing.T) {
	t.Parallel()
	counters := new(budget.Counters)
	b := budget.NewBytes(32<<20, 16<<20, 50*time.Millisecond, counters)
	x, addr := serveAnswers(t, b, time.Minute, nil)
	conn, err := grpc.NewClient("passthrough:///"+addr, transport.DialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	subscribe := func() grpc.ServerStreamingClient[pb.SubscribeResponse] {
		t.Helper()
		stream, err := pb.NewEventStreamClient(conn).Subscribe(ctx, &pb.SubscribeRequest{Zone: 1, FromSequence: 2 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	first := subscribe()
	for range 20 { // far more than the share, one after the other
		if m, err := first.Recv(); err != nil || len(m.Events[0].Payload) != 2<<20 {
			t.Fatalf("a stream that is read: %v", err)
		}
	}
	for range 16 { // nobody reads them
		subscribe()
	}
	awaitUsed(t, b, "nobody reads", func(n int64) bool { return n > 8<<20 && n <= 16<<20 })
	awaitUsed(t, b, "some are refused", func(int64) bool { return counters.Count(budget.AnswerBytesOfPrincipal) > 0 })
	cancel()
	awaitUsed(t, b, "the streams have ended", none)
	if n := x.AnswersLeft(); n != 0 {
		t.Errorf("%d answers are left", n)
	}
}

// CacheableUnaryCall answers as a write does, which is done by then, with a large previous value:
// it has reserved nothing.
func (largeAnswers) CacheableUnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, 1<<20)}}, nil
}

// The answer to a write that is done is not refused for its bytes: that would say that nothing was
// written.
func TestAnswersToWritesAreNotRefused(t *testing.T) {
	t.Parallel()
	_, addr := serveAnswers(t, budget.NewBytes(1, 1, time.Millisecond, new(budget.Counters)), time.Minute, nil)
	if _, err := dialAnswers(t, addr, nil).CacheableUnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Errorf("got %v", err)
	}
}
