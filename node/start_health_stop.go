package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/transport"
)

// running is what Run has started: three goroutines, which end with stop.
type running struct {
	node   *Node
	server *grpc.Server
	health *health.Server

	mu      sync.Mutex // guards what follows, and the health that is said
	joined  bool
	problem string

	failed chan error    // has room for an error of each goroutine
	stops  chan struct{} // closed: the worker ends
	worker chan struct{} // closed when the worker has ended: the watchdog ends
	ended  error         // how the worker did; set before worker is closed
	tended func()        // waits until nothing tends the peers; nil before the node is ready
	wg     sync.WaitGroup
}

// How long an orderly stop waits for another leader, for the answers to what it has passed
// on to that one, and for answers that are on their way out.
const (
	handOverTimeout = 2 * time.Second
	handOvers       = 64 // at once
	forwardTimeout  = time.Second
	drainTimeout    = 250 * time.Millisecond
)

func (n *Node) start(lis net.Listener, register func(grpc.ServiceRegistrar)) *running {
	options := append(transport.LimitedServerOptions(n.limits, n.peering.TLS()), n.access.Options()...)
	options = append(options, n.config.ServerOptions...)
	r := &running{
		node: n, server: grpc.NewServer(options...), health: health.NewServer(),
		failed: make(chan error, 3), stops: make(chan struct{}), worker: make(chan struct{}),
	}
	n.server.Register(r.server)
	rpc.Register(r.server, n.clientHandlers())
	healthpb.RegisterHealthServer(r.server, r.health)
	if register != nil {
		register(r.server)
	}
	reflection.Register(r.server)
	n.access.Register(r.server)
	r.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)

	go func() {
		defer close(r.worker)
		if r.ended = n.worker.run(r.stops); r.ended != nil {
			r.failed <- r.ended
		}
	}()
	r.wg.Go(func() {
		if err := r.server.Serve(n.limits.Listen(lis)); err != nil {
			r.failed <- fmt.Errorf("serve on %v: %w", lis.Addr(), err)
		}
	})
	r.wg.Go(func() {
		second := time.NewTicker(time.Second)
		defer second.Stop()
		if err := n.watchdog.Watch(r.worker, second.C, r.healthChanged); err != nil {
			r.failed <- errStuck{err}
		}
	})
	return r
}

// errStuck is the watchdog's: the worker is inside a sync that does not end.
type errStuck struct{ error }

func isStuck(err error) bool {
	_, stuck := errors.AsType[errStuck](err)
	return stuck
}

// serving says that the node has joined and serves its zones.
func (r *running) serving() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joined = true
	r.sayHealth()
}

func (r *running) healthChanged(problem string) {
	if problem == "" {
		r.node.logger.Info("healthy again")
	} else {
		r.node.logger.Error("unhealthy", "err", problem)
	}
	r.node.events.Health(problem)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = problem
	r.sayHealth()
}

func (r *running) sayHealth() {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if r.joined && r.problem == "" {
		state = healthpb.HealthCheckResponse_SERVING
	}
	r.health.SetServingStatus("", state)
}

// stop ends the goroutines: first the worker, so that every waiting call has its answer;
// then the peers hear that this node leaves; then the server, once the answers are out. It
// returns the error that the worker ended with, or errStuck, and then nothing has ended.
func (r *running) stop() error {
	r.health.Shutdown()
	close(r.stops)
	if err := r.awaitWorker(); err != nil {
		return err
	}
	if r.tended != nil { // not before: it may be in the sync in which the worker is, too
		r.tended()
	}
	r.finish()
	return r.ended
}

// awaitWorker waits for the worker's end, or until the watchdog has given it up.
func (r *running) awaitWorker() error {
	for {
		select {
		case <-r.worker:
			return nil
		case err := <-r.failed:
			if isStuck(err) {
				return err
			}
		}
	}
}

// finish ends the rest once the worker has ended.
func (r *running) finish() {
	r.node.events.End()
	r.node.peers.Close()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.server.GracefulStop()
	}()
	select {
	case <-drained:
	case <-time.After(drainTimeout): // peers' streams never end by themselves
		r.server.Stop()
		<-drained
	}
	r.wg.Wait()
}

// handOver moves the leadership of every zone that this node leads to the member that has
// most of the log, and waits a moment for it.
func (n *Node) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	var all sync.WaitGroup
	places := make(chan struct{}, handOvers)
	for _, id := range n.replicas.Zones() {
		places <- struct{}{}
		all.Go(func() {
			n.changer(id).HandOver(ctx)
			<-places
		})
	}
	all.Wait()
}
