package transport

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// A stream of a peer that is gone without a word (its machine lost power, its path was cut) ends,
// and what it holds is let go. One that pings lives, however little it has to say. Time is fake.
func TestSilentInboundStreamIsDropped(t *testing.T) {
	for name, tt := range map[string]struct {
		minor uint32
		pings bool
		drops bool
	}{
		"silent":               {MinorVersion, false, true},
		"pings":                {MinorVersion, true, false},
		"of the first version": {0, false, false}, // it knows no pings
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stream := pipedExchange(t, tt.minor)
				ended := make(chan error, 1)
				go func() {
					for {
						if _, err := stream.Recv(); err != nil {
							ended <- err
							return
						}
					}
				}()
				begun := time.Now()
				for n := uint64(1); time.Since(begun) < 4*silentAfter && len(ended) == 0; n++ {
					if tt.pings {
						frame := &pb.ExchangeRequest_Frame{Frame: &pb.Frame{Ping: n}}
						if err := stream.Send(&pb.ExchangeRequest{Kind: frame}); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(maxPingPause)
					synctest.Wait()
				}
				if !tt.drops {
					if len(ended) > 0 {
						t.Errorf("it ended after %v: %v", time.Since(begun), <-ended)
					}
					return
				}
				if len(ended) == 0 {
					t.Fatal("it has not ended")
				}
				err := <-ended
				if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "nothing was heard") ||
					time.Since(begun) > 2*silentAfter+maxPingPause {
					t.Errorf("after %v: got %v, want Aborted within %v", time.Since(begun), err, 2*silentAfter)
				}
			})
		})
	}
}

// serveInMemory runs a server of node B whose connections dial makes over memory: in a bubble of
// fake time, where a slow machine is no slow peer.
func serveInMemory(t *testing.T, f *fakeNode) (dial func(context.Context, string) (net.Conn, error)) {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	srv, s := grpc.NewServer(ServerOptions()...), NewServer(as(identityB), f.handlers())
	s.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
		s.Close()
	})
	return func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }
}

// pipedConn connects to a server of node B in memory.
func pipedConn(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///b", append(DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(serveInMemory(t, &fakeNode{})))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// pipedExchange opens a stream of node A, of a minor version, to a server in memory.
func pipedExchange(t *testing.T, minor uint32) grpc.BidiStreamingClient[pb.ExchangeRequest, pb.ExchangeResponse] {
	t.Helper()
	stream, err := pb.NewRaftTransportClient(pipedConn(t)).Exchange(t.Context())
	if err == nil {
		h := hello(identityA, nodeB)
		h.Minor = minor
		err = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: h}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Streams that never say what they are for cost a server nothing for long.
func TestStreamWithoutHelloIsDropped(t *testing.T) {
	for name, open := range map[string]func(context.Context, pb.RaftTransportClient) (grpc.ClientStream, error){
		"Exchange": func(ctx context.Context, c pb.RaftTransportClient) (grpc.ClientStream, error) { return c.Exchange(ctx) },
		"InstallSnapshot": func(ctx context.Context, c pb.RaftTransportClient) (grpc.ClientStream, error) {
			return c.InstallSnapshot(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stream, err := open(t.Context(), pb.NewRaftTransportClient(pipedConn(t)))
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				err = stream.RecvMsg(&pb.ExchangeResponse{})
				if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "said nothing") ||
					time.Since(begun) > 2*firstTimeout {
					t.Errorf("after %v: got %v, want DeadlineExceeded after %v", time.Since(begun), err, firstTimeout)
				}
			})
		})
	}
}

// A peer that answers more than it was asked would never be silent again.
func TestPongOfNoPingEndsAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stream{stream: &pongs{numbers: []uint64{1, 2, 1 << 40}}, ctx: t.Context()}
		s.asked.Store(2)
		if err := s.receive(); err == nil || !strings.Contains(err.Error(), "not sent") || s.heard.Load() != 2 {
			t.Errorf("got %v after the answer to %d, want an error after 2", err, s.heard.Load())
		}
	})
}

// pongs is a stream that brings pongs.
type pongs struct {
	exchangeClient
	numbers []uint64
}

func (p *pongs) Recv() (*pb.ExchangeResponse, error) {
	n := p.numbers[0]
	p.numbers = p.numbers[1:]
	return &pb.ExchangeResponse{Pong: n}, nil
}
