package wire

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestTargetIsDialledAsWritten(t *testing.T) {
	for _, want := range []string{"[fe80::1%eth0]:2026", "loc%61lhost:2026", "100%:1", "n1:2026", "[::1]:1"} {
		dialled := make(chan string, 10)
		conn, err := grpc.NewClient(Target(want), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(_ context.Context, addr string) (net.Conn, error) {
				select {
				case dialled <- addr:
				default:
				}
				return nil, errors.New("nobody is there")
			}))
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		conn.Connect()
		select {
		case got := <-dialled:
			if got != want {
				t.Errorf("%s: %q was dialled", want, got)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: nothing was dialled", want)
		}
		conn.Close()
	}
}
