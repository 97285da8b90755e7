package transport

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// InstallSnapshot implements pb.RaftTransportServer.
func (r raftService) InstallSnapshot(stream grpc.ClientStreamingServer[pb.InstallSnapshotRequest, pb.InstallSnapshotResponse]) error {
	if r.s.member == nil {
		return errWitness
	}
	first, err := stream.Recv()
	if err != nil {
		return endOfStream(err)
	}
	header := first.GetHeader()
	if header == nil {
		return status.Error(codes.InvalidArgument, "read snapshot: the first request carries no header")
	}
	err = r.s.install(stream, header)
	return stream.SendAndClose(&pb.InstallSnapshotResponse{
		Hello: r.s.hello(header.GetHello()),
		Error: wire.ErrorToProto(err),
	})
}

func (s *Server) install(stream grpc.ClientStreamingServer[pb.InstallSnapshotRequest, pb.InstallSnapshotResponse], header *pb.SnapshotHeader) error {
	peer, err := s.greet(stream.Context(), header.GetHello(), false)
	if err != nil {
		return err
	}
	h, err := headerFromProto(header)
	if err != nil {
		return err
	}
	body := &snapshotReader{recv: stream.Recv}
	if err := s.member.InstallSnapshot(stream.Context(), peer.Node, h, body.chunks()); err != nil {
		return err
	}
	if !errors.Is(body.end, io.EOF) {
		return fmt.Errorf("install snapshot of zone %v: accepted before its trailer was checked", h.Zone)
	}
	return nil
}

// snapshotReader checks and unpacks what follows a snapshot's header.
type snapshotReader struct {
	recv   func() (*pb.InstallSnapshotRequest, error)
	offset uint64 // bytes yielded
	sum    uint32 // their CRC-32C
	end    error  // why there is no more: io.EOF after a good trailer; nil before the end
}

// chunks yields the data in order, and one error last unless the trailer matched.
func (r *snapshotReader) chunks() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for r.end == nil {
			var data []byte
			data, r.end = r.next()
			if r.end == nil && !yield(data, nil) {
				return
			}
		}
		if !errors.Is(r.end, io.EOF) {
			yield(nil, r.end)
		}
	}
}

// next returns the next chunk's data, or io.EOF after a good trailer.
func (r *snapshotReader) next() ([]byte, error) {
	req, err := r.recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: read snapshot: cut off after %d bytes, without a trailer", nexusraft.ErrCorrupt, r.offset)
	case err != nil:
		return nil, fmt.Errorf("read snapshot: after %d bytes: %w", r.offset, err)
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
		return nil, fmt.Errorf("%w: read snapshot: chunk at %d has %d bytes, limits 1 and %d", nexusraft.ErrCorrupt, r.offset, len(data), MaxChunkBytes)
	case c.GetOffset() != r.offset:
		return nil, fmt.Errorf("%w: read snapshot: chunk for offset %d at %d", nexusraft.ErrCorrupt, c.GetOffset(), r.offset)
	case c.GetCrc32C() != crc32.Checksum(data, castagnoli):
		return nil, fmt.Errorf("%w: read snapshot: checksum mismatch in the chunk at %d", nexusraft.ErrCorrupt, r.offset)
	}
	r.offset += uint64(len(data))
	r.sum = crc32.Update(r.sum, castagnoli, data)
	return data, nil
}

func (r *snapshotReader) trailer(t *pb.SnapshotTrailer) error {
	if t.GetTotalBytes() != r.offset || t.GetCrc32C() != r.sum {
		return fmt.Errorf("%w: read snapshot: the trailer says %d bytes with checksum %08x, received were %d with %08x",
			nexusraft.ErrCorrupt, t.GetTotalBytes(), t.GetCrc32C(), r.offset, r.sum)
	}
	return io.EOF
}
