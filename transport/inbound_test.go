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

// A stream of a peer that is gone without a word (its machine lost power, its path was cut) ends, and what it holds is
// let go. One that pings lives, however little it has to say. Time is fake.
func TestSilentInboundStreamIsDropped(t *testing.T) {
	for name, tt := range map[string]struct {
		minor uint32
		pings bool
		drops bool
	}{
		"silent":               {minorVersion, false, true},
		"pings":                {minorVersion, true, false},
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
						if err := stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Frame{Frame: &pb.Frame{Ping: n}}}); err != nil {
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
				if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "nothing was heard") || time.Since(begun) > 2*silentAfter+maxPingPause {
					t.Errorf("after %v: got %v, want Aborted within %v", time.Since(begun), err, 2*silentAfter)
				}
			})
		})
	}
}

// serveInMemory runs a server of node B whose connections dial makes over memory: in a bubble of fake time, where a
// slow machine is no slow peer.
func serveInMemory(t *testing.T, f *fakeNode) (dial func(context.Context, string) (net.Conn, error)) {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	srv, s := grpc.NewServer(ServerOptions()...), NewServer(as(identityB), f, f)
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

// pipedExchange opens a stream of node A, of a minor version, to a server in memory.
func pipedExchange(t *testing.T, minor uint32) grpc.BidiStreamingClient[pb.ExchangeRequest, pb.ExchangeResponse] {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///b", append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(serveInMemory(t, &fakeNode{})))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := pb.NewRaftTransportClient(conn).Exchange(t.Context())
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
