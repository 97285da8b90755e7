package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// A peer that restarts is to be reached again within an election timeout.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
)

// Why a connection or stream is broken on purpose.
var (
	errRemoved = errors.New("the peer was removed")
	errMoved   = errors.New("the peer's address changed")
	errLeft    = errors.New("this node has left")
	errBroken  = errors.New("the connection was given up")
	errLate    = fmt.Errorf("the peer has not ended the stream within %v", goodbyeTimeout)
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
	client    *Client                 // while an Exchange stream is open, otherwise nil
	connected chan struct{}           // closed while client is there
	failing   bool                    // the last attempt to connect has failed
	since     time.Time               // when client was last set or lost
	err       error                   // why the last attempt has failed or ended
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
		since:     time.Now(),
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
	if len(m.Data) > maxMessageBytes {
		x.peers.o.Logger.Error("message dropped: too large", "peer", x.node, "zone", m.Zone, "bytes", len(m.Data), "limit",
			maxMessageBytes)
	} else if x.queue.put(class, m) {
		return true
	}
	x.dropped.Add(1)
	return false
}

// send is the sender: it keeps an Exchange stream up until the peer is removed.
func (x *peer) send() {
	defer x.peers.byes.Done()
	var wait pauses
	var reported string
	for x.ctx.Err() == nil {
		opened, err := x.session()
		x.noteAttempt(opened, err)
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
	if peer, ok := fencedBy(x.peers.id(), x.node, err); ok && x.peers.pool.seen.check(peer) == nil {
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

// noteAttempt remembers whether the peer can be reached at all, and why not any more.
func (x *peer) noteAttempt(opened bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failing, x.err = !opened, err
}

// drop empties the queue and returns how many messages that cost.
func (x *peer) drop() int {
	n := x.queue.clear()
	x.dropped.Add(uint64(n))
	return n
}

// session makes one attempt: it connects, shakes hands and sends until a stream breaks.
// It reports whether it got as far as sending, and always why it ended.
func (x *peer) session() (opened bool, err error) {
	ctx, hangUp := context.WithCancelCause(x.ctx)
	defer hangUp(nil)
	addr := x.begin(hangUp)
	c, err := x.connect(ctx, NodeAddress{ID: x.node, Endpoint: addr})
	if err != nil {
		return false, fmt.Errorf("connect to %s: %w", addr, reason(ctx, err))
	}
	defer c.close()
	x.publish(c.client)
	x.peers.o.Logger.Info("peer connected", "peer", x.node, "addr", addr)
	x.peers.o.OnConnection(x.node, addr, true)
	err = x.exchange(c)
	x.publish(nil)
	x.peers.o.OnConnection(x.node, addr, false)
	if errors.Is(err, errLeft) {
		return true, err
	}
	return true, fmt.Errorf("send to %s: %w", addr, reason(ctx, err))
}

// conns are the connections and streams to a peer that is connected.
type conns struct {
	client  *Client
	control *Stream // carries everything if bulk is nil
	bulk    *Stream // on a connection of its own; nil to a peer of the first version
	close   func()  // gives up the connections and waits for the ends of the streams
}

// connect makes one attempt to connect to a peer, over both connections at once.
func (x *peer) connect(ctx context.Context, addr NodeAddress) (c *conns, err error) {
	c = &conns{}
	if c.client, err = x.peers.pool.client(addr); err != nil {
		return nil, err
	}
	bulk, end, err := x.peers.pool.spare(addr)
	if err != nil {
		return nil, err
	}
	c.close = func() {
		x.peers.pool.discard(c.client)
		end()
		for _, s := range []*Stream{c.control, c.bulk} {
			if s != nil {
				<-s.Done()
			}
		}
	}
	bulk.conn.Connect()
	if err := c.open(ctx, bulk); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// open opens the streams.
func (c *conns) open(ctx context.Context, bulk *Client) (err error) {
	if err := c.client.attempt(ctx); err != nil {
		return err
	}
	if c.control, err = c.client.exchange(ctx, pb.Lane_LANE_CONTROL); err != nil {
		return err
	}
	if c.control.minor == 0 {
		return nil
	}
	if err := bulk.attempt(ctx); err != nil {
		return err
	}
	c.bulk, err = bulk.exchange(ctx, pb.Lane_LANE_APPEND)
	return err
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

// exchange sends what is queued until a stream breaks, or this node leaves.
func (x *peer) exchange(c *conns) error {
	if c.bulk == nil {
		if err := x.pump(c.control, Control, Append); err != nil {
			return err
		}
		return errors.Join(c.control.Close(), errLeft)
	}
	ended := make(chan error, 1)
	x.peers.wg.Go(func() { // the sender of bulk
		err := x.pump(c.bulk, Append)
		if err == nil {
			err = c.bulk.Close()
		}
		if err != nil {
			c.control.hangUp(err)
		}
		ended <- err
	})
	err := x.pump(c.control, Control)
	if err != nil {
		c.bulk.hangUp(err)
	}
	bulkErr := <-ended
	if err != nil {
		return err
	}
	if bulkErr == nil { // all else has arrived
		bulkErr = c.control.Close()
	}
	return errors.Join(bulkErr, errLeft)
}

// pump sends what is queued in some classes until the stream breaks. It returns nil once
// this node leaves and has sent all.
func (x *peer) pump(s *Stream, classes ...Class) error {
	var msgs []Message
	for {
		msgs = x.queue.take(msgs[:0], classes)
		if len(msgs) == 0 {
			select {
			case <-x.queue.wake[classes[0]]:
				continue
			case <-x.queue.wake[classes[len(classes)-1]]:
				continue
			case <-x.peers.leave:
				if msgs = x.queue.take(msgs, classes); len(msgs) == 0 { // what came meanwhile goes, too
					return nil
				}
			case <-s.ctx.Done():
				return s.Err()
			}
		}
		if err := s.Send(msgs); err != nil {
			x.dropped.Add(uint64(len(msgs)))
			return err
		}
		x.sent.Add(uint64(len(msgs)))
		clear(msgs) // what was sent must not live on
	}
}

// publish sets the client that calls go through; nil for none.
func (x *peer) publish(c *Client) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.client, x.since, x.err = c, time.Now(), nil
	if c != nil {
		close(x.connected)
	} else {
		x.connected = make(chan struct{})
	}
}

// awaitUp is await, except that it doesn't wait for a peer that could not be reached at the
// last attempt.
func (x *peer) awaitUp(ctx context.Context) (*Client, error) {
	x.mu.Lock()
	failing, addr := x.failing && x.client == nil, x.addr
	x.mu.Unlock()
	if failing {
		return nil, fmt.Errorf("%w: node %v at %s is not connected", ErrUnreachable, x.node, addr)
	}
	return x.await(ctx)
}

// await waits until the peer is connected. It returns ErrUnreachable if ctx ends first.
func (x *peer) await(ctx context.Context) (*Client, error) {
	for {
		x.mu.Lock()
		client, connected, addr := x.client, x.connected, x.addr
		x.mu.Unlock()
		if client != nil {
			return client, nil
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
		Connected: x.client != nil,
		Since:     x.since,
		Err:       x.err,
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
