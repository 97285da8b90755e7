package serving

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// parts are those of a node whose watchdog says what comes from problems, and gives up with the error
// that comes from stuck.
func parts(t *testing.T, work func(<-chan struct{}) error, problems chan string, stuck chan error) Parts {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return Parts{
		Server: grpc.NewServer(), Listener: lis, Register: func(*grpc.Server) {}, Work: work,
		Watch: func(ended <-chan struct{}, _ <-chan time.Time, changed func(string)) error {
			for {
				select {
				case <-ended:
					return nil
				case p := <-problems:
					changed(p)
				case err := <-stuck:
					return err
				}
			}
		},
		Health: func(string) {}, Leave: func() {}, Logger: slog.New(slog.DiscardHandler),
	}
}

func untilStopped(stop <-chan struct{}) error { <-stop; return nil }

// A node that is told to stop while its disk hangs still ends: the watchdog sees to it.
func TestStopWithAStuckWorker(t *testing.T) {
	release, stuck := make(chan struct{}), make(chan error, 1)
	r := Start(parts(t, func(<-chan struct{}) error { <-release; return nil }, nil, stuck))
	r.Tended = func() { t.Error("stop waits for what may be in the sync that hangs") }
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop() }()
	<-r.stops
	hangs := errors.New("the disk hangs")
	stuck <- hangs
	select {
	case err := <-stopped:
		if !IsStuck(err) || err.Error() != hangs.Error() {
			t.Errorf("stop returned %v, want the watchdog's error", err)
		}
	case <-time.After(time.Minute):
		t.Error("stop waits for ever for a worker that hangs")
	}
	close(release)
	<-r.worker
	r.finish()
}

// A failure while the node stops is its end, not an orderly stop.
func TestStopTellsTheWorkersError(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := Start(parts(t, func(<-chan struct{}) error { return broken }, nil, nil))
	<-r.worker
	if err := r.Stop(); !errors.Is(err, broken) {
		t.Errorf("stop returned %v, want the worker's error", err)
	}
}

// The worker's calls have their answers, and what is tended has ended, before peers hear that the node
// leaves.
func TestStopInOrder(t *testing.T) {
	var order []string
	p := parts(t, func(stop <-chan struct{}) error {
		<-stop
		order = append(order, "worker")
		return nil
	}, nil, nil)
	p.Leave = func() { order = append(order, "leave") }
	r := Start(p)
	r.Tended = func() { order = append(order, "tended") }
	if err := r.Stop(); err != nil || len(order) != 3 || order[0] != "worker" || order[1] != "tended" {
		t.Errorf("stopped in the order %v, %v", order, err)
	}
}

// The health service says SERVING once the node is ready, and as long as it has no problem.
func TestHealth(t *testing.T) {
	problems, said := make(chan string), make(chan string)
	p := parts(t, untilStopped, problems, nil)
	p.Health = func(problem string) { said <- problem }
	r := Start(p)
	conn, err := grpc.NewClient(p.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	health, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := health.Recv(); err != nil || got.GetStatus() != want {
			t.Fatalf("%s: got %v, %v, want %v", when, got.GetStatus(), err, want)
		}
	}
	expect("at the start", healthpb.HealthCheckResponse_NOT_SERVING)
	r.SetReady()
	expect("ready", healthpb.HealthCheckResponse_SERVING)
	change := func(problem string) {
		t.Helper()
		problems <- problem
		if got := <-said; got != problem {
			t.Errorf("the node heard %q, want %q", got, problem)
		}
	}
	change("the disk is slow")
	expect("with a problem", healthpb.HealthCheckResponse_NOT_SERVING)
	change("")
	expect("healthy again", healthpb.HealthCheckResponse_SERVING)
	conn.Close()
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
}
