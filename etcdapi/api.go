package etcdapi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/compactor"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
	"github.com/nexi-lab/nexus-raft/node"
)

// MachineName is what Configure calls the state machine of key-value zones in node.Config.Machines: ZoneSpec.Machine
// of zones that etcd's API is to serve.
const MachineName = "kv"

// Options of an API. The zero value is the documented default.
type Options struct {
	// MaxTxnOps is how many compares a transaction may have, and operations in each branch; those of a
	// transaction inside it count with those around it. 128.
	MaxTxnOps int

	// MaxRequestBytes bounds a request, as it is on the wire: 1.5 MiB, which is the most that a command may have.
	MaxRequestBytes int

	// WatchProgressInterval is after how long without a change a watch that asks for it is told how far it is: 5 s.
	WatchProgressInterval time.Duration

	// Compaction says what is kept of the history of zones; by default what is younger than an hour.
	Compaction compactor.Options

	Logger *slog.Logger // discards by default
}

// API is one node's. It is for one call of Configure, and one of Run after that.
type API struct {
	config     etcd.Config
	compaction compactor.Options
}

// New returns an API, or what is wrong with the options.
func New(o Options) (*API, error) {
	c := etcd.Config{
		MaxTxnOps: o.MaxTxnOps, MaxRequestBytes: o.MaxRequestBytes, WatchProgressInterval: o.WatchProgressInterval,
		Lessor: lessor.New(lessor.Options{Logger: o.Logger}),
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if o.Compaction.Logger == nil {
		o.Compaction.Logger = o.Logger
	}
	return &API{c, o.Compaction}, nil
}

// Configure adds to the configuration of a node what the API needs: options of the gRPC server, after those of the
// program; permissions; the state machine kv under MachineName, and as that of the root zone if there is none; and
// answers to questions whose first byte is 1 to 31, so that others still come to the program's Answer.
func (s *API) Configure(c *node.Config) {
	c.Answer = s.answer(c.Answer)
	c.ServerOptions = append(c.ServerOptions, etcd.Options()...)
	c.Permissions = with(c.Permissions, etcd.Permissions())
	c.Machines = with(c.Machines, map[string]nexusraft.StateMachine{MachineName: kv.StateMachine{}})
	if c.StateMachine == nil {
		c.StateMachine = kv.StateMachine{}
	}
}

// lastQuestion is the highest first byte of the lessor's questions.
const lastQuestion = 31

func (s *API) answer(
	others func(context.Context, nexusraft.ZoneID, []byte) ([]byte, error),
) func(context.Context, nexusraft.ZoneID, []byte) ([]byte, error) {
	return func(ctx context.Context, zone nexusraft.ZoneID, question []byte) ([]byte, error) {
		if others != nil && (len(question) == 0 || question[0] == 0 || question[0] > lastQuestion) {
			return others(ctx, zone, question)
		}
		return s.config.Lessor.Answer(ctx, zone, question)
	}
}

// with returns both maps in one, which is new.
func with[V any](a, b map[string]V) map[string]V {
	both := make(map[string]V, len(a)+len(b))
	maps.Copy(both, a)
	maps.Copy(both, b)
	return both
}

// Run is node.Node.Run with etcd's services, for a node that was opened with what Configure has made; more, unless it
// is nil, adds services of the program.
func (s *API) Run(ctx context.Context, n *node.Node, lis net.Listener, more func(grpc.ServiceRegistrar)) error {
	config := s.config
	config.ElectionTimeout, config.Feeds = n.ElectionTimeout(), feed.Of(n)
	services := config.Services(n)
	tending, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { compactor.Run(tending, n, s.compaction) })
	ended.Go(func() { config.Lessor.Run(tending, n) })
	err := n.Run(ctx, lis, func(r grpc.ServiceRegistrar) {
		services(r)
		if more != nil {
			more(r)
		}
	})
	stop()
	ended.Wait()
	return err
}

// awaitRest is the time between two looks at a zone.
const awaitRest = 20 * time.Millisecond

// AwaitZone returns once a zone of the node has a leader and its state machine all that etcd's API needs: until then
// transactions, watches and leases are refused with Unavailable. That takes a moment in a new zone, and while nodes are
// updated it lasts until all of them are. It returns the last reason if ctx ends first.
func (s *API) AwaitZone(ctx context.Context, n *node.Node, id nexusraft.ZoneID) error {
	zone, err := n.Zone(id)
	if err != nil {
		return err
	}
	for {
		status, err := zone.Status(ctx)
		if err == nil && status.MachineVersion >= kv.VersionLeases && status.Leader != 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(awaitRest):
		}
	}
}
