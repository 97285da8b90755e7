package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
)

// electionTimeout is what PeersOptions has by default, and patience how much longer than
// promised anything may take before a test fails: a machine of tests is slow and shared.
const (
	electionTimeout = 300 * time.Millisecond
	patience        = 4
)

// proxyTo returns a proxy to a server, closed at the test's end.
func proxyTo(t *testing.T, addr string) *netfault.Proxy {
	t.Helper()
	p, err := netfault.New(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// mark is what a test's message says of itself.
type mark struct {
	zone  nexusraft.ZoneID
	class Class
	seq   uint64 // from 1, within zone and class
	turn  uint64 // among all that is sent
}

func (m mark) message() Message {
	data := binary.BigEndian.AppendUint64([]byte{byte(m.class)}, m.seq)
	return Message{Zone: m.zone, Data: binary.BigEndian.AppendUint64(data, m.turn)}
}

func markOf(zone nexusraft.ZoneID, data []byte) mark {
	return mark{
		zone: zone, class: Class(data[0]), seq: binary.BigEndian.Uint64(data[1:]),
		turn: binary.BigEndian.Uint64(data[9:]),
	}
}

// lane is where order is kept.
type lane struct {
	zone  nexusraft.ZoneID
	class Class
}

// audit checks what arrives: in each stream on the wire the order of each zone and class,
// and at the handler that nothing comes twice.
type audit struct {
	t *testing.T

	again  bool // a message may come again, in another stream
	strict bool // order holds across streams, since none breaks

	mu        sync.Mutex
	seen      map[mark]bool
	last      map[lane]uint64 // at the handler
	repeated  int             // messages that came again
	latest    uint64          // turn
	overtaken int             // messages that came after a later one
	onWire    int
	streams   int
}

func (a *audit) receive(_ nexusraft.NodeID, msgs []Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range msgs {
		x := markOf(m.Zone, m.Data)
		if a.seen[x] {
			a.repeated++
		}
		if a.seen[x] && !a.again {
			a.t.Errorf("message %+v was delivered twice", x)
		}
		a.seen[x] = true
		at := lane{zone: x.zone, class: x.class}
		if a.strict && x.seq <= a.last[at] {
			a.t.Errorf("message %+v came after %d of its zone and class", x, a.last[at])
		}
		a.last[at] = x.seq
		if x.turn < a.latest {
			a.overtaken++
		}
		a.latest = max(a.latest, x.turn)
	}
}

// repeats returns how many messages came again.
func (a *audit) repeats() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.repeated
}

// has reports whether a message has arrived.
func (a *audit) has(x mark) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[x]
}

func (a *audit) received() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

// watch is a grpc.StreamServerInterceptor.
func (a *audit) watch(
	srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	if info.FullMethod != pb.RaftTransport_Exchange_FullMethodName {
		return handler(srv, stream)
	}
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	return handler(srv, &auditedStream{ServerStream: stream, a: a, last: make(map[lane]uint64)})
}

// auditedStream is one Exchange stream.
type auditedStream struct {
	grpc.ServerStream
	a    *audit
	last map[lane]uint64
}

func (s *auditedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil {
		return err
	}
	var req pb.ExchangeRequest // whatever the server reads it as, that is what it is
	if err := proto.Unmarshal(marshal(m.(proto.Message)), &req); err != nil {
		s.a.t.Errorf("read what came: %v", err)
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	for _, e := range req.GetFrame().GetMessages() {
		x := markOf(nexusraft.ZoneID(e.GetZone()), e.GetMessage())
		at := lane{zone: x.zone, class: x.class}
		if x.seq <= s.last[at] {
			s.a.t.Errorf("message %+v came after %d of its zone and class in one stream", x, s.last[at])
		}
		s.last[at] = x.seq
		s.a.onWire++
	}
	return nil
}

// serveAudited runs node B's server, each stream of which is audited.
func serveAudited(t *testing.T) (addr string, a *audit) {
	t.Helper()
	a = &audit{t: t, seen: make(map[mark]bool), last: make(map[lane]uint64)}
	f := &fakeNode{receive: a.receive}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(ServerOptions(), grpc.ChainStreamInterceptor(a.watch))...)
	NewServer(as(identityB), f.handlers()).Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String(), a
}

// traffic sends marks of several zones and both classes, and knows how many.
type traffic struct {
	p    *Peers
	seqs map[lane]uint64
	sent int
	pad  int // bytes that each message has besides
}

// next sends one message, and returns what it says.
func (s *traffic) next(r *rand.Rand) mark {
	at := lane{zone: nexusraft.ZoneID(1 + r.IntN(3)), class: Class(r.IntN(2))}
	s.seqs[at]++
	s.sent++
	x := mark{zone: at.zone, class: at.class, seq: s.seqs[at], turn: uint64(s.sent)}
	m := x.message()
	m.Data = append(m.Data, make([]byte, s.pad)...)
	s.p.Send(nodeB, x.class, m)
	return x
}

// until sends messages until one of them has arrived, and returns when that was.
func (s *traffic) until(t *testing.T, r *rand.Rand, a *audit) time.Time {
	t.Helper()
	begun := a.received()
	eventually(t, "a message arrives", func() bool {
		s.next(r)
		return a.received() > begun
	})
	return time.Now()
}

// TestCutsWhileMessagesFlow breaks the connection again and again, each time at another
// moment of the traffic.
func TestCutsWhileMessagesFlow(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	path := proxyTo(t, addr)
	var reports atomic.Int64
	p := peersOf(t, identityA, PeersOptions{
		Dialer:        path.Dial,
		OnUnreachable: func(nexusraft.NodeID) { reports.Add(1) },
	})
	connect(t, p, "b:1")
	r := rand.New(rand.NewPCG(5, 1))
	s := &traffic{p: p, seqs: make(map[lane]uint64)}
	for round := range 40 {
		reported := reports.Load()
		for range r.IntN(300) {
			s.next(r)
		}
		path.Cut()
		for range r.IntN(300) {
			s.next(r)
		}
		eventually(t, "the break is noticed", func() bool { return reports.Load() > reported })
		s.until(t, r, a)
		eventually(t, "all is sent or dropped", func() bool { return statsOfB(t, p).Queued == 0 })
		if received := a.received(); received > s.sent { // what came late is of the rounds before
			t.Fatalf("round %d: %d messages were sent so far, %d received", round, s.sent, received)
		}
	}
	p.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams < 40 || len(a.seen) == 0 || len(a.seen) > a.onWire {
		t.Errorf("%d streams, %d messages received, %d on the wire: want more than 40 streams, and no more received than "+
			"came", a.streams, len(a.seen), a.onWire)
	}
	t.Logf("sent %d, received %d, in %d streams", s.sent, len(a.seen), a.streams)
}

// TestDuplicatedConnections has all that was said on the connections of now said once more on
// new ones, as if a network could do that. The copies speak for the same life of the node: the
// streams they open replace its own, which come back.
func TestDuplicatedConnections(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	a.again = true
	path := proxyTo(t, addr)
	path.Keep()
	p := peersOf(t, identityA, PeersOptions{Dialer: path.Dial})
	connect(t, p, "b:1")
	r := rand.New(rand.NewPCG(5, 6))
	s := &traffic{p: p, seqs: make(map[lane]uint64)}
	for range 5 {
		for range 100 {
			s.next(r)
		}
		s.until(t, r, a)
		repeats, repeated := a.repeats(), time.Now()
		if err := path.Repeat(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is said again", func() bool { return a.repeats() > repeats })
		s.until(t, r, a)
		within(t, "traffic flows", repeated, 2*electionTimeout)
	}
}

// TestReorderedBetweenStreams delays some connections of a peer and not the others, so that
// its streams overtake each other. Within zone and class nothing does.
func TestReorderedBetweenStreams(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	a.strict = true
	paths := []*netfault.Proxy{proxyTo(t, addr), proxyTo(t, addr)}
	paths[0].Delay(50 * time.Millisecond)
	var dials atomic.Int64
	p := peersOf(t, identityA, PeersOptions{
		VoteTimeout: callsTimeout,
		Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			return paths[int(dials.Add(1))%len(paths)].Dial(ctx, addr)
		},
	})
	connect(t, p, "b:1")
	r := rand.New(rand.NewPCG(5, 7))
	s := &traffic{p: p, seqs: make(map[lane]uint64)}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 500 {
		s.next(r)
		<-tick.C
	}
	eventually(t, "everything has arrived", func() bool { return a.received() == s.sent })
	if dials.Load() > 1 && a.overtaken == 0 {
		t.Error("no stream has overtaken another: this tests nothing")
	}
	t.Logf("%d connections, %d messages were overtaken", dials.Load(), a.overtaken)
}

// TestEveryMessageIsSentOrDropped checks that no message disappears from the books when the
// path breaks while the queue is full, and some are under way.
func TestEveryMessageIsSentOrDropped(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	path := proxyTo(t, addr)
	p := peersOf(t, identityA, PeersOptions{Dialer: path.Dial, QueueMessages: 64})
	connect(t, p, "b:1")
	r := rand.New(rand.NewPCG(5, 2))
	s := &traffic{p: p, seqs: make(map[lane]uint64), pad: 32 << 10}
	for range 5 {
		path.Stall(netfault.Both)
		for range 500 {
			s.next(r)
		}
		path.Cut()
		path.Heal()
		s.until(t, r, a)
	}
	eventually(t, "the books agree", func() bool {
		st := statsOfB(t, p)
		return st.Queued == 0 && st.Sent+st.Dropped == uint64(s.sent)
	})
	if st := statsOfB(t, p); uint64(a.received()) > st.Sent {
		t.Errorf("%d messages arrived, but %d were sent", a.received(), st.Sent)
	}
}

// TestHalfOpenStreamIsDropped has connections lose what is sent in a way, and tell nobody,
// as after the peer's power has failed. New connections work.
func TestHalfOpenStreamIsDropped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		way  netfault.Way
	}{{"nothing arrives", netfault.Up}, {"nothing comes back", netfault.Down}, {"both", netfault.Both}} {
		t.Run(tt.name, func(t *testing.T) {
			addr, a := serveAudited(t)
			path := proxyTo(t, addr)
			unreachable := make(chan struct{}, 1)
			p := peersOf(t, identityA, PeersOptions{
				Dialer:        path.Dial,
				OnUnreachable: func(nexusraft.NodeID) { signal(unreachable) },
			})
			connect(t, p, "b:1")
			r := rand.New(rand.NewPCG(5, 3))
			s := &traffic{p: p, seqs: make(map[lane]uint64)}
			s.until(t, r, a)

			path.Lose(tt.way)
			lost := time.Now()
			await(t, "the report", unreachable)
			// the silence, and what a ping may be away from its turn
			within(t, "the stream was dropped", lost, 3*electionTimeout/2)
			eventually(t, "B is connected again", func() bool { return path.Made() > 1 && statsOfB(t, p).Connected })
			s.until(t, r, a)
			within(t, "traffic flows", lost, 2*electionTimeout)
		})
	}
}

// within fails the test if it is far longer since begun than promised.
func within(t *testing.T, what string, begun time.Time, promised time.Duration) {
	t.Helper()
	took := time.Since(begun)
	if took > patience*promised {
		t.Errorf("%s after %v, promised are %v; the test fails at %d times that", what, took, promised, patience)
	}
	t.Logf("%s after %v", what, took)
}

// TestTrafficFlowsAfterHealing interrupts the path, dials included, and measures how soon
// after its healing a message arrives. No round may be far slower than promised, and the best
// keeps the promise itself: what a busy machine does to one, it doesn't do to all.
func TestTrafficFlowsAfterHealing(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	path := proxyTo(t, addr)
	var reports atomic.Int64
	p := peersOf(t, identityA, PeersOptions{Dialer: path.Dial, OnUnreachable: func(nexusraft.NodeID) { reports.Add(1) }})
	connect(t, p, "b:1")
	r := rand.New(rand.NewPCG(5, 4))
	s := &traffic{p: p, seqs: make(map[lane]uint64)}
	best := time.Hour
	for range 3 {
		path.Stall(netfault.Both)
		reported := reports.Load()
		eventually(t, "the outage is noticed", func() bool { return reports.Load() > reported })
		outage := time.NewTimer(time.Duration(500+r.IntN(500)) * time.Millisecond) // its length, some dials long
		select {
		case <-outage.C:
		case <-t.Context().Done():
		}
		path.Heal()
		healed := time.Now()
		best = min(best, s.until(t, r, a).Sub(healed))
		within(t, "traffic flows", healed, 2*electionTimeout)
	}
	if best > 2*electionTimeout {
		t.Errorf("the best of three rounds took %v, promised are %v", best, 2*electionTimeout)
	}
}

// TestShortInterruptionCostsNothing stalls the path for less than a peer may be silent: what
// was sent meanwhile arrives.
func TestShortInterruptionCostsNothing(t *testing.T) {
	addr, a := serveAudited(t)
	path := proxyTo(t, addr)
	p := peersOf(t, identityA, PeersOptions{Dialer: path.Dial, VoteTimeout: 10 * time.Second})
	connect(t, p, "b:1")
	path.Stall(netfault.Both)
	x := mark{zone: 1, class: Append, seq: 1}
	p.Send(nodeB, x.class, x.message())
	eventually(t, "it is under way", func() bool { return statsOfB(t, p).Sent == 1 })
	path.Heal()
	eventually(t, "it arrives", func() bool { return a.has(x) })
	if made := path.Made(); made > 2 { // a connection for each lane at most
		t.Errorf("%d connections were made", made)
	}
}

// TestDelayedPathIsNoDeadOne sends over 150 ms each way. The timeouts fit that, as those of
// nodes far apart have to.
func TestDelayedPathIsNoDeadOne(t *testing.T) {
	t.Parallel()
	addr, a := serveAudited(t)
	path := proxyTo(t, addr)
	path.Delay(150 * time.Millisecond)
	var reports atomic.Int64
	p := peersOf(t, identityA, PeersOptions{
		Dialer:        path.Dial,
		VoteTimeout:   time.Second,
		OnUnreachable: func(nexusraft.NodeID) { reports.Add(1) },
	})
	connect(t, p, "b:1")
	made := path.Made()
	s := &traffic{p: p, seqs: make(map[lane]uint64)}
	r := rand.New(rand.NewPCG(5, 5))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 150 { // longer than a peer may be silent
		s.next(r)
		<-tick.C
	}
	eventually(t, "everything has arrived", func() bool { return a.received() == s.sent })
	if st := statsOfB(t, p); st.Dropped != 0 || reports.Load() != 0 || path.Made() != made {
		t.Errorf("%d messages dropped, %d reports, %d connections made anew: want none", st.Dropped, reports.Load(),
			path.Made()-made)
	}
}

// TestSlowPeerIsNoDeadOne sends more than the path, or the peer, can take at once. What waits
// makes pings late, but is no silence.
func TestSlowPeerIsNoDeadOne(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		rate int           // of the path
		work time.Duration // of the peer's handler, for each call
	}{{"slow path", 2 << 20, 0}, {"slow handler", 0, 50 * time.Millisecond}} {
		t.Run(tt.name, func(t *testing.T) {
			var got atomic.Int64
			addr, _ := serve(t, identityB, &fakeNode{receive: func(_ nexusraft.NodeID, msgs []Message) {
				for _, m := range msgs {
					got.Add(int64(len(m.Data)))
				}
				time.Sleep(tt.work)
			}})
			path := proxyTo(t, addr)
			path.Throttle(tt.rate)
			var reports atomic.Int64
			p := peersOf(t, identityA, PeersOptions{Dialer: path.Dial, OnUnreachable: func(nexusraft.NodeID) { reports.Add(1) }})
			connect(t, p, "b:1")
			made := path.Made()
			const messages, size = 200, 16 << 10
			for range messages {
				p.Send(nodeB, Append, Message{Zone: 1, Data: make([]byte, size)})
			}
			eventually(t, "everything has arrived", func() bool { return got.Load() == messages*size })
			if st := statsOfB(t, p); st.Dropped != 0 || reports.Load() != 0 || path.Made() != made {
				t.Errorf("%d messages dropped, %d reports, %d connections made anew: want none", st.Dropped, reports.Load(),
					path.Made()-made)
			}
		})
	}
}

// TestIdleStreamStays checks that silence alone is no sign of death.
func TestIdleStreamStays(t *testing.T) {
	t.Parallel()
	addr, _ := serveAudited(t)
	path := proxyTo(t, addr)
	unreachable := make(chan struct{}, 1)
	p := peersOf(t, identityA, PeersOptions{
		Dialer:        path.Dial,
		OnUnreachable: func(nexusraft.NodeID) { signal(unreachable) },
	})
	connect(t, p, "b:1")
	made := path.Made()
	select {
	case <-unreachable:
		t.Error("an idle stream was dropped")
	case <-time.After(5 * electionTimeout):
	}
	if path.Made() != made {
		t.Errorf("%d connections were made anew", path.Made()-made)
	}
}

func (m mark) String() string { return fmt.Sprintf("%d of zone %v class %d", m.seq, m.zone, m.class) }
