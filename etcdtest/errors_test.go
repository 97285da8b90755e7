package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
)

// failing is the root zone of a node on which every request comes to the same error.
type failing struct {
	err      error
	attempts atomic.Int64
}

func (f *failing) Zone(nexusraft.ZoneID) (etcd.Zone, error) { return f, nil }

func (f *failing) ProposeOnce(context.Context, nexusraft.RequestID, []byte) (nexusraft.Result, error) {
	f.attempts.Add(1)
	return nexusraft.Result{}, f.err
}

func (f *failing) Read(context.Context, func(nexusraft.Reader) error) error {
	f.attempts.Add(1)
	return f.err
}

func (f *failing) ReadAt(ctx context.Context, _ nexusraft.Index, fn func(nexusraft.Reader) error) error {
	return f.Read(ctx, fn)
}

func (f *failing) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return f.Read(ctx, fn)
}

func (f *failing) Term() nexusraft.Term { return 1 }

func (f *failing) HasLeader() bool { return true }

// serve offers the zone as a node does.
func (f *failing) serve(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(etcd.Options()...)
	etcd.NewKV(f, func() etcd.Identity { return etcd.Identity{} }, etcd.Config{}).Register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

// TestErrorsOfWrites shows that etcd's client knows every error by which a write can end,
// and that it never repeats a write by itself, whatever the error.
func TestErrorsOfWrites(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want error // what the client knows it as, if it does
		code codes.Code
	}{
		{fmt.Errorf("%w: deposed", nexusraft.ErrUncertain), nil, codes.Unknown},
		{context.DeadlineExceeded, nil, codes.Unknown}, // of the server's own making: nobody knows
		{context.Canceled, nil, codes.Unknown},
		{errors.New("of no known kind"), nil, codes.Unknown},
		{&nexusraft.NotLeaderError{Zone: 1}, rpctypes.ErrNoLeader, codes.Unavailable},
		{nexusraft.ErrOverloaded, rpctypes.ErrTooManyRequests, codes.ResourceExhausted},
		{nexusraft.ErrDiskFull, rpctypes.ErrNoSpace, codes.ResourceExhausted},
		{nexusraft.ErrTooLarge, rpctypes.ErrRequestTooLarge, codes.InvalidArgument},
		{nexusraft.ErrClosed, rpctypes.ErrStopped, codes.Unavailable},
		{nexusraft.ErrCorrupt, rpctypes.ErrCorrupt, codes.DataLoss},
		{nexusraft.ErrZoneNotFound, nil, codes.NotFound},
		{nexusraft.ErrRefused, nil, codes.FailedPrecondition},
	} {
		f := &failing{err: tc.err}
		client := dial(t, f.serve(t))
		_, putErr := client.Put(within(t, 5*time.Second), "a", "1")
		_, deleteErr := client.Delete(within(t, 5*time.Second), "a")
		for _, got := range []error{putErr, deleteErr} {
			if tc.want != nil && !errors.Is(got, tc.want) {
				t.Errorf("%v: got %v, want %v", tc.err, got, tc.want)
			}
			if code := codeOf(got); code != tc.code {
				t.Errorf("%v: got %v (%v), want code %v", tc.err, code, got, tc.code)
			}
		}
		if n := f.attempts.Load(); n != 2 {
			t.Errorf("%v: a put and a delete were run %d times", tc.err, n)
		}
	}
}

// codeOf returns the gRPC code of what the client made of a status.
func codeOf(err error) codes.Code {
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return known.Code()
	}
	return status.Code(err)
}

// TestErrorsOfReads shows the same of reads, which the client may repeat while there is
// hope, and does.
func TestErrorsOfReads(t *testing.T) {
	for _, tc := range []struct {
		err, want error
		repeated  bool
	}{
		{nexusraft.ErrCorrupt, rpctypes.ErrCorrupt, false},
		{nexusraft.ErrOverloaded, rpctypes.ErrTooManyRequests, false},
		{nexusraft.ErrNoQuorum, context.DeadlineExceeded, true},
		{&nexusraft.NotLeaderError{Zone: 1}, context.DeadlineExceeded, true},
	} {
		f := &failing{err: tc.err}
		_, err := dial(t, f.serve(t)).Get(within(t, 300*time.Millisecond), "a")
		if n := f.attempts.Load(); !errors.Is(err, tc.want) || (n > 1) != tc.repeated {
			t.Errorf("%v: got %v after %d attempts, want %v; repeated %v", tc.err, err, n, tc.want, tc.repeated)
		}
	}
}
