package transport

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

var testHeader = SnapshotHeader{Zone: 1, From: 11, To: 12, Index: 100, Term: 4, Message: []byte("MsgSnap")}

// pieces is a state of these pieces, each yielded from the same memory, as it may be.
func pieces(all ...[]byte) Snapshot {
	return snapshotOf(func(yield func([]byte, error) bool) {
		var buf []byte
		for _, p := range all {
			buf = append(buf[:0], p...)
			if !yield(buf, nil) {
				return
			}
		}
	})
}

// snapshotOf is a snapshot of this state, which is read anew for each stream.
func snapshotOf(state iter.Seq2[[]byte, error]) Snapshot {
	return Snapshot{SnapshotHeader: testHeader, State: func(offset uint64) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for p, err := range state {
				skip := min(offset, uint64(len(p)))
				offset -= skip
				if (err != nil || len(p[skip:]) > 0) && !yield(p[skip:], err) {
					return
				}
			}
		}
	}}
}

// collect is an InstallSnapshot handler that keeps what it gets.
func collect(
	into *bytes.Buffer, header *SnapshotHeader,
) func(context.Context, nexusraft.NodeID, SnapshotHeader, iter.Seq2[[]byte, error]) error {
	return func(_ context.Context, _ nexusraft.NodeID, h SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
		*header = h
		for data, err := range chunks {
			if err != nil {
				return err
			}
			into.Write(data)
		}
		return nil
	}
}

func TestSendSnapshot(t *testing.T) {
	random := make([]byte, 3*MaxChunkBytes+5)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(random)
	for name, body := range map[string][][]byte{
		"empty":       nil,
		"one byte":    {{7}},
		"one chunk":   {random[:MaxChunkBytes]},
		"large piece": {random},
		"many pieces": slices.Collect(slices.Chunk(random, 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			var header SnapshotHeader
			addr, _ := serve(t, identityB, &fakeNode{install: collect(&got, &header)})
			p := peersOf(t, identityA, PeersOptions{})
			p.SetAddress(nodeB, addr)
			if err := SendSnapshot(t.Context(), p, nodeB, pieces(body...)); err != nil {
				t.Fatalf("SendSnapshot: %v", err)
			}
			if diff := cmp.Diff(testHeader, header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if !bytes.Equal(got.Bytes(), bytes.Join(body, nil)) {
				t.Errorf("body: got %d bytes that differ from the %d sent", got.Len(), len(bytes.Join(body, nil)))
			}
		})
	}
}

func TestSendSnapshotReturnsWhyNot(t *testing.T) {
	errBody := errors.New("the disk is on fire")
	started := make(chan struct{})
	failing := func(yield func([]byte, error) bool) {
		if yield(make([]byte, MaxChunkBytes), nil) {
			<-started // or the receiver may never hear of the snapshot
			yield(nil, errBody)
		}
	}
	endless := func(yield func([]byte, error) bool) {
		for yield(make([]byte, MaxChunkBytes), nil) {
		}
	}
	ended := make(chan error, 1)
	collectEnd := func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
		close(started)
		var last error
		for _, err := range chunks {
			last = err
		}
		ended <- last
		return last
	}
	refuse := func(context.Context, nexusraft.NodeID, SnapshotHeader, iter.Seq2[[]byte, error]) error {
		return nexusraft.ErrDiskFull
	}
	negligent := func(context.Context, nexusraft.NodeID, SnapshotHeader, iter.Seq2[[]byte, error]) error { return nil }

	send := func(t *testing.T, f *fakeNode, s Snapshot) error {
		addr, _ := serve(t, identityB, f)
		p := peersOf(t, identityA, PeersOptions{})
		p.SetAddress(nodeB, addr)
		return SendSnapshot(t.Context(), p, nodeB, s)
	}
	t.Run("body fails", func(t *testing.T) {
		if err := send(t, &fakeNode{install: collectEnd}, snapshotOf(failing)); !errors.Is(err, errBody) {
			t.Errorf("got %v, want the body's error", err)
		}
		if err := await(t, "the receiver's end", ended); err == nil {
			t.Error("the receiver took a snapshot whose sender gave up")
		}
	})
	t.Run("receiver refuses midway", func(t *testing.T) {
		if err := send(t, &fakeNode{install: refuse}, snapshotOf(endless)); !errors.Is(err, nexusraft.ErrDiskFull) {
			t.Errorf("got %v, want ErrDiskFull", err)
		}
	})
	t.Run("receiver accepts unread", func(t *testing.T) {
		if err := send(t, &fakeNode{install: negligent}, pieces([]byte("x"))); err == nil ||
			!strings.Contains(err.Error(), "trailer") {
			t.Errorf("got %v, want an error about the trailer", err)
		}
	})
	t.Run("header too large", func(t *testing.T) {
		s := pieces()
		s.Message = make([]byte, maxSnapshotMessageBytes+1)
		if err := send(t, &fakeNode{}, s); !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
	})
	t.Run("unknown peer", func(t *testing.T) {
		err := SendSnapshot(t.Context(), peersOf(t, identityA, PeersOptions{}), nodeB, pieces())
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
}

func TestCloseEndsSnapshot(t *testing.T) {
	started := make(chan struct{})
	addr, _ := serve(t, identityB, &fakeNode{install: func(ctx context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
		_ iter.Seq2[[]byte, error],
	) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}})
	p := peersOf(t, identityA, PeersOptions{})
	p.SetAddress(nodeB, addr)
	ended := make(chan error, 1)
	go func() { ended <- SendSnapshot(context.WithoutCancel(t.Context()), p, nodeB, pieces()) }()
	await(t, "the receiver", started)
	p.Close()
	if err := await(t, "the sender's end", ended); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// goodSteps are a good snapshot of two chunks.
func goodSteps() []*pb.InstallSnapshotRequest {
	var all []*pb.InstallSnapshotRequest
	w := &snapshotWriter{send: func(r *pb.InstallSnapshotRequest) error {
		all = append(all,
			proto.CloneOf(r))
		return nil
	}}
	_ = w.write(headerToProto(hello(identityA, nodeB), testHeader),
		pieces(make([]byte, MaxChunkBytes), []byte("rest")).State(0))
	return all
}

// A snapshot takes the memory of a chunk, however many it has.
func TestChunksShareTheirMemory(t *testing.T) {
	const chunks = 9
	for name, pack := range map[string]bool{"plain": false, "compressed": true} {
		t.Run(name, func(t *testing.T) {
			sent, last, moved := 0, (*byte)(nil), 0
			w := &snapshotWriter{pack: pack, send: func(r *pb.InstallSnapshotRequest) error {
				c := r.GetChunk()
				if c == nil {
					return nil
				}
				if compressed := c.GetInflatedBytes() != 0; compressed != pack {
					t.Errorf("chunk %d: compressed is %v, want %v", sent, compressed, pack)
				}
				if sent++; last != &c.GetData()[0] {
					last, moved = &c.GetData()[0], sent
				}
				return nil
			}}
			if err := w.write(&pb.SnapshotHeader{}, pieces(records(chunks*MaxChunkBytes)).State(0)); err != nil {
				t.Fatalf("write: %v", err)
			}
			if sent != chunks || moved > 2 {
				t.Errorf("%d chunks were sent, the last new memory was the %d.'s; want %d, and none after the second", sent, moved,
					chunks)
			}
		})
	}
}

func TestReceiverRefusesBadSnapshots(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func([]*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest
		text  string
	}{
		{"flipped bit", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			s[1].GetChunk().Data[99] ^= 1
			return s
		}, "checksum mismatch"},
		{"cut off", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest { return s[:3] }, "without a trailer"},
		{
			"missing chunk", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest { return slices.Delete(s, 1, 2) },
			"chunk for offset",
		},
		{"missing last chunk", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			return slices.Delete(s, 2,
				3)
		}, "the trailer says"},
		{"repeated chunk", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			return slices.Insert(s, 2,
				s[1])
		}, "chunk for offset"},
		{"second header", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			return slices.Insert(s, 2,
				s[0])
		}, "neither chunk nor trailer"},
		{"other data, own checksum", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			c := s[2].GetChunk()
			c.Data = []byte("bent")
			c.Crc32C = crc32.Checksum(c.Data, castagnoli)
			return s
		}, "the trailer says"},
		{"empty chunk", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			s[1].GetChunk().Data = nil
			return s
		}, "has 0 bytes"},
		{"large chunk", func(s []*pb.InstallSnapshotRequest) []*pb.InstallSnapshotRequest {
			s[1].GetChunk().Data = make([]byte, MaxChunkBytes+1)
			return s
		}, "bytes, limits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			var header SnapshotHeader
			addr, _ := serve(t, identityB, &fakeNode{install: collect(&got, &header)})
			stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).InstallSnapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.spoil(goodSteps()) {
				if stream.Send(s) != nil {
					break // refused already
				}
			}
			resp, err := stream.CloseAndRecv()
			if err != nil {
				t.Fatalf("CloseAndRecv: %v", err)
			}
			if err := wire.ErrorFromProto(resp.GetError()); !errors.Is(err, nexusraft.ErrCorrupt) ||
				!strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want ErrCorrupt with %q", err, tt.text)
			}
		})
	}
}

func TestSnapshotWithoutHeaderIsInvalid(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{})
	stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).InstallSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(goodSteps()[1])
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

// A snapshot far larger than what may be held in memory passes through.
func TestBigSnapshotInBoundedMemory(t *testing.T) {
	const total, limit = 64 << 20, 24 << 20
	var most uint64
	addr, _ := serve(t, identityB, &fakeNode{install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
		chunks iter.Seq2[[]byte, error],
	) error {
		received := 0
		for data, err := range chunks {
			if err != nil {
				return err
			}
			if received += len(data); received%(16<<20) == 0 {
				most = max(most, liveHeap())
			}
		}
		if received != total {
			return errors.New("bytes are missing")
		}
		return nil
	}})
	p := peersOf(t, identityA, PeersOptions{})
	p.SetAddress(nodeB, addr)
	before := liveHeap()
	err := SendSnapshot(t.Context(), p, nodeB, snapshotOf(func(yield func([]byte, error) bool) {
		piece := make([]byte, 64<<10)
		for range total / len(piece) {
			if !yield(piece, nil) {
				return
			}
		}
	}))
	if err != nil {
		t.Fatalf("SendSnapshot: %v", err)
	}
	if most == 0 || most > before+limit {
		t.Errorf("heap: got %d MiB at most, %d before; want at most %d more", most>>20, before>>20, limit>>20)
	}
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
