package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// inbox collects what a node receives.
type inbox struct {
	mu   sync.Mutex
	msgs []Message
}

func (b *inbox) receive(_ nexusraft.NodeID, msgs []Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs = append(b.msgs, msgs...)
}

func (b *inbox) all() []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.msgs)
}

func (b *inbox) has(data string) bool {
	return slices.ContainsFunc(b.all(), func(m Message) bool { return string(m.Data) == data })
}

func TestExchangeKeepsOrderPerZoneAndClass(t *testing.T) {
	const zones, each = 8, 400
	var got inbox
	addr, _ := serve(t, identityB, &fakeNode{receive: got.receive})
	p := peersOf(t, identityA, PeersOptions{QueueMessages: zones * each})
	connect(t, p, addr)

	var wg sync.WaitGroup
	for zone := range nexusraft.ZoneID(zones) {
		for _, class := range []Class{Control, Append} {
			wg.Go(func() {
				for i := range each {
					data := binary.BigEndian.AppendUint32([]byte{byte(class)}, uint32(i))
					p.Send(nodeB, class, Message{Zone: zone, Data: data})
				}
			})
		}
	}
	wg.Wait()
	eventually(t, "all messages arrived", func() bool { return len(got.all()) == 2*zones*each })

	type key struct {
		zone  nexusraft.ZoneID
		class byte
	}
	next := make(map[key]uint32)
	for _, m := range got.all() {
		k := key{m.Zone, m.Data[0]}
		if n := binary.BigEndian.Uint32(m.Data[1:]); n != next[k] {
			t.Fatalf("zone %v class %d: got message %d, want %d", k.zone, k.class, n, next[k])
		}
		next[k]++
	}
	if st := statsOfB(t, p); st.Sent != 2*zones*each || st.Dropped != 0 || st.Queued != 0 {
		t.Errorf("Stats: got %+v, want %d sent, nothing queued or dropped", st, 2*zones*each)
	}
}

// gatedDialer holds every connection back until the gate is open.
func gatedDialer(gate <-chan struct{}) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		select {
		case <-gate:
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A heartbeat arrives although the other side doesn't get on with the appends that were there
// before it.
func TestControlOvertakesFullAppendQueue(t *testing.T) {
	var got inbox
	beat := make(chan struct{})
	addr, _ := serve(t, identityB, &fakeNode{receive: func(from nexusraft.NodeID, msgs []Message) {
		if msgs[0].Zone == 2 {
			close(beat)
		} else {
			<-beat
		}
		got.receive(from, msgs)
	}})
	gate := make(chan struct{})
	p := peersOf(t, identityA, PeersOptions{QueueMessages: 64, Dialer: gatedDialer(gate)})
	p.SetAddress(nodeB, addr)
	for range 65 { // one more than fits
		p.Send(nodeB, Append, Message{Zone: 1, Data: make([]byte, 10<<10)})
	}
	p.Send(nodeB, Control, Message{Zone: 2, Data: []byte("heartbeat")})
	if st := statsOfB(t, p); st.Queued != 65 || st.Dropped != 1 {
		t.Fatalf("Stats: got %+v, want 65 queued, 1 dropped", st)
	}
	close(gate)
	await(t, "the heartbeat", beat)
	eventually(t, "all messages arrived", func() bool { return len(got.all()) == 65 })
}

func TestFullQueueDropsCountsAndReports(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    PeersOptions
		size int
		fits uint64
	}{
		{"messages", PeersOptions{QueueMessages: 3}, 10, 3},
		{"bytes", PeersOptions{QueueBytes: 100}, 40, 2},
		{"too large for the wire", PeersOptions{}, maxMessageBytes + 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var unreachable atomic.Uint64
			tt.o.OnUnreachable = func(nexusraft.NodeID) { unreachable.Add(1) }
			tt.o.Dialer = gatedDialer(nil)
			p := peersOf(t, identityA, tt.o)
			p.SetAddress(nodeB, "nowhere:1")
			for range 5 {
				p.Send(nodeB, Append, Message{Zone: 1, Data: make([]byte, tt.size)})
			}
			st, want := statsOfB(t, p), 5-tt.fits
			if uint64(st.Queued) != tt.fits || st.Dropped != want || unreachable.Load() != want {
				t.Errorf("got %d queued, %d dropped, %d reports; want %d, %d, %d",
					st.Queued, st.Dropped, unreachable.Load(), tt.fits, want, want)
			}
		})
	}
}

func TestSendToUnknownPeerReports(t *testing.T) {
	reports := make(chan nexusraft.NodeID, 1)
	p := peersOf(t, identityA, PeersOptions{OnUnreachable: func(n nexusraft.NodeID) { reports <- n }})
	p.Send(nodeB, Append, Message{Zone: 1})
	if got := await(t, "the report", reports); got != nodeB {
		t.Errorf("OnUnreachable: got node %v, want %v", got, nodeB)
	}
}

// sendUntil sends numbered probes until one of those arrives.
func sendUntil(t *testing.T, p *Peers, got *inbox, data string) {
	t.Helper()
	eventually(t, data+" arrived", func() bool {
		p.Send(nodeB, Control, Message{Zone: 1, Data: []byte(data)})
		return got.has(data)
	})
}

func TestReconnectsAfterRestart(t *testing.T) {
	var got inbox
	var reports atomic.Uint64
	hellos := make(chan Identity, 100)
	f := &fakeNode{receive: got.receive}
	addr, stop := serve(t, identityB, f)
	p := peersOf(t, identityA, PeersOptions{
		OnUnreachable: func(nexusraft.NodeID) { reports.Add(1) },
		Accept:        func(id Identity) error { hellos <- id; return nil },
	})
	connect(t, p, addr)
	sendUntil(t, p, &got, "before")
	if diff := cmp.Diff(identityB, await(t, "B's handshake", hellos)); diff != "" {
		t.Errorf("Accept (-want +got):\n%s", diff)
	}

	stop()
	eventually(t, "the break was reported", func() bool { return reports.Load() > 0 && !statsOfB(t, p).Connected })
	restarted := identityB
	restarted.Incarnation++
	serveAt(t, addr, NewServer(as(restarted), f.handlers()))
	eventually(t, "B is connected again", func() bool { return statsOfB(t, p).Connected })
	if got := reports.Load(); got != 1 {
		t.Errorf("OnUnreachable: got %d calls for one break with nothing queued, want 1", got)
	}
	eventually(t, "B's later life was accepted", func() bool {
		return await(t, "B's second handshake", hellos).Incarnation == restarted.Incarnation
	})
	sendUntil(t, p, &got, "after")
}

func TestBreakDropsWhatIsQueued(t *testing.T) {
	var got inbox
	reports := make(chan nexusraft.NodeID, 1)
	refuseOnce := make(chan struct{})
	dialed := make(chan struct{})
	var attempts atomic.Int32
	addr, _ := serve(t, identityB, &fakeNode{receive: got.receive})
	p := peersOf(t, identityA, PeersOptions{
		ConnectTimeout: time.Minute, // so that it is the test that ends the first attempt
		OnUnreachable:  func(n nexusraft.NodeID) { reports <- n },
		Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			if attempts.Add(1) == 1 {
				close(dialed)
				<-refuseOnce
				return nil, errors.New("no route")
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
	})
	p.SetAddress(nodeB, addr)
	await(t, "the first attempt", dialed)
	p.Send(nodeB, Append, Message{Zone: 1, Data: []byte("stale")})
	close(refuseOnce)
	await(t, "the report", reports)
	sendUntil(t, p, &got, "fresh")
	if got.has("stale") {
		t.Error("a message queued before the break arrived after it")
	}
	if st := statsOfB(t, p); st.Dropped != 1 {
		t.Errorf("Stats: got %d dropped, want 1", st.Dropped)
	}
}

func TestAddressChangeHeals(t *testing.T) {
	var first, second inbox
	addr1, _ := serve(t, identityB, &fakeNode{receive: first.receive})
	addr2, _ := serve(t, identityB, &fakeNode{receive: second.receive})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr1)
	sendUntil(t, p, &first, "old")
	p.SetAddress(nodeB, addr2)
	sendUntil(t, p, &second, "new")
	if got := statsOfB(t, p).Address; got != addr2 {
		t.Errorf("Stats: got address %s, want %s", got, addr2)
	}
}

func TestSetAddressEndsThePause(t *testing.T) {
	attempts := make(chan struct{}, 100)
	x := newPeer(NewPeers(as(identityA), PeersOptions{}), nodeB, "b:1")
	x.setAddress("b:1")
	go func() {
		x.pause(time.Hour)
		attempts <- struct{}{}
	}()
	await(t, "the end of the pause", attempts)
}

func TestRemoveClosesTheConnection(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	x := p.peer(nodeB)
	p.Remove(nodeB)
	if got := p.Stats(); len(got) != 0 {
		t.Errorf("Stats after Remove: got %+v, want none", got)
	}
	eventually(t, "the connection is closed", func() bool { return !x.stats().Connected })
	if _, err := p.Propose(t.Context(), nodeB, Proposal{Zone: 1}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Propose to a removed peer: got %v, want ErrUnreachable", err)
	}
}

func TestClosedPeersRefuse(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	p := NewPeers(as(identityA), PeersOptions{})
	connect(t, p, addr)
	p.Close()
	p.Close()
	p.Send(nodeB, Append, Message{})
	p.SetAddress(nodeB, addr)
	if got := p.Stats(); len(got) != 0 {
		t.Errorf("Stats after Close: got %+v, want none", got)
	}
	if _, err := p.Propose(t.Context(), nodeB, Proposal{Zone: 1}); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("Propose after Close: got %v, want ErrClosed", err)
	}
	done := make(chan error, 2)
	p.RequestVote(nodeB, []Vote{{Zone: 1}}, func(_ []VoteResult, err error) { done <- err })
	if err := await(t, "done", done); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("RequestVote after Close: got %v, want ErrClosed", err)
	}
}

func TestBackoffStaysInBounds(t *testing.T) {
	var b pauses
	for i := range 20 {
		d := b.next()
		if d < minBackoff/2 || d > maxBackoff {
			t.Errorf("pause %d: got %v, want between %v and %v", i, d, minBackoff/2, maxBackoff)
		}
	}
}

func TestFramesStayWithinTheWireLimit(t *testing.T) {
	q := newQueue(10000, 64<<20)
	for _, class := range []Class{Control, Append} {
		for range 2 {
			q.put(class, Message{Data: make([]byte, maxMessageBytes)})
		}
		for range 5000 {
			q.put(class, Message{Data: []byte(strings.Repeat("x", 100))})
		}
	}
	for total := 2 * 5002; total > 0; {
		frame := q.take(nil, []Class{Control, Append})
		if len(frame) == 0 || len(frame) > maxFrameMessages {
			t.Fatalf("take: got %d messages with %d waiting, want between 1 and %d", len(frame), total, maxFrameMessages)
		}
		if _, _, err := parseFrame(appendFrame(nil, frame, 1)); err != nil {
			t.Fatalf("a frame of our own is refused: %v", err)
		}
		if n := protoSize(frameToProto(frame)); n > maxRPCBytes {
			t.Fatalf("take: got a frame of %d bytes, limit %d", n, maxRPCBytes)
		}
		total -= len(frame)
	}
	if q.len() != 0 {
		t.Errorf("len: got %d, want 0", q.len())
	}
}

// A full queue is no lost connection.
func TestConnectionsAreTold(t *testing.T) {
	told := make(chan string, 100)
	unreachable := make(chan struct{}, 1)
	release := make(chan struct{})
	f := &fakeNode{receive: func(nexusraft.NodeID, []Message) { <-release }}
	addr, stop := serve(t, identityB, f)
	p := peersOf(t, identityA, PeersOptions{
		QueueMessages: 1,
		OnUnreachable: func(nexusraft.NodeID) { signal(unreachable) },
		OnConnection: func(peer nexusraft.NodeID, addr string, connected bool) {
			told <- fmt.Sprint(peer, " ", addr, " ", connected)
		},
	})
	connect(t, p, addr)
	say := func(connected bool) string { return fmt.Sprint(nodeB, " ", addr, " ", connected) }
	if got := await(t, "the connection", told); got != say(true) {
		t.Errorf("got %s, want %s", got, say(true))
	}
	for len(unreachable) == 0 {
		p.Send(nodeB, Append, Message{Zone: 1, Data: make([]byte, 1<<10)})
	}
	if len(told) > 0 || !statsOfB(t, p).Connected {
		t.Errorf("with a full queue: told %q, want nothing", <-told)
	}
	close(release)
	stop()
	if got := await(t, "the loss", told); got != say(false) {
		t.Errorf("got %s, want %s", got, say(false))
	}
	serveAt(t, addr, NewServer(as(identityB), f.handlers()))
	if got := await(t, "the next connection", told); got != say(true) {
		t.Errorf("got %s, want %s", got, say(true))
	}
}
