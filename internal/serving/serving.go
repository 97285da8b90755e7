package serving

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Parts are what runs, and what hears of it.
type Parts struct {
	Server   *grpc.Server
	Listener net.Listener

	Register func(*grpc.Server) // adds the services, besides that of health

	// Work is the workers': they work until stop is closed, or it returns what ended them.
	Work func(stop <-chan struct{}) error

	// Watch is the watchdog: it looks with each tick until ended is closed, tells changed of each change
	// ("" is healthy again), and returns an error once a worker is given up.
	Watch func(ended <-chan struct{}, tick <-chan time.Time, changed func(problem string)) error

	Health func(problem string) // hears of each change, too
	Leave  func()               // ends what the node says to peers and subscribers, before the server stops
	Logger *slog.Logger
}

// Running is what Start has started: three goroutines, which end with Stop.
type Running struct {
	Tended func() // if not nil, Stop waits for it: it may be in the sync in which the worker is

	p      Parts
	health *health.Server

	mu      sync.Mutex // guards what follows, and the health that is said
	ready   bool
	problem string

	failed chan error    // has room for an error of each goroutine
	stops  chan struct{} // closed: the worker ends
	worker chan struct{} // closed when the worker has ended: the watchdog ends
	ended  error         // how the worker did; set before worker is closed
	wg     sync.WaitGroup
}

// drainTimeout is how long an orderly stop waits for answers that are on their way out.
const drainTimeout = 250 * time.Millisecond

// Start registers the services and starts the goroutines. Stop must follow.
func Start(p Parts) *Running {
	r := &Running{
		p: p, health: health.NewServer(),
		failed: make(chan error, 3), stops: make(chan struct{}), worker: make(chan struct{}),
	}
	healthpb.RegisterHealthServer(p.Server, r.health)
	p.Register(p.Server)
	r.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)

	go func() {
		defer close(r.worker)
		if r.ended = p.Work(r.stops); r.ended != nil {
			r.failed <- r.ended
		}
	}()
	r.wg.Go(func() {
		if err := p.Server.Serve(p.Listener); err != nil {
			r.failed <- fmt.Errorf("serve on %v: %w", p.Listener.Addr(), err)
		}
	})
	r.wg.Go(func() {
		second := time.NewTicker(time.Second)
		defer second.Stop()
		if err := p.Watch(r.worker, second.C, r.healthChanged); err != nil {
			r.failed <- errStuck{err}
		}
	})
	return r
}

// Failed brings what ends the node; Stop takes from it, too.
func (r *Running) Failed() <-chan error { return r.failed }

// errStuck is the watchdog's: the worker is inside a sync that does not end.
type errStuck struct{ error }

// IsStuck reports whether an error is the watchdog's: the worker has not ended, and nothing waits for it.
func IsStuck(err error) bool {
	_, stuck := errors.AsType[errStuck](err)
	return stuck
}

// SetReady says that the node serves: its health service says so, too, while it has no problem.
func (r *Running) SetReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
	r.sayHealth()
}

func (r *Running) healthChanged(problem string) {
	if problem == "" {
		r.p.Logger.Info("healthy again")
	} else {
		r.p.Logger.Error("unhealthy", "err", problem)
	}
	r.p.Health(problem)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = problem
	r.sayHealth()
}

func (r *Running) sayHealth() {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if r.ready && r.problem == "" {
		state = healthpb.HealthCheckResponse_SERVING
	}
	r.health.SetServingStatus("", state)
}

// Stop ends the goroutines: first the worker, so that every waiting call has its answer; then what is
// Tended; then the peers hear that this node leaves; then the server, once the answers are out. It returns
// the error that the worker ended with, or one that IsStuck, and then nothing has ended.
func (r *Running) Stop() error {
	r.health.Shutdown()
	close(r.stops)
	if err := r.awaitWorker(); err != nil {
		return err
	}
	if r.Tended != nil { // not before, as the worker may be stuck
		r.Tended()
	}
	r.finish()
	return r.ended
}

// awaitWorker waits for the worker's end, or until the watchdog has given it up.
func (r *Running) awaitWorker() error {
	for {
		select {
		case <-r.worker:
			return nil
		case err := <-r.failed:
			if IsStuck(err) {
				return err
			}
		}
	}
}

// finish ends the rest once the worker has ended.
func (r *Running) finish() {
	r.p.Leave()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.p.Server.GracefulStop()
	}()
	select {
	case <-drained:
	case <-time.After(drainTimeout): // peers' streams never end by themselves
		r.p.Server.Stop()
		<-drained
	}
	r.wg.Wait()
}
