package transport

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"iter"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// marshal is for a test's own messages.
func marshal(m proto.Message) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return body
}

// TestRefusalsByTheirWords pins down what an operator reads when the wrong node calls.
func TestRefusalsByTheirWords(t *testing.T) {
	t.Parallel()
	f := &fakeNode{}
	s := NewServer(as(identityB), f.handlers())
	s.seen.record(identityA)
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	for _, tt := range []struct {
		name string
		mend func(*Identity)
		want string
	}{
		{
			"other cluster",
			func(id *Identity) { id.Cluster = 0xc2 },
			"handshake: cluster mismatch: peer 000000000000000a belongs to cluster 00000000000000c2, node 000000000000000b to " +
				"cluster 00000000000000c1",
		},
		{
			"an opening that nobody made",
			func(id *Identity) { id.Boot = 2 },
			"node 000000000000000a comes as incarnation 5, and another opening of its data directory had that number before: " +
				"it was copied or rolled back",
		},
		{
			"old incarnation",
			func(id *Identity) { id.Incarnation = 4 },
			"node 000000000000000a comes as incarnation 4 and has been seen as incarnation 5: its data directory was copied " +
				"or rolled back",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := identityA
			tt.mend(&id)
			log := &lines{}
			p := peersOf(t, id, PeersOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
			p.SetAddress(nodeB, addr)
			eventually(t, "the log says "+tt.want, func() bool { return strings.Contains(log.String(), tt.want) })
			end := await(t, "the votes", ask(t, p, Vote{Zone: 1, From: 1, To: 2, Term: 3}))
			if end.err == nil {
				t.Error("votes of a refused node were counted")
			}
			err := SendSnapshot(t.Context(), p, nodeB, pieces([]byte("state")))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("SendSnapshot: got %v, want %q", err, tt.want)
			}
		})
	}
}

// plainSnapshot is a good one, as it was in the first version. It is small, so that each of
// its bytes can be spoiled.
func plainSnapshot() [][]byte {
	header := &pb.InstallSnapshotRequest_Header{Header: headerToProto(hello(identityA, nodeB), testHeader)}
	steps := [][]byte{marshal(&pb.InstallSnapshotRequest{Kind: header})}
	put := func(s *pb.InstallSnapshotRequest) { steps = append(steps, marshal(s)) }
	var state []byte
	for _, data := range []string{"the first chunk of a state", "and the second"} {
		put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Chunk{Chunk: &pb.SnapshotChunk{
			Offset: uint64(len(state)),
			Data:   []byte(data),
			Crc32C: crc32.Checksum([]byte(data), castagnoli),
		}}})
		state = append(state, data...)
	}
	put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Trailer{Trailer: &pb.SnapshotTrailer{
		TotalBytes: uint64(len(state)),
		Crc32C:     crc32.Checksum(state, castagnoli),
	}}})
	return steps
}

// install makes a snapshot call of raw steps, and returns the node's answer.
func install(ctx context.Context, conn *grpc.ClientConn, steps [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, callsTimeout)
	defer cancel()
	stream, err := conn.NewStream(ctx, bothWays, pb.RaftTransport_InstallSnapshot_FullMethodName,
		grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := stream.SendMsg(&s); errors.Is(err, io.EOF) {
			break // refused already
		}
	}
	_ = stream.CloseSend() // it never fails
	var body []byte
	if err := stream.RecvMsg(&body); err != nil {
		return err
	}
	var resp pb.InstallSnapshotResponse
	if err := proto.Unmarshal(body, &resp); err != nil {
		return err
	}
	return wire.ErrorFromProto(resp.GetError())
}

// TestSnapshotWithAnyByteChanged changes each byte of each step after the header, in three
// ways, and cuts each step off at each length. None of them passes.
func TestSnapshotWithAnyByteChanged(t *testing.T) {
	var complete int // snapshots that ended well for the handler
	addr, _ := serve(t, identityB, &fakeNode{
		install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
			for _, err := range chunks {
				if err != nil {
					return err
				}
			}
			complete++
			return nil
		},
	})
	conn := dialTest(t, addr)
	if err := install(t.Context(), conn, plainSnapshot()); err != nil || complete != 1 {
		t.Fatalf("the snapshot unspoiled: got %v", err)
	}
	refuses := func(what string, step, at int, steps [][]byte) {
		t.Helper()
		if err := install(t.Context(), conn, steps); err == nil || complete != 1 {
			t.Fatalf("step %d, byte %d %s: got %v, want a refusal", step, at, what, err)
		}
	}
	good := plainSnapshot()
	for i := 1; i < len(good); i++ {
		for at := range good[i] {
			for _, bits := range []byte{0x01, 0x80, 0xff} {
				steps := plainSnapshot()
				steps[i][at] ^= bits
				refuses("changed", i, at, steps)
			}
			steps := plainSnapshot()
			steps[i] = steps[i][:at]
			refuses("cut off", i, at, steps)
			if i < len(good)-1 {
				refuses("the last", i, at, steps[:i+1])
			}
		}
	}
}
