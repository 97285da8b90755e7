package mtls_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// listeners answer each request of a stream, and take uploads.
type listeners struct {
	testpb.UnimplementedTestServiceServer
}

func (listeners) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(new(testpb.StreamingOutputCallResponse)); err != nil {
			return err
		}
	}
}

func (listeners) StreamingInputCall(s testpb.TestService_StreamingInputCallServer) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

// A caller that hears something on a stream may say nothing for as long as it likes, once it has asked. The first
// request, and each one of an upload, has its time.
func TestListenersMayBeSilent(t *testing.T) {
	l := mtls.NewLimits(mtls.LimitOptions{})
	l.SetRequestTime(300 * time.Millisecond)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(transport.LimitedServerOptions(l, nil)...)
	testpb.RegisterTestServiceServer(s, listeners{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l.Listen(lis)) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	client := dialAnswers(t, lis.Addr().String(), nil)
	listener, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	talk := func() {
		t.Helper()
		if err := listener.Send(new(testpb.StreamingOutputCallRequest)); err != nil {
			t.Fatal(err)
		}
		if _, err := listener.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	talk()
	for range 2 { // each takes the time of a request
		upload, err := client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := upload.Send(new(testpb.StreamingInputCallRequest)); err != nil {
			t.Fatal(err)
		}
		if err := upload.RecvMsg(new(testpb.StreamingInputCallResponse)); status.Code(err) != codes.Canceled {
			t.Fatalf("an upload that stalls: %v", err)
		}
		mute, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mute.Recv(); status.Code(err) != codes.Canceled {
			t.Fatalf("a stream without a first request: %v", err)
		}
	}
	talk()
	talk()
}
