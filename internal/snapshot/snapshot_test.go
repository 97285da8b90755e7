package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// joinPieces is all that a state yields.
func joinPieces(t *rapid.T, pieces iter.Seq2[[]byte, error]) []byte {
	var all []byte
	for p, err := range pieces {
		if err != nil {
			t.Fatal(err)
		}
		if len(p) == 0 {
			t.Fatal("an empty piece")
		}
		all = append(all, p...)
	}
	return all
}

// From any offset on, whatever was read before, a state's bytes are the same.
func TestEncoderGoesOnAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, err := storage.OpenTemporary(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		tree, err := store.Tree("state")
		if err != nil {
			t.Fatal(err)
		}
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{
			0, 1, 127, 128, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3 << 20,
			9 << 20,
		}), 0, 8).Draw(t, "sizes")
		var want []byte
		for i, n := range sizes {
			key, value := []byte{byte(i)}, bytes.Repeat([]byte{byte(i + 1)}, n)
			if err := tree.Set(key, value, storage.NoSync); err != nil {
				t.Fatal(err)
			}
			want = append(binary.AppendUvarint(want, 1), key...)
			want = append(binary.AppendUvarint(want, uint64(n)), value...)
		}
		snap := store.NewSnapshot()
		defer snap.Close()
		e := NewEncoder(snap.Reader(tree))
		for _, share := range rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 4).Draw(t, "offsets") {
			offset := uint64(share * float64(len(want)))
			if got := joinPieces(t, e.From(offset)); !bytes.Equal(got, want[offset:]) {
				t.Fatalf("from %d: got %d bytes that are not the %d wanted", offset, len(got), len(want[offset:]))
			}
		}
	})
}

// snapshotEnd is a transport member that receives a state, and raft hears nothing.
type snapshotEnd struct {
	transport.MemberHandler
	transport.PeerHandler

	store *storage.Store
	tree  atomic.Pointer[storage.Tree]
}

func (*snapshotEnd) Hello(transport.Identity) error { return nil }

func (e *snapshotEnd) InstallSnapshot(
	_ context.Context, _ nexusraft.NodeID, h transport.SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	tree, err := Receive(e.store, "state", chunks)
	e.tree.Store(tree)
	return err
}

// A large state passes from one store to another, and neither side holds much of it in memory. With
// NEXUS_RAFT_SNAPSHOT_GIB it is so many GiB. With -short, as under the race detector, it is less than
// may be held.
func TestLargeSnapshotInLittleMemory(t *testing.T) {
	const limit = 64 << 20
	size := int64(96 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	if gib, err := strconv.Atoi(os.Getenv("NEXUS_RAFT_SNAPSHOT_GIB")); err == nil {
		size = int64(gib) << 30
	}
	from, to := openStore(t), openStore(t)
	tree, err := Receive(from, "state", generated(size))
	if err != nil {
		t.Fatal(err)
	}
	snap := from.NewSnapshot()
	defer snap.Close()

	end := &snapshotEnd{store: to}
	a, b := transport.Identity{Cluster: 1, Node: 2, Incarnation: 1, Boot: 1, Address: "a:1"},
		transport.Identity{Cluster: 1, Node: 3, Incarnation: 1, Boot: 2, Address: "b:1"}
	server := transport.NewServer(func() transport.Identity { return b }, transport.Handlers{Peer: end, Member: end})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(transport.ServerOptions()...)
	server.Register(srv)
	go srv.Serve(lis)
	defer server.Close()
	defer srv.Stop()
	pool := transport.NewClientPool(func() transport.Identity { return a }, transport.PoolOptions{})
	defer pool.Close()
	c, err := pool.Get(t.Context(), transport.NodeAddress{ID: b.Node, Endpoint: lis.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}

	before, most, next := heap(), uint64(0), uint64(0)
	e := NewEncoder(snap.Reader(tree))
	err = transport.InstallSnapshot(t.Context(), c, transport.Snapshot{
		SnapshotHeader: transport.SnapshotHeader{Zone: 1, From: 1, To: 2, Index: 1, Term: 1},
		State:          e.From,
		Progress: func(sent uint64) {
			if sent >= next {
				most, next = max(most, heap()), sent+uint64(size)/16
			}
		},
	})
	if err != nil {
		t.Fatalf("InstallSnapshot: %v", err)
	}
	if most > before+limit {
		t.Errorf("heap: %d MiB at most, %d before; want %d more at most", most>>20, before>>20, limit>>20)
	}
	t.Logf("%d MiB passed with %d MiB of heap at most, %d before", size>>20, most>>20, before>>20)
	want, err := tree.Checksum(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := end.tree.Load().Checksum(nil, nil)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the copy: got %v, %v, want %v", got, err, want)
	}
}

// openStore returns a store on a real disk that holds little in memory.
func openStore(t *testing.T) *storage.Store {
	t.Helper()
	store, err := storage.Open(t.TempDir(), &storage.Options{
		MemTableBytes: 8 << 20, CacheBytes: 8 << 20,
		FlushInterval: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// generated is a state of so many bytes that nothing compresses, made as it is read.
func generated(size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		rng := rand.NewChaCha8([32]byte{3})
		value := make([]byte, 4000)
		for i := uint64(0); size > 0; i++ {
			_, _ = rng.Read(value)
			piece := binary.BigEndian.AppendUint64([]byte{8}, i)
			piece = append(binary.AppendUvarint(piece, uint64(len(value))), value...)
			if size -= int64(len(piece)); !yield(piece, nil) {
				return
			}
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A value that is far larger than a chunk is not copied anew for each chunk, neither when it is
// sent nor when it comes.
func TestLargeValueIsCopiedFewTimes(t *testing.T) {
	const size = 16 << 20
	value := make([]byte, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var d decoder
	pairs := 0
	for piece, err := range NewEncoder(onePair{value: value}).From(0) {
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range slices.Chunk(piece, transport.MaxChunkBytes) {
			d.add(chunk)
			if p, ok, err := d.next(); err != nil {
				t.Fatal(err)
			} else if ok {
				pairs += len(p.Value) / size
			}
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; pairs != 1 || got > 4*size {
		t.Errorf("%d values of %d bytes took %d bytes of new memory, want 1 and %d at most", pairs, size, got, 4*size)
	}
}

// onePair is a state of one pair.
type onePair struct {
	nexusraft.Reader

	value []byte
}

func (s onePair) Scan([]byte, []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		yield(nexusraft.Pair{Key: []byte("k"), Value: s.value}, nil)
	}
}
