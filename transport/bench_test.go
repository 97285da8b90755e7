package transport

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// payloads are what the benchmarks send: a heartbeat's size and an append's.
var payloads = []struct {
	name string
	size int
}{{"128B", 128}, {"4KiB", 4 << 10}}

// benchServer serves on a free loopback port until the benchmark's end.
func benchServer(b *testing.B, register func(*grpc.Server), o ...grpc.ServerOption) string {
	b.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer(o...)
	register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	b.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String()
}

// benchPeers connects A's Peers to a server of B.
func benchPeers(b *testing.B, f *fakeNode) *Peers {
	b.Helper()
	addr := benchServer(b, NewServer(as(identityB), f.handlers()).benchRegister, ServerOptions()...)
	p := NewPeers(as(identityA), PeersOptions{})
	b.Cleanup(p.Close)
	p.SetAddress(nodeB, addr)
	for !p.Stats()[0].Connected {
		time.Sleep(time.Millisecond)
	}
	return p
}

func (s *Server) benchRegister(srv *grpc.Server) { s.Register(srv) }

// BenchmarkExchange sends messages by Peers.
func BenchmarkExchange(b *testing.B) {
	for _, tt := range payloads {
		b.Run(tt.name, func(b *testing.B) {
			var got atomic.Int64
			p := benchPeers(b, &fakeNode{receive: func(_ nexusraft.NodeID, msgs []Message) { got.Add(int64(len(msgs))) }})
			data := make([]byte, tt.size)
			b.SetBytes(int64(tt.size))
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				p.Send(nodeB, Append, Message{Zone: 1, Data: data})
				for i%64 == 0 && p.peer(nodeB).queue.len() > 2048 {
					time.Sleep(20 * time.Microsecond)
				}
			}
			for got.Load() < int64(b.N) {
				time.Sleep(20 * time.Microsecond)
			}
			b.StopTimer()
			if d := p.Stats()[0].Dropped; d > 0 {
				b.Errorf("%d messages were dropped", d)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// bareStreams is a service of one bidirectional stream whose messages are bytes.
func bareStreams(take func(grpc.ServerStream) error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "bench.Bare", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Exchange", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error { return take(s) },
	}}}
}

// BenchmarkBareStream sends the same payloads by a stream of grpc-go as it is, a message at a time.
func BenchmarkBareStream(b *testing.B) {
	for _, tt := range payloads {
		b.Run(tt.name, func(b *testing.B) {
			var got atomic.Int64
			desc := bareStreams(func(s grpc.ServerStream) error {
				for {
					if err := s.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
						return err
					}
					got.Add(1)
				}
			})
			addr := benchServer(b, func(srv *grpc.Server) { srv.RegisterService(desc, nil) })
			conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			stream, err := conn.NewStream(b.Context(), &desc.Streams[0], "/bench.Bare/Exchange")
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, tt.size)
			b.SetBytes(int64(tt.size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := stream.SendMsg(wrapperspb.Bytes(data)); err != nil {
					b.Fatal(err)
				}
			}
			for got.Load() < int64(b.N) {
				time.Sleep(20 * time.Microsecond)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkHeartbeatUnderLoad measures round trips of a small Control message, alone and
// beside as many Append messages of 4 KiB as go through.
func BenchmarkHeartbeatUnderLoad(b *testing.B) {
	for _, tt := range []struct {
		name string
		load bool
	}{{"idle", false}, {"loaded", true}} {
		b.Run(tt.name, func(b *testing.B) {
			pongs := make(chan struct{}, 1)
			back := benchPeers(b, &fakeNode{receive: func(nexusraft.NodeID, []Message) { signal(pongs) }})
			p := benchPeers(b, &fakeNode{receive: func(_ nexusraft.NodeID, msgs []Message) {
				for _, m := range msgs {
					if len(m.Data) < 64 {
						back.Send(nodeB, Control, Message{Zone: 1, Data: m.Data})
					}
				}
			}})
			ctx, stop := context.WithCancel(b.Context())
			loaded := make(chan struct{})
			go func() {
				defer close(loaded)
				for data := make([]byte, 4<<10); tt.load && ctx.Err() == nil; {
					if p.Send(nodeB, Append, Message{Zone: 1, Data: data}); p.peer(nodeB).queue.len() > 2048 {
						time.Sleep(20 * time.Microsecond)
					}
				}
			}()
			took := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for range b.N {
				begun := time.Now()
				p.Send(nodeB, Control, Message{Zone: 1, Data: make([]byte, 32)})
				<-pongs
				took = append(took, time.Since(begun))
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			stop()
			<-loaded
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
		})
	}
}
