package node

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/serving"
	"github.com/nexi-lab/nexus-raft/transport"
)

// How long an orderly stop waits for another leader, and for the answers to what it has passed on to
// that one.
const (
	handOverTimeout = 2 * time.Second
	handOvers       = 64 // at once
	forwardTimeout  = time.Second
)

// leadTimeout is how long an orderly stop waits for calls of Lead, all together.
const leadTimeout = 1500 * time.Millisecond

// start starts the worker, its watchdog and the server.
func (n *Node) start(lis net.Listener, register func(grpc.ServiceRegistrar)) *serving.Running {
	options := append(transport.LimitedServerOptions(n.limits, n.peering.TLS()), n.access.Options()...)
	options = append(options, n.config.ServerOptions...)
	return serving.Start(serving.Parts{
		Server: grpc.NewServer(options...), Listener: n.limits.Listen(lis),
		Register: func(s *grpc.Server) {
			n.server.Register(s)
			rpc.Register(s, n.clientHandlers())
			if register != nil {
				register(s)
			}
			reflection.Register(s)
			n.access.Register(s)
		},
		Work: n.workers.Run, Watch: n.watchdog.Watch, Health: n.events.Health, Logger: n.logger,
		Leave: func() {
			n.events.End()
			n.peers.Close()
		},
	})
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
			n.workers.Changer(id).HandOver(ctx)
			<-places
		})
	}
	all.Wait()
}

// awaitLeads waits for the calls of Lead once the worker has ended.
func (n *Node) awaitLeads() {
	for _, id := range n.leads.Wait(leadTimeout) {
		n.logger.Error("the state machine's Lead has not returned; the node closes all the same", "zone", id)
	}
}
