package transport

import (
	"bytes"
	"context"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
)

// counted is a snapshot of this state, and how many bytes of it were read.
func counted(state []byte) (s Snapshot, read *atomic.Int64) {
	read = new(atomic.Int64)
	s = Snapshot{SnapshotHeader: testHeader, State: func(offset uint64) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for rest := state[offset:]; len(rest) > 0; {
				n := min(len(rest), 10_000)
				read.Add(int64(n))
				if !yield(rest[:n], nil) {
					return
				}
				rest = rest[n:]
			}
		}
	}}
	return s, read
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(b)
	return b
}

// A connection that breaks again and again costs what was on its way, and nothing that came.
func TestSnapshotGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	const cuts = 6
	state := noise(32<<20 + 12_345)
	var got bytes.Buffer
	installs, cut := 0, 0
	var proxy *netfault.Proxy
	addr, _ := serve(t, identityB, &fakeNode{install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
		chunks iter.Seq2[[]byte, error],
	) error {
		installs++
		for data, err := range chunks {
			if err != nil {
				return err
			}
			got.Write(data)
			if cut < cuts && got.Len() > (cut+1)*len(state)/(cuts+1) {
				cut++
				proxy.Cut()
			}
		}
		return nil
	}})
	proxy, err := netfault.New(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	p := peersOf(t, identityA, PeersOptions{})
	p.SetAddress(nodeB, proxy.Addr())
	s, read := counted(state)
	var progress atomic.Uint64
	s.Progress = progress.Store
	if err := SendSnapshot(t.Context(), p, nodeB, s); err != nil {
		t.Fatalf("SendSnapshot: %v", err)
	}
	if installs != 1 || cut != cuts || !bytes.Equal(got.Bytes(), state) {
		t.Errorf("got %d bytes in %d installs with %d cuts, want the %d that were sent, once, with %d", got.Len(), installs,
			cut, len(state), cuts)
	}
	if most := int64(len(state)) * 3 / 2; read.Load() > most {
		t.Errorf("read %d bytes of a state of %d to send it, want %d at most", read.Load(), len(state), most)
	}
	if n := progress.Load(); n < uint64(len(state)-MaxChunkBytes) || n > uint64(len(state)) {
		t.Errorf("progress ended at %d of %d", n, len(state))
	}
}

// hold is a handler that takes chunks until its snapshot ends, and tells of both.
func hold(
	took chan<- int, ended chan<- error,
) func(context.Context, nexusraft.NodeID, SnapshotHeader, iter.Seq2[[]byte, error]) error {
	return func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
		total := 0
		for data, err := range chunks {
			if err != nil {
				ended <- err
				return err
			}
			total += len(data)
			took <- total
		}
		ended <- nil
		return nil
	}
}

// begun sends a header and a full chunk of a snapshot, and no more.
func begun(t *testing.T, addr string, h SnapshotHeader, id uint64) pb.RaftTransport_InstallSnapshotClient {
	t.Helper()
	stream, err := pb.NewRaftTransportClient(dialTest(t, addr)).InstallSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &snapshotWriter{send: stream.Send}
	header := headerToProto(hello(identityA, nodeB), h)
	header.Id = id
	w.put(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Header{Header: header}})
	w.buf = make([]byte, MaxChunkBytes)
	w.flush()
	return stream
}

func offsetOf(t *testing.T, addr string, h SnapshotHeader, id uint64) *pb.SnapshotOffsetResponse {
	t.Helper()
	header := headerToProto(hello(identityA, nodeB), h)
	header.Id = id
	resp, err := pb.NewRaftTransportClient(dialTest(t, addr)).SnapshotOffset(t.Context(),
		&pb.SnapshotOffsetRequest{Header: header})
	if err != nil || resp.GetError() != nil {
		t.Fatalf("SnapshotOffset: %v, %v", err, resp.GetError())
	}
	return resp
}

// Whoever asks for the offset means to go on: a stream that hangs is ended, and what it brought
// stays.
func TestSnapshotOffsetEndsTheStreamBefore(t *testing.T) {
	took, ended := make(chan int, 10), make(chan error, 10)
	addr, _ := serve(t, identityB, &fakeNode{install: hold(took, ended)})
	stream := begun(t, addr, testHeader, 5)
	if n := await(t, "the first chunk", took); n != MaxChunkBytes {
		t.Fatalf("the handler got %d bytes", n)
	}
	if got := offsetOf(t, addr, testHeader, 5); got.GetOffset() != MaxChunkBytes {
		t.Errorf("offset: got %d, want %d", got.GetOffset(), MaxChunkBytes)
	}
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.Aborted {
		t.Errorf("the stream before: got %v, want Aborted", err)
	}
	other := testHeader
	other.Index++
	for name, got := range map[string]*pb.SnapshotOffsetResponse{
		"another ID":                offsetOf(t, addr, testHeader, 6),
		"another index":             offsetOf(t, addr, other, 5),
		"one that can't be resumed": offsetOf(t, addr, testHeader, 0),
	} {
		if got.GetOffset() != 0 {
			t.Errorf("%s: offset %d, want 0", name, got.GetOffset())
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the handler ended: %v", err)
	default:
	}
}

// A sender that stalls loses its stream, and what it brought gives way to a newer snapshot of the
// zone, or when others need the room.
func TestStalledSnapshotGivesWay(t *testing.T) {
	t.Parallel()
	took, ended := make(chan int, 10), make(chan error, 10)
	f := &fakeNode{install: hold(took, ended)}
	s := NewServer(as(identityB), f.handlers())
	s.incoming.stall = time.Second
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	zone := func(i int) SnapshotHeader {
		h := testHeader
		h.Zone += nexusraft.ZoneID(i)
		return h
	}
	var stalled []pb.RaftTransport_InstallSnapshotClient
	for i := range maxIncomingSnapshots {
		stalled = append(stalled, begun(t, addr, zone(i), uint64(i+1)))
		await(t, "a chunk", took)
	}
	for i, stream := range stalled {
		if err := stream.RecvMsg(&pb.InstallSnapshotResponse{}); status.Code(err) != codes.Aborted ||
			!strings.Contains(err.Error(), "nothing came") {
			t.Errorf("stalled stream %d: got %v, want Aborted", i, err)
		}
	}
	begun(t, addr, zone(maxIncomingSnapshots), 8)
	await(t, "a chunk of one more", took)
	if err := await(t, "the end of an older one", ended); err == nil {
		t.Error("a snapshot of which only a part came was accepted")
	}
	var left []SnapshotHeader
	for i := range maxIncomingSnapshots {
		if offsetOf(t, addr, zone(i), uint64(i+1)).GetOffset() > 0 {
			left = append(left, zone(i))
		}
	}
	if len(left) != maxIncomingSnapshots-1 {
		t.Fatalf("%d of the stalled ones are left, want %d", len(left), maxIncomingSnapshots-1)
	}
	newer := left[0]
	newer.Index += 10
	begun(t, addr, newer, 9)
	await(t, "the newer one's chunk", took)
	if err := await(t, "the end of the earlier one of the zone", ended); err == nil ||
		!strings.Contains(err.Error(), "newer") {
		t.Errorf("got %v, want that a newer one came", err)
	}
}

// Without a stream, a snapshot that comes in ends by itself.
func TestReceiptIsKeptForAWhile(t *testing.T) {
	t.Parallel()
	took, ended := make(chan int, 10), make(chan error, 10)
	f := &fakeNode{install: hold(took, ended)}
	s := NewServer(as(identityB), f.handlers())
	s.incoming.stall, s.incoming.keep = time.Second, 10*time.Millisecond
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	begun(t, addr, testHeader, 5)
	await(t, "the first chunk", took)
	if err := await(t, "the end", ended); err == nil || !strings.Contains(err.Error(), "not gone on with") {
		t.Errorf("got %v", err)
	}
}

// A receiver that has started anew has nothing, and gets all of it.
func TestSnapshotToARestartedReceiver(t *testing.T) {
	t.Parallel()
	took, ended := make(chan int, 1000), make(chan error, 10)
	addr, stop := serve(t, identityB, &fakeNode{install: hold(took, ended)})
	p := peersOf(t, identityA, PeersOptions{SnapshotBandwidth: 8 << 20})
	p.SetAddress(nodeB, addr)
	state := noise(4 << 20)
	s, _ := counted(state)
	sent := make(chan error, 1)
	go func() { sent <- SendSnapshot(t.Context(), p, nodeB, s) }()
	for await(t, "chunks", took) < 3*MaxChunkBytes {
	}
	if err := await(t, "the first one's end", stopped(stop, ended)); err == nil {
		t.Error("a part was accepted")
	}
	var got bytes.Buffer
	var header SnapshotHeader
	f := &fakeNode{install: collect(&got, &header)}
	serveAt(t, addr, NewServer(as(identityB), f.handlers()))
	if err := await(t, "the sender's end", sent); err != nil || !bytes.Equal(got.Bytes(), state) {
		t.Errorf("got %v and %d bytes, want all %d", err, got.Len(), len(state))
	}
}

func stopped(stop func(), ended <-chan error) <-chan error {
	stop()
	return ended
}

// A limit is for all snapshots of a pool together.
func TestSnapshotBandwidth(t *testing.T) {
	t.Parallel()
	var total atomic.Int64
	addr, _ := serve(t, identityB, &fakeNode{install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
		chunks iter.Seq2[[]byte, error],
	) error {
		for data, err := range chunks {
			if err != nil {
				return err
			}
			total.Add(int64(len(data)))
		}
		return nil
	}})
	p := peersOf(t, identityA, PeersOptions{SnapshotBandwidth: 4 << 20})
	p.SetAddress(nodeB, addr)
	begin := time.Now()
	var wg sync.WaitGroup
	for zone := range nexusraft.ZoneID(2) {
		wg.Go(func() {
			s, _ := counted(noise(1 << 20))
			s.Zone = zone + 1
			if err := SendSnapshot(t.Context(), p, nodeB, s); err != nil {
				t.Errorf("SendSnapshot: %v", err)
			}
		})
	}
	wg.Wait()
	if took, least := time.Since(begin), 400*time.Millisecond; took < least || total.Load() != 2<<20 {
		t.Errorf("%d bytes took %v, want %d in %v at least", total.Load(), took, 2<<20, least)
	}
}
