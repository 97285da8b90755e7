package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

const (
	// handshakeTimeout bounds an attempt: connecting and shaking hands takes four round
	// trips at most.
	handshakeTimeout = 3 * time.Second

	// A peer that restarts is to be reached again within an election timeout.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
)

// Why a peer's stream is broken on purpose.
var (
	errRemoved   = errors.New("the peer was removed")
	errMoved     = errors.New("the peer's address changed")
	errLeft      = errors.New("this node has left")
	errHandshake = fmt.Errorf("no answer to the handshake within %v", handshakeTimeout)
)

// peer is one node that Peers sends to.
type peer struct {
	peers  *Peers
	node   nexusraft.NodeID
	ctx    context.Context // ends with Remove and Close
	cancel context.CancelCauseFunc
	queue  *queue
	votes  *voteQueue
	kick   chan struct{} // capacity 1: try now

	sent, dropped atomic.Uint64

	mu        sync.Mutex
	addr      string
	hangUp    context.CancelCauseFunc // ends the attempt or stream that is under way; nil if none
	conn      *grpc.ClientConn        // while an Exchange stream is open, otherwise nil
	connected chan struct{}           // closed while conn is there
	failing   bool                    // the last attempt to connect has failed
}

func newPeer(p *Peers, node nexusraft.NodeID, addr string) *peer {
	ctx, cancel := context.WithCancelCause(p.ctx)
	return &peer{
		peers:     p,
		node:      node,
		ctx:       ctx,
		cancel:    cancel,
		queue:     newQueue(p.o.QueueMessages, p.o.QueueBytes),
		votes:     newVoteQueue(),
		kick:      make(chan struct{}, 1),
		addr:      addr,
		connected: make(chan struct{}),
	}
}

func (x *peer) setAddress(addr string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if addr != x.addr && x.hangUp != nil {
		x.hangUp(errMoved)
	}
	x.addr = addr
	signal(x.kick)
}

func (x *peer) address() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.addr
}

func (x *peer) enqueue(class Class, m Message) bool {
	if len(m.Data) > MaxMessageBytes {
		x.peers.o.Logger.Error("message dropped: too large", "peer", x.node, "zone", m.Zone, "bytes", len(m.Data), "limit", MaxMessageBytes)
	} else if x.queue.put(class, m) {
		return true
	}
	x.dropped.Add(1)
	return false
}

// send is the sender: it keeps an Exchange stream up until the peer is removed.
func (x *peer) send() {
	defer x.peers.said.Done()
	var wait pauses
	var reported string
	for x.ctx.Err() == nil {
		opened, err := x.session()
		x.noteAttempt(opened)
		if x.ctx.Err() != nil || errors.Is(err, errLeft) {
			break
		}
		if lost := x.drop(); opened || lost > 0 {
			x.peers.o.OnUnreachable(x.node)
		}
		if opened {
			wait, reported = 0, ""
		}
		x.noteFence(err)
		if state := stateOf(err); state != reported { // once for each state, not for each attempt
			reported = state
			x.peers.o.Logger.Log(context.Background(), levelOf(err), "peer disconnected", "peer", x.node, "err", err)
		}
		x.pause(wait.next())
	}
	x.drop()
}

// noteFence tells the user of Peers if err is this peer's refusal of this node for good.
func (x *peer) noteFence(err error) {
	if peer, ok := fencedBy(x.peers.id(), x.node, err); ok && x.peers.seen.check(peer) == nil {
		x.peers.o.OnFenced(peer, err)
	}
}

// stateOf is what a peer is that err keeps from being connected: one that refuses, and
// why, or one that is not there, whatever the system says to that.
func stateOf(err error) string {
	if errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) {
		return err.Error()
	}
	return "unreachable"
}

// levelOf is how loudly to say it: a peer that has not stored its admission yet is no news.
func levelOf(err error) slog.Level {
	if errors.Is(err, nexusraft.ErrNotFounded) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// noteAttempt remembers whether the peer can be reached at all.
func (x *peer) noteAttempt(opened bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failing = !opened
}

// drop empties the queue and returns how many messages that cost.
func (x *peer) drop() int {
	n := x.queue.clear()
	x.dropped.Add(uint64(n))
	return n
}

// session makes one attempt: it connects, shakes hands and sends until the stream breaks.
// It reports whether it got as far as sending, and always why it ended.
func (x *peer) session() (opened bool, err error) {
	ctx, hangUp := context.WithCancelCause(x.ctx)
	defer hangUp(nil)
	addr := x.begin(hangUp)
	conn, err := x.peers.dial(addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()

	timer := time.AfterFunc(handshakeTimeout, func() { hangUp(errHandshake) })
	stream, err := x.open(ctx, conn)
	if !timer.Stop() || err != nil {
		return false, fmt.Errorf("connect to %s: %w", addr, reason(ctx, err))
	}
	ended := make(chan struct{})
	x.peers.wg.Go(func() { // the receiver
		defer close(ended)
		hangUp(awaitEnd(stream))
	})
	x.publish(conn)
	x.peers.o.Logger.Info("peer connected", "peer", x.node, "addr", addr)
	err = x.pump(ctx, stream)
	x.publish(nil)
	hangUp(err)
	<-ended
	if errors.Is(err, errLeft) {
		return true, err
	}
	return true, fmt.Errorf("send to %s: %w", addr, reason(ctx, err))
}

// begin returns the address to try now. From here on a change of it calls hangUp.
func (x *peer) begin(hangUp context.CancelCauseFunc) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.kick: // this is the attempt that was asked for
	default:
	}
	x.hangUp = hangUp
	return x.addr
}

// open opens the Exchange stream and shakes hands.
func (x *peer) open(ctx context.Context, conn *grpc.ClientConn) (exchangeClient, error) {
	stream, err := pb.NewRaftTransportClient(conn).Exchange(ctx)
	if err != nil {
		return nil, err
	}
	self := x.peers.id()
	// An error of Send is that the stream has ended; Recv says why.
	_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: hello(self, x.node)}})
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return stream, x.peers.accept(self, resp.GetHello(), x.node)
}

type exchangeClient = grpc.BidiStreamingClient[pb.ExchangeRequest, pb.ExchangeResponse]

// accept checks what a node that was asked says of itself.
func (p *Peers) accept(self Identity, h *pb.Hello, asked nexusraft.NodeID) error {
	peer, err := checkAnswer(self, h, asked)
	if err != nil {
		return err
	}
	if err := p.seen.check(peer); err != nil {
		return err
	}
	if err := p.o.Accept(peer); err != nil {
		return refused(err)
	}
	p.seen.record(peer)
	return nil
}

// awaitEnd returns why the stream has ended. The peer sends nothing after its handshake.
func awaitEnd(stream exchangeClient) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return errors.New("the peer sent a second handshake")
}

// pump sends what is queued until the stream breaks.
func (x *peer) pump(ctx context.Context, stream exchangeClient) error {
	for {
		msgs := x.queue.take()
		if len(msgs) == 0 {
			select {
			case <-x.queue.wake:
				continue
			case <-x.peers.leave:
				return goodbye(ctx, stream)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := stream.Send(frameToProto(msgs)); err != nil {
			x.dropped.Add(uint64(len(msgs)))
			if errors.Is(err, io.EOF) { // the stream has ended; the receiver learns why
				<-ctx.Done()
			}
			return err
		}
		x.sent.Add(uint64(len(msgs)))
	}
}

// goodbye ends the stream in order, which tells the peer that this node leaves, and waits
// until the peer has heard it.
func goodbye(ctx context.Context, stream exchangeClient) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	<-ctx.Done() // the receiver hangs up when the peer has ended the stream
	return errLeft
}

// publish says over which connection calls go; nil for none.
func (x *peer) publish(conn *grpc.ClientConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn = conn
	if conn != nil {
		close(x.connected)
	} else {
		x.connected = make(chan struct{})
	}
}

// awaitUp is await, except that it doesn't wait for a peer that could not be reached at the
// last attempt.
func (x *peer) awaitUp(ctx context.Context) (*grpc.ClientConn, error) {
	x.mu.Lock()
	failing, addr := x.failing && x.conn == nil, x.addr
	x.mu.Unlock()
	if failing {
		return nil, fmt.Errorf("%w: node %v at %s is not connected", ErrUnreachable, x.node, addr)
	}
	return x.await(ctx)
}

// await waits until the peer is connected. It returns ErrUnreachable if ctx ends first.
func (x *peer) await(ctx context.Context) (*grpc.ClientConn, error) {
	for {
		x.mu.Lock()
		conn, connected, addr := x.conn, x.connected, x.addr
		x.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-connected:
			continue
		case <-x.ctx.Done():
		case <-ctx.Done():
		}
		if x.ctx.Err() != nil { // ctx may have ended with it
			return nil, fmt.Errorf("%w: node %v: %w", ErrUnreachable, x.node, context.Cause(x.ctx))
		}
		return nil, fmt.Errorf("%w: node %v at %s is not connected", ErrUnreachable, x.node, addr)
	}
}

func (x *peer) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.kick:
	case <-x.ctx.Done():
	}
}

func (x *peer) stats() PeerStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return PeerStats{
		Peer:      x.node,
		Address:   x.addr,
		Connected: x.conn != nil,
		Queued:    x.queue.len(),
		Sent:      x.sent.Load(),
		Dropped:   x.dropped.Load(),
	}
}

// reason is why ctx was ended on purpose, or else err, as a refusal if it is one.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return asRefusal(err)
}

// pauses is the last pause between attempts.
type pauses time.Duration

// next doubles the pause and returns it with jitter, so that peers don't march in step.
func (b *pauses) next() time.Duration {
	*b = min(max(2*(*b), pauses(minBackoff)), pauses(maxBackoff))
	half := time.Duration(*b) / 2
	return half + rand.N(half)
}
