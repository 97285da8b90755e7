package etcd

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// Permissions returns what the services ask of their callers: it is for Config.Permissions of the
// node that serves them. The map is the caller's.
func Permissions() map[string]nexusraft.Permission { return policy.OfEtcd() }

// Services returns a function that registers all services of this package with their defaults, for
// node.Node.Run.
func Services(n *node.Node) func(grpc.ServiceRegistrar) { return Config{}.Services(n) }

// Services returns a function that registers all services of this package, for node.Node.Run.
// internal/authz/policy says which callers may call them.
func (c Config) Services(n *node.Node) func(grpc.ServiceRegistrar) {
	identity := func() Identity { return Identity{Cluster: n.Cluster(), Node: n.ID()} }
	if c.Feeds == nil {
		c.Feeds = feed.Of(n)
	}
	return func(r grpc.ServiceRegistrar) {
		r = heedful{r, zones{n}}
		keys := NewKV(zones{n}, identity, c)
		keys.Register(r)
		NewKeys(zones{n}, keys).Register(r)
		NewLeases(keys, c.leases()).Register(r)
		NewWatches(keys, c.Feeds).Register(r)
		operator := NewOperator(keys, n)
		operator.Register(r)
		NewAuth(operator, access{n}).Register(r)
		newConcurrency(keys, c.Feeds).Register(r)
	}
}

// leases returns the lessor, nil if there is none.
func (c Config) leases() LeaseKeeper {
	if c.Lessor == nil {
		return nil // an interface that holds a nil *lessor.Lessor is not nil
	}
	return nodesLessor{c.Lessor}
}

// zones are a node's, as the key-value service needs them.
type zones struct{ node *node.Node }

func (z zones) Zone(id nexusraft.ZoneID) (Zone, error) {
	found, err := z.node.Zone(id)
	if err != nil {
		return nil, err // not found: an interface that holds a nil *node.Zone is not nil
	}
	if _, ok := found.Machine().(kv.StateMachine); !ok {
		return nil, fmt.Errorf("%w: zone %v runs another state machine than the key-value store: etcd's API can't serve it",
			nexusraft.ErrRefused, id)
	}
	return found, nil
}

// access is what the Auth service needs of a node.
type access struct{ *node.Node }

func (a access) Principals(ctx context.Context) ([]nexusraft.Principal, error) {
	return a.Credentials().Access(ctx)
}
