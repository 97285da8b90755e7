package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

const (
	// maxPingPause is the longest pause between two pings of a stream. It is a third of
	// SilenceTimeout otherwise.
	maxPingPause = time.Second

	// slack is how many times SilenceTimeout a stream may be silent that carries bulk: there, a ping
	// waits behind what the peer has not read yet, and slow is not dead.
	slack = 10

	// maxFrameBytes is where Send begins another frame, unless one message is larger.
	maxFrameBytes = 256 << 10
)

// errSilent is why a stream is dropped whose peer answers no pings.
var errSilent = errors.New("the peer does not answer any more")

type exchangeClient = grpc.BidiStreamingClient[pb.ExchangeRequest, pb.ExchangeResponse]

// Stream carries messages to a node, in order, until either side ends it. While it stands it
// asks the node for signs of life, and ends when they stay out. The methods may be called from
// many goroutines; one sends at a time.
type Stream struct {
	stream  exchangeClient
	ctx     context.Context // ends when the stream has, or is to
	hangUp  context.CancelCauseFunc
	release func()
	done    chan struct{} // closed when the receiver has ended
	minor   uint32        // the peer's

	silence time.Duration // how long an answer to a ping may take
	asked   atomic.Uint64 // the newest ping
	heard   atomic.Uint64 // the newest one that was answered

	sending sync.Mutex // guards what follows, and sending itself
	closed  bool       // this side has ended it: nothing may be sent any more
	buf     []byte
}

// Exchange opens a stream for messages of all kinds and shakes hands. It has no deadline but ctx,
// which ends it, too. A node takes one such stream of a peer at a time: a second one ends the
// first.
func (c *Client) Exchange(ctx context.Context) (*Stream, error) {
	return c.exchange(ctx, pb.Lane_LANE_UNSPECIFIED)
}

func (c *Client) exchange(ctx context.Context, lane pb.Lane) (*Stream, error) {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	ctx, hangUp := context.WithCancelCause(ctx)
	s := &Stream{ctx: ctx, hangUp: hangUp, release: end, done: make(chan struct{})}
	if err := s.open(c, lane); err != nil {
		hangUp(err)
		end()
		return nil, fmt.Errorf("open a stream to %v: %w", c.addr, err)
	}
	c.watch(s, lane)
	return s, nil
}

// open opens the stream and shakes hands, for SilenceTimeout at most; what BeforeCall takes comes
// before that.
func (s *Stream) open(c *Client, lane pb.Lane) (err error) {
	if err := c.pool.o.BeforeCall(); err != nil {
		return fmt.Errorf("%w: before the call: %w", ErrUnreachable, err)
	}
	late := time.AfterFunc(c.pool.o.SilenceTimeout, func() {
		s.hangUp(fmt.Errorf("no answer to the handshake within %v; where round trips take that long, raise the election "+
			"timeout", c.pool.o.SilenceTimeout))
	})
	defer late.Stop()
	s.stream, err = pb.NewRaftTransportClient(c.conn).Exchange(s.ctx)
	if err != nil {
		return c.fail(s.ctx, err)
	}
	self := c.pool.self()
	// An error of SendMsg is that the stream has ended; Recv says why.
	_ = s.stream.SendMsg(&pb.EncodedRequest{Hello: hello(self, c.addr.ID), Lane: lane})
	resp, err := s.stream.Recv()
	if err != nil {
		return c.fail(s.ctx, err)
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return err
	}
	s.minor = resp.GetHello().GetMinor()
	if !late.Stop() {
		return c.fail(s.ctx, context.Cause(s.ctx))
	}
	return nil
}

// watch starts what goes on beside sending.
func (c *Client) watch(s *Stream, lane pb.Lane) {
	s.silence = c.pool.o.SilenceTimeout
	pause := min(max(s.silence/3, time.Millisecond), maxPingPause)
	if lane != pb.Lane_LANE_CONTROL {
		s.silence *= slack
	}
	var pinging sync.WaitGroup
	if s.minor > 0 { // the first version answers no pings
		pinging.Go(func() { s.keep(pause) })
	}
	go func() {
		err := s.receive()
		s.hangUp(err)
		pinging.Wait()
		close(s.done)
		s.release()
	}()
}

// receive returns why the stream has ended.
func (s *Stream) receive() error {
	for {
		resp, err := s.stream.Recv()
		switch {
		case err != nil:
			return reason(s.ctx, err)
		case resp.GetHello() != nil:
			return errors.New("the peer asks for a new handshake")
		case resp.GetPong() > s.asked.Load():
			return errors.New("the peer answers a ping that was not sent")
		}
		s.heard.Store(resp.GetPong())
	}
}

// keep asks for signs of life, one at a time.
func (s *Stream) keep(pause time.Duration) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		if s.heard.Load() < s.asked.Load() {
			continue
		}
		number := s.asked.Add(1)
		// Its time begins before it is sent: what can't be sent gets no answer either.
		time.AfterFunc(s.silence, func() { s.judge(number) })
		if s.ping(number) != nil {
			return
		}
	}
}

// judge ends the stream if a ping has got no answer.
func (s *Stream) judge(number uint64) {
	if s.heard.Load() < number {
		s.hangUp(errSilent)
	}
}

func (s *Stream) ping(number uint64) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.sendFrame(nil, number)
}

// Send sends messages, in as few frames as their sizes allow, and waits while the node is slow to
// take them. It borrows them until it returns. An error ends the stream; how much has arrived then
// is unknown. ErrTooLarge, for a message over 7 MiB, does not: nothing was sent.
func (s *Stream) Send(msgs []Message) error {
	for _, m := range msgs {
		if len(m.Data) > maxMessageBytes {
			return fmt.Errorf("%w: send a message of %d bytes in zone %v, limit %d", nexusraft.ErrTooLarge, len(m.Data), m.Zone,
				maxMessageBytes)
		}
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	for len(msgs) > 0 {
		n := frameLen(msgs)
		if err := s.sendFrame(msgs[:n], 0); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

// frameLen is how many of the messages go into one frame, at least one.
func frameLen(msgs []Message) int {
	n, bytes := 0, 0
	for n < min(len(msgs), maxFrameMessages) && (n == 0 || bytes+len(msgs[n].Data) <= maxFrameBytes) {
		bytes += len(msgs[n].Data)
		n++
	}
	return n
}

// sendFrame sends one frame. The caller holds sending.
func (s *Stream) sendFrame(msgs []Message, ping uint64) error {
	if s.closed {
		return fmt.Errorf("send: %w: the stream was closed", nexusraft.ErrClosed)
	}
	s.buf = appendFrame(s.buf[:0], msgs, ping)
	if s.buf == nil {
		s.buf = []byte{}
	}
	err := s.stream.SendMsg(&pb.EncodedRequest{Frame: s.buf})
	if cap(s.buf) > 2*maxFrameBytes { // for one large message
		s.buf = nil
	}
	if err == nil {
		return nil
	}
	s.hangUp(err)
	return s.Err()
}

// Done is closed when the stream has ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns why the stream has ended, or is about to; nil before that.
func (s *Stream) Err() error { return context.Cause(s.ctx) }

// Close ends the stream in order: what was sent arrives, and the node learns that this one leaves.
// It waits for that, but for a moment at most, and returns why it did not come to it.
func (s *Stream) Close() error {
	late := time.AfterFunc(goodbyeTimeout, func() { s.hangUp(errLate) })
	defer late.Stop()
	s.sending.Lock()
	s.closed = true
	_ = s.stream.CloseSend() // it never fails
	s.sending.Unlock()
	<-s.done
	if err := s.Err(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("close a stream: %w", err)
	}
	return nil
}
