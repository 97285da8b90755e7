package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// poolOf returns a node's pool, closed at the test's end.
func poolOf(t *testing.T, id Identity, o PoolOptions) *ClientPool {
	t.Helper()
	p := NewClientPool(as(id), o)
	t.Cleanup(p.Close)
	return p
}

// get returns B's client.
func get(t *testing.T, p *ClientPool, endpoint string) *Client {
	t.Helper()
	c, err := p.Get(t.Context(), NodeAddress{ID: nodeB, Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// healthy is a node that answers for its status.
func healthy() *fakeNode {
	return &fakeNode{status: func(context.Context) (nexusraft.NodeStatus, error) {
		return nexusraft.NodeStatus{Healthy: true}, nil
	}}
}

func TestPoolSharesOneConnection(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	var dials atomic.Int32
	gate := make(chan struct{})
	p := poolOf(t, identityA, PoolOptions{
		ConnectTimeout: 10 * time.Second,
		Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			<-gate
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	})
	var wg sync.WaitGroup
	clients := make(chan *Client, 50)
	for range cap(clients) {
		wg.Go(func() {
			c, err := p.Get(t.Context(), NodeAddress{ID: nodeB, Endpoint: addr})
			if err != nil {
				t.Errorf("Get: %v", err)
			}
			clients <- c
		})
	}
	eventually(t, "the attempt", func() bool { return dials.Load() > 0 })
	close(gate)
	wg.Wait()
	first := <-clients
	for range cap(clients) - 1 {
		if c := <-clients; c != first {
			t.Error("two clients of one node")
		}
	}
	if dials.Load() != 1 || p.Len() != 1 || first.conn.GetState() != connectivity.Ready {
		t.Errorf("got %d dials, Len %d, state %v, want one connection", dials.Load(), p.Len(), first.conn.GetState())
	}
}

func TestPoolWaitsForTheNextAttempt(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, identityB, healthy())
	var dials atomic.Int32
	p := poolOf(t, identityA, PoolOptions{Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
		if dials.Add(1) < 4 {
			return nil, errors.New("no route")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}})
	c := get(t, p, addr)
	if got := dials.Load(); got != 4 {
		t.Errorf("got %d attempts, want 4", got)
	}
	if st, err := c.Status(t.Context()); err != nil || !st.Healthy {
		t.Errorf("Status: got %+v, %v", st, err)
	}
}

func TestPoolSaysWhyNot(t *testing.T) {
	p := poolOf(t, identityA, PoolOptions{Dialer: func(context.Context, string) (net.Conn, error) {
		return nil, errNotFaked
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Get(ctx, NodeAddress{ID: nodeB, Endpoint: "b:1"}); !errors.Is(err, ErrUnreachable) ||
		!errors.Is(err, errNotFaked) {
		t.Errorf("got %v, want ErrUnreachable with the reason", err)
	}
	if _, err := p.Get(ctx, NodeAddress{ID: nodeB, Endpoint: "b"}); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want an error that says what an endpoint is", err)
	}
	if _, err := p.Get(ctx, NodeAddress{ID: nodeB, Endpoint: "https://b:1"}); err == nil ||
		errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want an error that asks for credentials", err)
	}
}

func TestPoolMovesANode(t *testing.T) {
	waiting := make(chan struct{})
	f := &fakeNode{vote: func(ctx context.Context, _ nexusraft.NodeID, _ []Vote) ([]VoteResult, error) {
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	old, _ := serve(t, identityB, f)
	now, _ := serve(t, identityB, healthy())
	p := poolOf(t, identityA, PoolOptions{})
	c := get(t, p, old)
	ended := make(chan error, 1)
	go func() {
		_, err := c.RequestVote(t.Context(), []Vote{{Zone: 1}})
		ended <- err
	}()
	await(t, "the call", waiting)
	moved := get(t, p, now)
	if err := await(t, "the end of the call", ended); !errors.Is(err, ErrUnreachable) || !errors.Is(err, errMoved) {
		t.Errorf("the call at the old address: got %v, want ErrUnreachable", err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a new call at the old address: got %v, want ErrUnreachable", err)
	}
	if _, err := moved.Status(t.Context()); err != nil || p.Len() != 1 {
		t.Errorf("at the new address: got %v, Len %d", err, p.Len())
	}
}

func TestPoolDropsIdleConnections(t *testing.T) {
	var got inbox
	f := healthy()
	f.receive = got.receive
	addr, _ := serve(t, identityB, f)
	p := poolOf(t, identityA, PoolOptions{IdleTimeout: 50 * time.Millisecond, SilenceTimeout: 10 * time.Second})
	c := get(t, p, addr)
	s, err := c.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond) // three times what idle is
	if p.Len() != 1 {
		t.Error("a connection with an open stream was dropped")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is dropped", func() bool { return p.Len() == 0 })
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestPoolCloses(t *testing.T) {
	waiting := make(chan struct{})
	addr, _ := serve(t, identityB, &fakeNode{propose: func(ctx context.Context, _ Proposal) (nexusraft.Result, error) {
		close(waiting)
		<-ctx.Done()
		return nexusraft.Result{}, ctx.Err()
	}})
	p := NewClientPool(as(identityA), PoolOptions{})
	c := get(t, p, addr)
	s, err := c.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Propose(t.Context(), Proposal{Zone: 1})
		ended <- err
	}()
	await(t, "the call", waiting)
	p.Close()
	p.Close()
	if err := await(t, "the call ends", ended); !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("Propose: got %v, want ErrUncertain", err)
	}
	await(t, "the stream ends", s.Done())
	if err := s.Send([]Message{{Zone: 1}}); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Send: got %v, want ErrClosed", err)
	}
	if _, err := p.Get(t.Context(), NodeAddress{ID: nodeB, Endpoint: addr}); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Get: got %v, want ErrClosed", err)
	}
	if _, err := c.Exchange(t.Context()); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Exchange: got %v, want ErrClosed", err)
	}
}

func TestPoolRemove(t *testing.T) {
	addr, _ := serve(t, identityB, healthy())
	p := poolOf(t, identityA, PoolOptions{})
	c := get(t, p, addr)
	p.Remove(NodeAddress{ID: nodeB})
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrUnreachable) || p.Len() != 0 || len(p.clients) != 0 {
		t.Errorf("got %v, Len %d, %+v, want ErrUnreachable and no client", err, p.Len(), p.clients)
	}
	get(t, p, addr)
}

func TestStreamKeepsOrderAndCloses(t *testing.T) { synctest.Test(t, keepsOrderAndCloses) }

func keepsOrderAndCloses(t *testing.T) {
	var got inbox
	left := make(chan nexusraft.NodeID, 1)
	dial := serveInMemory(t, &fakeNode{receive: got.receive, leaving: func(n nexusraft.NodeID) { left <- n }})
	c := get(t, poolOf(t, identityA, PoolOptions{Dialer: dial}), "b:1")
	s, err := c.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send([]Message{{Data: make([]byte, maxMessageBytes+1)}}); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	many := make([]Message, 3*maxFrameMessages)
	for i := range many {
		many[i] = Message{Zone: 1, Data: []byte("many")}
	}
	many[len(many)-1].Data = []byte("last")
	if err := s.Send(many); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := await(t, "the good-bye", left); n != nodeA || !got.has("last") {
		t.Errorf("node %v has left, the last message has come: %t", n, got.has("last"))
	}
}

func TestInterceptorsSeeCalls(t *testing.T) {
	var unary, streams atomic.Int32
	addr, _ := serve(t, identityB, healthy())
	p := poolOf(t, identityA, PoolOptions{
		UnaryInterceptors: []grpc.UnaryClientInterceptor{func(ctx context.Context, method string, req, reply any,
			cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			unary.Add(1)
			return invoke(ctx, method, req, reply, cc, opts...)
		}},
		StreamInterceptors: []grpc.StreamClientInterceptor{func(ctx context.Context, desc *grpc.StreamDesc,
			cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			streams.Add(1)
			return stream(ctx, desc, cc, method, opts...)
		}},
	})
	c := get(t, p, addr)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context()); err != nil {
		t.Fatal(err)
	}
	if unary.Load() != 1 || streams.Load() != 1 {
		t.Errorf("got %d calls and %d streams, want one of each", unary.Load(), streams.Load())
	}
}

// A proxy that the environment names is for browsers: nodes dial each other themselves.
func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	addr, _ := serve(t, identityB, healthy())
	dialed := make(chan string, 100)
	p := poolOf(t, identityA, PoolOptions{Dialer: func(ctx context.Context, to string) (net.Conn, error) {
		dialed <- to
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}})
	get(t, p, "b.example:2026")
	if to := await(t, "a dial", dialed); to != "b.example:2026" {
		t.Errorf("dialed %s, want the node itself", to)
	}
}

// TestBeforeCall: it comes once a connection stands, before the peer hears anything, and its error
// ends the call; what says nothing of this node needs none.
func TestBeforeCall(t *testing.T) {
	var stands, fails atomic.Bool
	var before, heard atomic.Int32
	f := healthy()
	f.hello = func(Identity) error { heard.Add(1); return nil }
	f.vote = func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) { return nil, nil }
	addr, _ := serve(t, identityB, f)
	p := poolOf(t, identityA, PoolOptions{
		Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			if !stands.Load() {
				return nil, errors.New("no route")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		BeforeCall: func() error {
			before.Add(1)
			if fails.Load() {
				return errors.New("the disk is broken")
			}
			return nil
		},
	})
	calls := []func(*Client) error{
		func(c *Client) error { _, err := c.RequestVote(t.Context(), []Vote{{Zone: 1}}); return err },
		func(c *Client) error { _, err := c.Exchange(t.Context()); return err },
	}
	none, end, err := p.spare(NodeAddress{ID: nodeB, Endpoint: addr})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for _, call := range calls[:1] {
		if err := call(none); err == nil || before.Load() != 0 {
			t.Errorf("without a connection: %v, after %d times", err, before.Load())
		}
	}
	stands.Store(true)
	c := get(t, p, addr)
	fails.Store(true)
	if _, err := c.Status(t.Context()); err != nil || before.Load() != 0 {
		t.Errorf("status: %v, after %d times", err, before.Load())
	}
	for i, call := range calls {
		if err := call(c); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "the disk is broken") ||
			heard.Load() != 0 {
			t.Errorf("call %d that may not be made: %v, and the peer heard %d handshakes", i, err, heard.Load())
		}
	}
	fails.Store(false)
	for i, call := range calls {
		was := before.Load()
		if err := call(c); err != nil || heard.Load() != int32(i+1) || before.Load() == was {
			t.Errorf("call %d: %v, the peer heard %d handshakes", i, err, heard.Load())
		}
	}
}
