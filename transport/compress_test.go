package transport

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"net"
	"testing"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
)

// records are n bytes as an application may keep: half of them say nothing new.
func records(n int) []byte {
	b := make([]byte, 0, n+100)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, `{"id":%d,"path":"/srv/data/%x","mode":"0644","owner":"nobody"}`, i,
			crc32.ChecksumIEEE([]byte{byte(i), byte(i >> 8)}))
	}
	return b[:n]
}

// Compressed, broken and gone on with, a state is the same, and takes fewer bytes on its way.
func TestCompressedSnapshot(t *testing.T) {
	for name, state := range map[string][]byte{"records": records(6<<20 + 77), "noise": noise(3<<20 + 77)} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			var proxy *netfault.Proxy
			addr, _ := serve(t, identityB, &fakeNode{install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
				chunks iter.Seq2[[]byte, error],
			) error {
				cut := false
				for data, err := range chunks {
					if err != nil {
						return err
					}
					if got.Write(data); !cut && got.Len() > len(state)/2 {
						cut = true
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
			p := peersOf(t, identityA, PeersOptions{SnapshotCompression: true})
			p.SetAddress(nodeB, proxy.Addr())
			s, _ := counted(state)
			if err := SendSnapshot(t.Context(), p, nodeB, s); err != nil {
				t.Fatalf("SendSnapshot: %v", err)
			}
			if !bytes.Equal(got.Bytes(), state) {
				t.Errorf("got %d bytes that are not the %d sent", got.Len(), len(state))
			}
		})
	}
	w := &snapshotWriter{pack: true}
	if data := records(MaxChunkBytes); len(w.packed(data)) == 0 || len(w.packed(data)) > len(data)/2 {
		t.Errorf("%d bytes of records take %d", len(data), len(w.packed(data)))
	}
	if packed := w.packed(noise(1000)); packed != nil {
		t.Errorf("1000 bytes of noise take %d, want them left alone", len(packed))
	}
}

// What says it is larger, or smaller, than it is, is refused, and never decompressed beyond the
// limit.
func TestBadCompressedChunks(t *testing.T) {
	pack := func(data []byte) []byte {
		var b bytes.Buffer
		z, _ := flate.NewWriter(&b, flate.BestSpeed)
		_, _ = z.Write(data)
		_ = z.Close()
		return b.Bytes()
	}
	data := make([]byte, 1000)
	bomb := pack(make([]byte, 64<<20))
	if len(bomb) > MaxChunkBytes*2 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	bomb = bomb[:min(len(bomb), MaxChunkBytes-1)]
	for name, c := range map[string]*pb.SnapshotChunk{
		"more than it says": {Data: pack(data), InflatedBytes: 999},
		"less than it says": {Data: pack(data), InflatedBytes: 1001},
		"over the limit":    {Data: pack(data), InflatedBytes: MaxChunkBytes + 1},
		"no smaller":        {Data: pack(data[:1]), InflatedBytes: 1},
		"a bomb":            {Data: bomb, InflatedBytes: MaxChunkBytes},
		"cut off":           {Data: pack(data)[:5], InflatedBytes: 1000},
		"other data":        {Data: pack(append(data[:999:999], 1)), InflatedBytes: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			c.Crc32C = crc32.Checksum(data, castagnoli)
			r := &snapshotReader{}
			if _, err := r.check(&pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Chunk{Chunk: c}}); !errors.Is(err,
				nexusraft.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}

// BenchmarkSnapshot is a snapshot of 64 MiB of records to a receiver that forgets it.
func BenchmarkSnapshot(b *testing.B) {
	state := records(64 << 20)
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		b.Run(name, func(b *testing.B) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			f := &fakeNode{install: func(_ context.Context, _ nexusraft.NodeID, _ SnapshotHeader,
				chunks iter.Seq2[[]byte, error],
			) error {
				for _, err := range chunks {
					if err != nil {
						return err
					}
				}
				return nil
			}}
			server := NewServer(as(identityB), f.handlers())
			srv := grpc.NewServer(ServerOptions()...)
			server.Register(srv)
			go srv.Serve(lis)
			defer server.Close()
			defer srv.Stop()
			p := NewPeers(as(identityA), PeersOptions{SnapshotCompression: compress})
			defer p.Close()
			p.SetAddress(nodeB, lis.Addr().String())
			b.SetBytes(int64(len(state)))
			for b.Loop() {
				s, _ := counted(state)
				if err := SendSnapshot(b.Context(), p, nodeB, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
