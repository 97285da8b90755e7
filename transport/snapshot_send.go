package transport

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Snapshot is a zone's state on its way to another node.
type Snapshot struct {
	SnapshotHeader

	// State yields what follows the first offset bytes of the state, in pieces of any size, each
	// borrowed until the next. It is called once for each stream, with 0 first, and must yield the
	// same bytes each time; an error that it yields ends the snapshot and is returned.
	State func(offset uint64) iter.Seq2[[]byte, error]

	// Progress is told, again and again, how many bytes were sent; nil is told nothing. It must not
	// block.
	Progress func(bytes uint64)
}

// How a snapshot goes on after its stream broke. A receiver keeps what has come for
// snapshotPatience, so there is no use in trying for longer.
const (
	snapshotPatience = time.Minute
	snapshotStall    = 15 * time.Second // how long a chunk may take to be sent, and to come
	snapshotTries    = 20               // streams in a row that may bring nothing
)

// SendSnapshot sends a snapshot to a peer, as InstallSnapshot does. It has a
// connection of its own, so that heartbeats don't wait behind it.
func SendSnapshot(ctx context.Context, p *Peers, to nexusraft.NodeID, s Snapshot) error {
	x := p.peer(to)
	if x == nil {
		return p.errUnknown(to)
	}
	c, end, err := p.pool.spare(NodeAddress{ID: to, Endpoint: x.address()})
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := p.bound(ctx)
	defer cancel()
	return InstallSnapshot(ctx, c, s)
}

// InstallSnapshot streams a zone's state to the node and returns when the node has verified and
// accepted it, or why it has not. If the stream breaks, another one goes on where it broke, or from
// the start if the node was, until nothing has come through for a minute. There is no deadline but
// ctx: give it one that suits the size and the link.
func InstallSnapshot(ctx context.Context, c *Client, s Snapshot) error {
	if n := len(s.Message); n > maxSnapshotMessageBytes {
		return fmt.Errorf("%w: send snapshot: a message of %d bytes, limit %d", nexusraft.ErrTooLarge, n,
			maxSnapshotMessageBytes)
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	w := &snapshotSender{c: c, s: s, id: max(rand.Uint64(), 1), heard: time.Now()}
	if err := w.send(ctx); err != nil {
		return fmt.Errorf("send snapshot of zone %v to %v: %w", s.Zone, c.addr, c.fail(ctx, err))
	}
	return nil
}

// snapshotSender sends one snapshot, by one stream after the other.
type snapshotSender struct {
	c   *Client
	s   Snapshot
	id  uint64 // 0 once the receiver turns out to keep nothing
	cut snapshotWriter

	has   uint64    // how much the receiver had when it was asked last
	heard time.Time // when the receiver was last known to be there
	idle  int       // streams in a row that brought nothing
}

// send tries until the receiver has all of it, it refuses, or nothing comes through.
func (w *snapshotSender) send(ctx context.Context) error {
	var pause pauses
	for {
		err := w.attempt(ctx)
		switch {
		case err == nil || ctx.Err() != nil || !isBroken(err):
			return err
		case w.id == 0 || w.cut.offset == 0: // there is nothing to go on with
			return err
		case w.idle > snapshotTries || time.Since(w.heard) > snapshotPatience:
			return err
		}
		if w.idle == 0 {
			pause = 0
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause.next()):
		}
	}
}

// isBroken reports whether a stream broke, rather than that it was refused.
func isBroken(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Aborted:
		return true
	}
	return errors.Is(err, ErrUnreachable)
}

// attempt asks where to go on, and goes on there.
func (w *snapshotSender) attempt(ctx context.Context) error {
	offset, sum, err := w.ask(ctx)
	if err != nil {
		return err
	}
	w.heard = time.Now()
	w.cut.pack = w.c.pool.o.SnapshotCompression && w.id != 0
	if !w.cut.resume(offset, sum) {
		return fmt.Errorf("%w: the %d bytes that the receiver has are not those that were sent", nexusraft.ErrCorrupt, offset)
	}
	if w.idle++; offset > w.has {
		w.idle = 0
	}
	w.has = offset
	err = w.stream(ctx, offset)
	w.heard = time.Now()
	return err
}

// ask asks how much of the snapshot the receiver has.
func (w *snapshotSender) ask(ctx context.Context) (offset uint64, sum uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.c.pool.o.CallTimeout)
	defer cancel()
	self := w.c.pool.self()
	resp, err := pb.NewRaftTransportClient(w.c.conn).SnapshotOffset(ctx,
		&pb.SnapshotOffsetRequest{Header: w.header(self, 0)})
	switch {
	case status.Code(err) == codes.Unimplemented:
		w.id = 0
		return 0, 0, nil
	case err != nil:
		return 0, 0, err
	case resp.GetError() != nil:
		return 0, 0, wire.ErrorFromProto(resp.GetError())
	}
	return resp.GetOffset(), resp.GetCrc32C(), w.c.pool.accept(self, resp.GetHello(), w.c.addr.ID)
}

func (w *snapshotSender) header(self Identity, offset uint64) *pb.SnapshotHeader {
	h := headerToProto(hello(self, w.c.addr.ID), w.s.SnapshotHeader)
	h.Id, h.Offset = w.id, offset
	return h
}

// stream sends what follows offset.
func (w *snapshotSender) stream(ctx context.Context, offset uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // an unfinished stream is cut off here
	stream, err := pb.NewRaftTransportClient(w.c.conn).InstallSnapshot(ctx)
	if err != nil {
		return err
	}
	stall := time.AfterFunc(snapshotStall, func() {
		cancel(fmt.Errorf("%w: it takes nothing for %v", ErrUnreachable, snapshotStall))
	})
	defer stall.Stop()
	w.cut.send = func(r *pb.InstallSnapshotRequest) error {
		if err := w.throttle(ctx, len(r.GetChunk().GetData())); err != nil {
			return err
		}
		stall.Reset(snapshotStall)
		defer stall.Stop()
		return stream.Send(r)
	}
	self := w.c.pool.self()
	if err := w.cut.write(w.header(self, offset), w.progressing(w.s.State(offset))); err != nil {
		stall.Reset(time.Second) // the peer hears of it in order, and keeps nothing
		_, _ = stream.CloseAndRecv()
		return err
	}
	resp, err := stream.CloseAndRecv() // it comes when the state is on the peer's disk
	switch {
	case err != nil:
		return errors.Join(context.Cause(ctx), err)
	case resp.GetError() != nil:
		return wire.ErrorFromProto(resp.GetError())
	}
	return w.c.pool.accept(self, resp.GetHello(), w.c.addr.ID)
}

// throttle waits until n more bytes may be sent.
func (w *snapshotSender) throttle(ctx context.Context, n int) error {
	if limit := w.c.pool.snapshots; limit != nil && n > 0 {
		return limit.WaitN(ctx, n)
	}
	return nil
}

// progressing is body, and tells how far it is.
func (w *snapshotSender) progressing(body iter.Seq2[[]byte, error]) iter.Seq2[[]byte, error] {
	if w.s.Progress == nil {
		return body
	}
	return func(yield func([]byte, error) bool) {
		for piece, err := range body {
			if !yield(piece, err) {
				return
			}
			w.s.Progress(w.cut.offset)
		}
	}
}

// newThrottle limits what all snapshots of a pool send to so many bytes a second, a chunk at
// a time; 0 is no limit.
func newThrottle(bytesPerSecond int) *rate.Limiter {
	if bytesPerSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(max(bytesPerSecond, MinSnapshotBandwidth)), MaxChunkBytes)
}

// MinSnapshotBandwidth is the lowest limit, in bytes a second. It keeps the pause between two
// chunks far below the time after which a stream counts as stalled.
const MinSnapshotBandwidth = 64 << 10

// snapshotWriter cuts a state into chunks, all of MaxChunkBytes but for the last. They share their
// memory: send has encoded a request when it returns, and keeps nothing of it. (grpc.EnableTracing
// does, for its page of requests, which then shows later chunks in place of earlier ones.)
type snapshotWriter struct {
	send   func(*pb.InstallSnapshotRequest) error
	broken bool   // the stream has ended; its answer says why
	buf    []byte // the chunk that is being filled
	pack   bool   // compress chunks
	packer *flate.Writer
	small  bytes.Buffer // the chunk that packer has compressed
	offset uint64       // bytes sent
	sums   []uint32     // the CRC-32C of the state up to the end of each chunk
}

// resume sets the writer back to where a receiver is, which has offset bytes with this
// checksum. It reports false if they are not what was sent.
func (w *snapshotWriter) resume(offset uint64, sum uint32) bool {
	chunks := int((offset + MaxChunkBytes - 1) / MaxChunkBytes)
	if offset > w.offset || offset%MaxChunkBytes != 0 && offset != w.offset {
		return false
	}
	w.offset, w.sums, w.buf, w.broken = offset, w.sums[:chunks], w.buf[:0], false
	return w.sum() == sum
}

// sum is the checksum of all that was sent.
func (w *snapshotWriter) sum() uint32 {
	if len(w.sums) == 0 {
		return 0
	}
	return w.sums[len(w.sums)-1]
}

// write sends header, body and trailer. It returns body's error only: if the peer ends the
// stream early, write stops, and the peer's answer is the error.
func (w *snapshotWriter) write(header *pb.SnapshotHeader, body iter.Seq2[[]byte, error]) error {
	w.put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Header{Header: header}})
	for piece, err := range body {
		if err != nil {
			return err
		}
		for len(piece) > 0 && !w.broken {
			if w.buf == nil {
				w.buf = make([]byte, 0, MaxChunkBytes)
			}
			n := min(len(piece), MaxChunkBytes-len(w.buf))
			w.buf = append(w.buf, piece[:n]...)
			piece = piece[n:]
			if len(w.buf) == MaxChunkBytes {
				w.flush()
			}
		}
		if w.broken {
			return nil
		}
	}
	w.flush()
	w.put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Trailer{Trailer: &pb.SnapshotTrailer{
		TotalBytes: w.offset,
		Crc32C:     w.sum(),
	}}})
	return nil
}

// flush sends the chunk that is being filled, unless it is empty.
func (w *snapshotWriter) flush() {
	if len(w.buf) == 0 {
		return
	}
	chunk := &pb.SnapshotChunk{Offset: w.offset, Data: w.buf, Crc32C: crc32.Checksum(w.buf, castagnoli)}
	if packed := w.packed(w.buf); packed != nil {
		chunk.Data, chunk.InflatedBytes = packed, uint32(len(w.buf))
	}
	w.offset += uint64(len(w.buf))
	w.sums = append(w.sums, crc32.Update(w.sum(), castagnoli, w.buf))
	w.put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Chunk{Chunk: chunk}})
	w.buf = w.buf[:0]
}

// packed returns a chunk's data compressed, or nil if that is not to be, or not worth it. It is
// valid until the next chunk's.
func (w *snapshotWriter) packed(data []byte) []byte {
	if !w.pack {
		return nil
	}
	if w.packer == nil {
		w.packer, _ = flate.NewWriter(nil, flate.BestSpeed) // the level is good
	}
	w.small.Reset()
	w.packer.Reset(&w.small)
	_, err := w.packer.Write(data)
	if err = errors.Join(err, w.packer.Close()); err != nil || w.small.Len() > len(data)-len(data)/16 {
		return nil
	}
	return w.small.Bytes()
}

func (w *snapshotWriter) put(req *pb.InstallSnapshotRequest) {
	w.broken = w.broken || w.send(req) != nil
}
