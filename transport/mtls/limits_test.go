package mtls

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// rawClient speaks HTTP/2 by hand without TLS.
type rawClient struct {
	net.Conn
	framer *http2.Framer
	closed chan struct{}
}

// dialRaw connects. A server that has no place closes the connection, perhaps before the first
// write: closed tells.
func dialRaw(t *testing.T, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{Conn: conn, framer: http2.NewFramer(conn, conn), closed: make(chan struct{})}
	go func() {
		defer close(c.closed)
		io.Copy(io.Discard, conn)
	}()
	if _, err := io.WriteString(conn, http2.ClientPreface); err == nil {
		_ = c.framer.WriteSettings()
	}
	return c
}

// begin opens a call, and sends so much of a message of 7 MiB.
func (c *rawClient) begin(stream uint32, method string, sent int) error {
	head := make([]byte, 5, 5+sent)
	binary.BigEndian.PutUint32(head[1:], 7<<20)
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: block(method),
		EndHeaders: true,
	}); err != nil {
		return err
	}
	return c.framer.WriteData(stream, false, head[:5+sent])
}

func block(method string) []byte {
	var w bytesBuffer
	e := hpack.NewEncoder(&w)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", method},
		{":authority", "x"},
		{"content-type", "application/grpc"},
	} {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return w
}

type bytesBuffer []byte

func (b *bytesBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// Requests that do not become whole end: by their bytes at once, and all that they took is given
// back.
func TestUnfinishedRequestsEnd(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	limits.clients.requests = budget.NewLimit(1<<20, 1<<20)
	addr := serve(t, limits, nil, services{})
	c := dialRaw(t, addr)
	for i := range 400 {
		if err := c.begin(uint32(2*i+1), pb.Zones_Propose_FullMethodName, 8<<10); err != nil {
			break
		}
	}
	eventually(t, "too many bytes are noticed",
		func() bool { return limits.counters.Count(budget.RequestBytesOverall) > 0 })
	if now := limits.clients.requests.Now(); now > 1<<20 {
		t.Errorf("%d bytes are held, want at most 1 MiB", now)
	}
	c.Close()
	eventually(t, "all is given back", func() bool {
		return limits.clients.requests.Now() == 0 && limits.nodes.calls.Now() == 0 && limits.nodes.headers.Now() == 0 &&
			limits.openOf(kindPlain)+limits.openOf(kindNode) == 0
	})
}

// Requests that are not whole are counted, but for a full node's that is believed.
func TestWhoseUnfinishedRequestsCount(t *testing.T) {
	const sent = 64 << 10
	for _, tc := range []struct {
		name string
		info authInfo
		want int64
	}{
		{"a full node", authInfo{caller: Caller{Node: 7, Role: nexusraft.RoleMember}}, 0},
		{"a witness", authInfo{caller: Caller{Node: 7, Role: nexusraft.RoleWitness}}, sent},
		{"a node without a role", authInfo{caller: Caller{Node: 7}}, sent},
		{"a removed node", authInfo{caller: Caller{Node: 7, Role: nexusraft.RoleMember}, why: io.EOF}, sent},
		{"a client", authInfo{caller: Caller{Client: "ann"}}, sent},
	} {
		limits := NewLimits(LimitOptions{})
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		c := limits.accept(here)
		if _, err := limits.settled(here, c, tc.info); err != nil {
			t.Fatal(err)
		}
		c.reads(&call{c: c}, false)
		c.received(sent)
		if got := limits.clients.requests.Now() + limits.nodes.requests.Now(); got != tc.want {
			t.Errorf("%s: %d bytes are counted, want %d", tc.name, got, tc.want)
		}
	}
}

// Requests of clients that are not whole take no room from a node's, one that is not trusted with
// more: a witness, or a member whose certificate does not say what it is.
func TestUnfinishedRequestsOfClientsTakeNoRoomOfNodes(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	for _, client := range []string{"ann", "bob"} {
		if !limits.clients.requests.Enter(ClientPrincipal(client), budget.RequestBytesOfCaller) {
			t.Fatalf("%s has no room", client)
		}
	}
	here, there := net.Pipe()
	defer there.Close()
	c := limits.accept(here)
	if _, err := limits.settled(here, c, authInfo{caller: Caller{Node: 7}}); err != nil {
		t.Fatal(err)
	}
	var why error
	c.reads(&call{c: c, cancel: func(err error) { why = err }}, false)
	if c.received(64 << 10); why != nil {
		t.Errorf("a node's request has ended: %v", why)
	}
}

// Where requests are read that have all the time, what counts is given back little by little, and with the last one
// at once.
func TestBytesOfListenersLeak(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	here, there := net.Pipe()
	defer there.Close()
	c := limits.accept(here)
	if _, err := limits.settled(here, c, authInfo{caller: Caller{Client: "ann"}}); err != nil {
		t.Fatal(err)
	}
	watch, put := &call{c: c}, &call{c: c}
	c.reads(watch, true)
	c.received(64 << 20)
	c.reads(put, false)
	c.hasRead(put, 0)
	if now := limits.clients.requests.Now(); now < 63<<20 {
		t.Errorf("%d bytes count, want all of them", now)
	}
	c.bytesMu.Lock()
	c.leak(c.leaked.Add(leakTime / 4))
	c.bytesMu.Unlock()
	if now := limits.clients.requests.Now(); now > 32<<20 || now < 31<<20 {
		t.Errorf("%d bytes count after a while, want about half", now)
	}
	c.hasRead(watch, 0)
	if now := limits.clients.requests.Now(); now != 0 || c.patient != 0 {
		t.Errorf("%d bytes count, though nothing is read", now)
	}
}

// An anonymous caller's connection that asks nothing for long is closed when somebody comes.
func TestIdleStrangersAreClosed(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	come := func() *connection {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		c := limits.accept(here)
		if err := limits.settle(c, kindAnonymous, c.address); err != nil {
			t.Fatal(err)
		}
		return c
	}
	limits.sweeps.SetLimit(rate.Inf)
	idle, busy := come(), come()
	limits.mu.Lock()
	long := time.Now().Add(-budget.IdleTimeout - time.Second)
	idle.idle, busy.idle, busy.calls = long, long, 1
	limits.mu.Unlock()
	come()
	if n := limits.openOf(kindAnonymous); n != 2 || limits.counters.Count(budget.IdleConnections) != 1 {
		t.Errorf("%d are anonymous, %d closed for idleness; want 2 and 1", n, limits.counters.Count(budget.IdleConnections))
	}
	<-idle.gone
}

// A connection without a call gives way to one that asks, and one address can't take what is kept
// for others.
func TestIdleConnectionsGiveWay(t *testing.T) {
	limits := NewLimits(LimitOptions{Connections: 32})
	addr := serve(t, limits, nil, services{})
	var closed atomic.Int64
	all := 3 * limits.places.Callers
	for range all {
		c := dialRaw(t, addr)
		go func() {
			<-c.closed
			closed.Add(1)
		}()
	}
	eventually(t, "the idle ones gave way", func() bool {
		open := limits.openOf(kindPlain)
		return open > 0 && open <= limits.places.CallersOfAddress && int(closed.Load())+open == all
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := vote(ctx, dialPlain(t, addr)); err != nil {
		t.Errorf("one that asks: got %v, want an answer", err)
	}
}

// Handshakes that do not end take no place from new ones.
func TestHandshakesGiveWay(t *testing.T) {
	ca := testCA(t)
	limits := NewLimits(LimitOptions{Connections: 64})
	addr := serve(t, limits, testTLS(testCertificates(t, ca, subject(nodeA))), services{})
	for range 10 * limits.places.Handshakes {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	node := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	if err := vote(t.Context(), node); err != nil {
		t.Errorf("a node: got %v, want none", err)
	}
	if limits.openOf(kindHandshake) > limits.places.Handshakes {
		t.Errorf("%d handshakes, want at most %d", limits.openOf(kindHandshake), limits.places.Handshakes)
	}
	if limits.counters.Count(budget.Handshakes) == 0 {
		t.Error("no handshake that gave way was counted")
	}
}

// One address can't take all calls: others have theirs.
func TestCallsOfAnAddressAreBounded(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	limits.clients.calls = budget.NewLimit(2, 10)
	addr := serve(t, limits, nil, services{})
	c := dialRaw(t, addr)
	for i := range 5 {
		if err := c.begin(uint32(2*i+1), pb.Cluster_Status_FullMethodName, 0); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the excess is refused", func() bool { return limits.counters.Count(budget.StreamsOfCaller) == 3 })
	if now := limits.clients.calls.Now(); now != 2 {
		t.Errorf("%d calls have places, want 2", now)
	}
}

// However many calls clients make, nodes have places for theirs: a zone whose members are refused
// can elect nobody.
func TestCallsOfClientsTakeNoPlaceOfNodes(t *testing.T) {
	ca := testCA(t)
	limits := NewLimits(LimitOptions{})
	limits.clients.calls, limits.clients.headers = budget.NewLimit(2, 2), budget.NewLimit(4<<10, 4<<10)
	addr := serve(t, limits, testTLS(testCertificates(t, ca, subject(nodeA))), services{},
		GuardOptions()...)
	dial := func(s pki.Subject) *grpc.ClientConn {
		return dialWith(t, addr, testTLS(testCertificates(t, ca, s)).ClientCredentials(nodeA))
	}
	client := dial(pki.Subject{Cluster: testCluster, Client: "ann"})
	for range 2 {
		if err := watchHealth(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	if err := watchHealth(t.Context(), client); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("one more call of a client: got %v, want ResourceExhausted", err)
	}
	if err := vote(t.Context(), dial(subject(nodeB))); err != nil {
		t.Errorf("a node asks for a vote: got %v, want none", err)
	}
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:1": "127.0.0.1", "[::ffff:10.0.0.1]:5": "10.0.0.1", "[2001:db8:1:2:3::9]:7": "2001:db8:1:2::/64",
		"[fe80::1%lo]:2": "fe80::/64",
	} {
		if got := addressKey(fakeAddr(in)); got != want {
			t.Errorf("addressKey(%s) = %s, want %s", in, got, want)
		}
	}
}

type fakeAddr string

func (a fakeAddr) Network() string { return "tcp" }
func (a fakeAddr) String() string  { return fmt.Sprint(string(a)) }

// The places of nodes are kept for them and are no limit: a zone may have more replicas than that.
// One node has no more than its share.
func TestConnectionsOfManyNodes(t *testing.T) {
	limits := NewLimits(LimitOptions{Connections: 64})
	take := func(node nexusraft.NodeID) error {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		c := limits.accept(here)
		conn, err := limits.settled(here, c, authInfo{caller: Caller{Node: node}})
		if err != nil {
			c.leave()
			return err
		}
		t.Cleanup(func() { conn.Close() })
		limits.mu.Lock()
		c.calls = 1 // its stream
		limits.mu.Unlock()
		return nil
	}
	for node := range nexusraft.NodeID(limits.places.Nodes) {
		for range 2 { // of control and of bulk
			if err := take(node + 1); err != nil {
				t.Fatalf("node %d of %d places: %v", node+1, limits.places.Nodes, err)
			}
		}
	}
	refused := 0
	for range limits.places.Nodes {
		if take(1) != nil {
			refused++
		}
	}
	if want := limits.places.Nodes/2 + 1; refused < want {
		t.Errorf("%d more connections of one node were refused, want at least %d", refused, want)
	}
}

// A client whose name may do nothing any more is an anonymous caller, with its idle connections,
// too; and one principal has no more than its share.
func TestConnectionsOfPrincipals(t *testing.T) {
	var revoked atomic.Bool
	limits := NewLimits(LimitOptions{Connections: 64, Known: func(string) bool { return !revoked.Load() }})
	limits.sweeps.SetLimit(rate.Inf)
	take := func(key string, calls int) (*connection, error) {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		c := limits.accept(here)
		c.caller = Caller{Client: key}
		if err := limits.settle(c, kindClient, ClientPrincipal(key)); err != nil {
			c.leave()
			return nil, err
		}
		limits.mu.Lock()
		c.calls = calls
		limits.mu.Unlock()
		return c, nil
	}
	for i := range limits.places.CallersOfPrincipal {
		if _, err := take("ann", 1); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := take("ann", 1); err == nil {
		t.Error("one principal got more than its share, all of it in use")
	}
	bob, err := take("bob", 0)
	if err != nil {
		t.Fatalf("another principal: %v", err)
	}
	revoked.Store(true)
	if _, err := take("carl", 0); err != nil {
		t.Fatal(err)
	}
	if limits.openOf(kindClient) != 1 || !bob.anonymous.Load() {
		t.Errorf("%d clients, and bob anonymous: %t; want carl alone until the next look", limits.openOf(kindClient),
			bob.anonymous.Load())
	}
}

// An anonymous caller that sends much is read slowly, and that ends with its connection.
func TestStrangersAreReadSlowly(t *testing.T) {
	limits := NewLimits(LimitOptions{})
	here, there := net.Pipe()
	defer there.Close()
	c := limits.accept(here)
	if err := limits.settle(c, kindAnonymous, c.address); err != nil {
		t.Fatal(err)
	}
	if !c.pace(budget.AnonymousBurstBytes) {
		t.Error("the first bytes of an anonymous caller were held up")
	}
	ended := make(chan bool)
	go func() { ended <- c.pace(budget.AnonymousBurstBytes) }()
	c.leave()
	if <-ended {
		t.Error("an anonymous caller that sends too much was not slowed down")
	}
}
