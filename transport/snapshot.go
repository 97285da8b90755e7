package transport

import (
	"context"
	"fmt"
	"hash/crc32"
	"iter"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// SendSnapshot streams a zone's state to a peer and returns when the peer has verified and
// accepted it, or why it has not. It has a connection of its own, so that heartbeats don't
// wait behind it, and no deadline but ctx: give it one that suits the size and the link.
//
// Body yields the state in pieces of any size, each borrowed until the next; an error that
// it yields ends the stream and is returned.
func (p *Peers) SendSnapshot(ctx context.Context, to nexusraft.NodeID, h SnapshotHeader, body iter.Seq2[[]byte, error]) error {
	if n := len(h.Message); n > MaxSnapshotMessageBytes {
		return fmt.Errorf("%w: send snapshot: a message of %d bytes, limit %d", nexusraft.ErrTooLarge, n, MaxSnapshotMessageBytes)
	}
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
	defer cancel() // an unfinished stream is cut off here, and the peer refuses it
	if err := p.stream(ctx, c.conn, to, h, body); err != nil {
		return fmt.Errorf("send snapshot of zone %v to node %v: %w", h.Zone, to, reason(ctx, err))
	}
	return nil
}

func (p *Peers) stream(ctx context.Context, conn *grpc.ClientConn, to nexusraft.NodeID, h SnapshotHeader, body iter.Seq2[[]byte, error]) error {
	stream, err := pb.NewRaftTransportClient(conn).InstallSnapshot(ctx)
	if err != nil {
		return err
	}
	self := p.id()
	w := &snapshotWriter{send: stream.Send}
	if err := w.write(headerToProto(hello(self, to), h), body); err != nil {
		return err
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if e := resp.GetError(); e != nil {
		return wire.ErrorFromProto(e)
	}
	return p.accept(self, resp.GetHello(), to)
}

// snapshotWriter cuts a state into chunks.
type snapshotWriter struct {
	send   func(*pb.InstallSnapshotRequest) error
	broken bool   // the stream has ended; its answer says why
	buf    []byte // the chunk that is being filled
	offset uint64 // bytes sent
	sum    uint32 // their CRC-32C
}

// write sends header, body and trailer. It returns body's error only: if the peer ends the
// stream early, write stops, and the peer's answer is the error.
func (w *snapshotWriter) write(header *pb.InstallSnapshotRequest, body iter.Seq2[[]byte, error]) error {
	w.put(header)
	for piece, err := range body {
		if err != nil {
			return err
		}
		for len(piece) > 0 && !w.broken {
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
		Crc32C:     w.sum,
	}}})
	return nil
}

// flush sends the chunk that is being filled, unless it is empty.
func (w *snapshotWriter) flush() {
	if len(w.buf) == 0 {
		return
	}
	w.put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Chunk{Chunk: &pb.SnapshotChunk{
		Offset: w.offset,
		Data:   w.buf,
		Crc32C: crc32.Checksum(w.buf, castagnoli),
	}}})
	w.offset += uint64(len(w.buf))
	w.sum = crc32.Update(w.sum, castagnoli, w.buf)
	w.buf = nil // gRPC may still read the old one
}

func (w *snapshotWriter) put(req *pb.InstallSnapshotRequest) {
	w.broken = w.broken || w.send(req) != nil
}
