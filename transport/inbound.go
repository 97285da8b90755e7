package transport

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// silentAfter is when a stream is dropped whose peer has not even pinged: several times the
// longest pause between two pings.
const silentAfter = 5 * maxPingPause

// firstTimeout is how long a stream may take to say what it is for.
const firstTimeout = 5 * time.Second

// awaitFirst waits for a stream's first request. Once it has given up the stream's method must
// return, which ends recv.
func awaitFirst(recv func() error) error {
	got := make(chan error, 1)
	go func() { got <- recv() }()
	timer := time.NewTimer(firstTimeout)
	defer timer.Stop()
	select {
	case err := <-got:
		return err
	case <-timer.C:
		return status.Errorf(codes.DeadlineExceeded, "the stream has said nothing for %v", firstTimeout)
	}
}

type exchangeServer = grpc.BidiStreamingServer[pb.ExchangeRequest, pb.ExchangeResponse]

// inbound is an Exchange stream that a peer has opened. One goroutine reads it; gRPC's own is
// the only one that sends on it, and ends it.
type inbound struct {
	s        *Server
	stream   exchangeServer
	hello    *pb.Hello // the peer's
	peer     Identity
	lane     pb.Lane
	sighting *sighting // of the opening that it belongs to

	ended    chan struct{} // capacity 1: the peer is refused from now on
	pinged   chan struct{} // capacity 1: ping has grown
	ping     atomic.Uint64
	busy     atomic.Bool   // the handler has what was read last
	frames   atomic.Uint64 // how many were read
	replaced chan struct{} // closed when a newer stream of the lane takes its place
	read     chan struct{} // closed when reading has ended
	err      error         // why; set before that
}

// Exchange implements pb.RaftTransportServer.
func (r raftService) Exchange(stream grpc.BidiStreamingServer[pb.ExchangeRequest, pb.ExchangeResponse]) error {
	first := new(pb.EncodedRequest)
	if err := awaitFirst(func() error { return stream.RecvMsg(first) }); err != nil {
		return endOfStream(err)
	}
	peer, err := r.s.greet(stream.Context(), first.GetHello(), false)
	if err != nil {
		return refusalStatus(r.s.id(), first.GetHello(), err)
	}
	if _, known := pb.Lane_name[int32(first.GetLane())]; !known {
		return status.Errorf(codes.InvalidArgument, "exchange: unknown lane %d", first.GetLane())
	}
	in := &inbound{
		s:        r.s,
		stream:   stream,
		hello:    first.GetHello(),
		peer:     peer,
		lane:     first.GetLane(),
		ended:    make(chan struct{}, 1),
		pinged:   make(chan struct{}, 1),
		replaced: make(chan struct{}),
		read:     make(chan struct{}),
	}
	before, end, err := r.s.seen.speaks(in, in.greet)
	if err != nil {
		return err
	}
	defer end()
	go in.receive(before)
	return in.attend()
}

// greet answers the peer's handshake.
func (in *inbound) greet() error {
	return in.stream.Send(&pb.ExchangeResponse{Hello: in.s.hello(in.hello)})
}

// receive reads until the stream ends, once nothing is read any more of the one that it replaces:
// what came by that is first. It ends soon after attend at the latest: a stream whose method has
// returned can't be read.
func (in *inbound) receive(before *inbound) {
	defer close(in.read)
	if before != nil {
		<-before.read
	}
	for in.err == nil {
		in.err = in.receiveFrame()
	}
	if errors.Is(in.err, io.EOF) && in.lane != pb.Lane_LANE_APPEND && in.s.seen.check(in.peer) == nil {
		in.s.h.Peer.Leaving(in.peer.Node)
	}
}

func (in *inbound) receiveFrame() error {
	var req pb.EncodedRequest
	if err := in.stream.RecvMsg(&req); err != nil {
		return err
	}
	if req.Frame == nil {
		return status.Error(codes.InvalidArgument, "read frame: a request after the handshake carries none")
	}
	in.frames.Add(1)
	in.sighting.hear()
	msgs, ping, err := parseFrame(req.GetFrame())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	// The same node may have come back since: what its former opening still sends is void.
	if err := in.s.seen.check(in.peer); err != nil {
		return refusalStatus(in.s.id(), in.hello, err)
	}
	if len(msgs) > 0 || ping == 0 {
		in.busy.Store(true)
		in.s.h.Peer.Receive(in.peer.Node, msgs)
		in.busy.Store(false)
	}
	if ping != 0 {
		in.ping.Store(ping)
		signal(in.pinged)
	}
	return nil
}

// attend answers pings and returns when and how the stream is to end.
func (in *inbound) attend() error {
	silence := time.NewTimer(silentAfter)
	defer silence.Stop()
	var frames uint64 // when silence last fired: a ping may wait behind seconds of bulk
	for {
		var answer *pb.ExchangeResponse
		select {
		case <-in.read:
			return endOfStream(in.err)
		case <-in.replaced:
			return status.Error(codes.Aborted, "exchange: a newer stream of this node has taken the place of this one")
		case <-in.ended:
			return refusalStatus(in.s.id(), in.hello, in.s.seen.check(in.peer))
		case <-in.pinged:
			answer = &pb.ExchangeResponse{Pong: in.ping.Load()}
		case <-silence.C:
			before := frames
			if frames = in.frames.Load(); frames == before && in.hello.GetMinor() > 0 && !in.busy.Load() {
				return status.Errorf(codes.Aborted, "exchange: nothing was heard of node %v for %v", in.peer.Node, silentAfter)
			}
		}
		silence.Reset(silentAfter)
		if answer == nil {
			continue
		}
		if err := in.stream.Send(answer); err != nil {
			return endOfStream(err)
		}
	}
}

// endOfStream is how a receiving method ends: well, if its client did.
func endOfStream(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
