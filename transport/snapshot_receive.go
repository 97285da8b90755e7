package transport

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// InstallSnapshot implements pb.RaftTransportServer.
func (r raftService) InstallSnapshot(
	stream grpc.ClientStreamingServer[pb.InstallSnapshotRequest, pb.InstallSnapshotResponse],
) error {
	if r.s.h.Member == nil {
		return errWitness
	}
	first := new(pb.InstallSnapshotRequest)
	if err := awaitFirst(func() error { return stream.RecvMsg(first) }); err != nil {
		return endOfStream(err)
	}
	header := first.GetHeader()
	if header == nil {
		return status.Error(codes.InvalidArgument, "read snapshot: the first request carries no header")
	}
	err := r.s.install(stream, header)
	if ended, ok := errors.AsType[errStreamEnded](err); ok {
		return status.Error(codes.Aborted, ended.Error())
	}
	return stream.SendAndClose(&pb.InstallSnapshotResponse{
		Hello: r.s.hello(header.GetHello()),
		Error: wire.ErrorToProto(err),
	})
}

// SnapshotOffset implements pb.RaftTransportServer.
func (r raftService) SnapshotOffset(
	ctx context.Context, req *pb.SnapshotOffsetRequest,
) (*pb.SnapshotOffsetResponse, error) {
	if r.s.h.Member == nil {
		return nil, errWitness
	}
	resp := &pb.SnapshotOffsetResponse{}
	if err := r.s.snapshotOffset(ctx, req.GetHeader(), resp); err != nil {
		resp.Error = wire.ErrorToProto(err)
	}
	resp.Hello = r.s.hello(req.GetHeader().GetHello())
	return resp, nil
}

func (s *Server) snapshotOffset(ctx context.Context, header *pb.SnapshotHeader, resp *pb.SnapshotOffsetResponse) error {
	peer, _, err := s.greetSnapshot(ctx, header)
	if err != nil {
		return err
	}
	r := s.incoming.find(snapshotKeyOf(peer.Node, header))
	if r == nil {
		return nil
	}
	leave, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer leave()
	resp.Offset, resp.Crc32C = r.reader.offset, r.reader.sum
	return nil
}

func (s *Server) greetSnapshot(ctx context.Context, header *pb.SnapshotHeader) (Identity, SnapshotHeader, error) {
	peer, err := s.greet(ctx, header.GetHello(), false)
	if err != nil {
		return Identity{}, SnapshotHeader{}, err
	}
	h, err := headerFromProto(header)
	return peer, h, err
}

// install feeds a stream to its snapshot, which may have had others.
func (s *Server) install(
	stream grpc.ClientStreamingServer[pb.InstallSnapshotRequest, pb.InstallSnapshotResponse], header *pb.SnapshotHeader,
) error {
	ctx := stream.Context()
	peer, h, err := s.greetSnapshot(ctx, header)
	if err != nil {
		return err
	}
	key := snapshotKeyOf(peer.Node, header)
	r := s.incoming.find(key)
	if s.h.CheckSnapshot != nil {
		if err := s.h.CheckSnapshot(ctx, peer.Node, h); err != nil {
			return err
		}
	}
	if r == nil && header.GetOffset() == 0 {
		r, err = s.incoming.open(ctx, key, func(ctx context.Context, r *incomingSnapshot) error {
			return s.h.Member.InstallSnapshot(ctx, peer.Node, h, r.chunks())
		})
		if err != nil {
			return err
		}
	}
	if r == nil {
		return fmt.Errorf("install snapshot of zone %v: the %d bytes that came before are no longer kept", h.Zone,
			header.GetOffset())
	}
	leave, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if header.GetOffset() != r.reader.offset {
		return r.fail(fmt.Errorf("%w: read snapshot: a stream goes on at %d, but %d bytes have come", nexusraft.ErrCorrupt,
			header.GetOffset(), r.reader.offset))
	}
	return r.feed(readSteps(ctx, stream.Recv), s.incoming.stall)
}

// snapshotReader checks what follows a snapshot's header.
type snapshotReader struct {
	offset uint64 // bytes that have come
	sum    uint32 // their CRC-32C

	inflater io.ReadCloser // nil until a chunk is compressed
}

// check returns a chunk's data, or io.EOF for a good trailer. The state of the reader changes with
// advance only.
func (r *snapshotReader) check(req *pb.InstallSnapshotRequest) ([]byte, error) {
	switch {
	case req.GetChunk() != nil:
		return r.chunk(req.GetChunk())
	case req.GetTrailer() != nil:
		return nil, r.trailer(req.GetTrailer())
	}
	return nil, fmt.Errorf("%w: read snapshot: neither chunk nor trailer after %d bytes", nexusraft.ErrCorrupt, r.offset)
}

func (r *snapshotReader) chunk(c *pb.SnapshotChunk) ([]byte, error) {
	data := c.GetData()
	switch {
	case len(data) == 0 || len(data) > MaxChunkBytes:
		return nil, fmt.Errorf("%w: read snapshot: chunk at %d has %d bytes, limits 1 and %d", nexusraft.ErrCorrupt, r.offset,
			len(data), MaxChunkBytes)
	case c.GetOffset() != r.offset:
		return nil, fmt.Errorf("%w: read snapshot: chunk for offset %d at %d", nexusraft.ErrCorrupt, c.GetOffset(), r.offset)
	}
	data, err := r.inflated(data, c.GetInflatedBytes())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: read snapshot: chunk at %d: %w", nexusraft.ErrCorrupt, r.offset, err)
	case c.GetCrc32C() != crc32.Checksum(data, castagnoli):
		return nil, fmt.Errorf("%w: read snapshot: checksum mismatch in the chunk at %d", nexusraft.ErrCorrupt, r.offset)
	}
	return data, nil
}

// inflated returns a chunk's data decompressed to n bytes, and as it is if n is 0. No more than
// that is ever decompressed.
func (r *snapshotReader) inflated(data []byte, n uint32) ([]byte, error) {
	switch {
	case n == 0:
		return data, nil
	case n > MaxChunkBytes || int(n) <= len(data):
		return nil, fmt.Errorf("%d bytes that say they are %d, limit %d", len(data), n, MaxChunkBytes)
	case r.inflater == nil:
		r.inflater = flate.NewReader(bytes.NewReader(data))
	default:
		if err := r.inflater.(flate.Resetter).Reset(bytes.NewReader(data), nil); err != nil {
			return nil, err
		}
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(r.inflater, out); err != nil {
		return nil, fmt.Errorf("decompress to %d bytes: %w", n, err)
	}
	if _, err := io.ReadFull(r.inflater, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("it does not end after %d bytes", n)
	}
	return out, nil
}

func (r *snapshotReader) trailer(t *pb.SnapshotTrailer) error {
	if t.GetTotalBytes() != r.offset || t.GetCrc32C() != r.sum {
		return fmt.Errorf("%w: read snapshot: the trailer says %d bytes with checksum %08x, received were %d with %08x",
			nexusraft.ErrCorrupt, t.GetTotalBytes(), t.GetCrc32C(), r.offset, r.sum)
	}
	return io.EOF
}

// advance counts a chunk's data as come.
func (r *snapshotReader) advance(data []byte) {
	r.offset += uint64(len(data))
	r.sum = crc32.Update(r.sum, castagnoli, data)
}

// readSteps reads a stream in a goroutine, which ends with ctx, so that its reader can leave at any
// time.
func readSteps(ctx context.Context, recv func() (*pb.InstallSnapshotRequest, error)) <-chan snapshotStep {
	ch := make(chan snapshotStep)
	go func() {
		for {
			req, err := recv()
			select {
			case ch <- snapshotStep{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ch
}

type snapshotStep struct {
	req *pb.InstallSnapshotRequest
	err error
}
