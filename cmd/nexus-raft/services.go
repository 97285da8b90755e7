package main

import (
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/server"
	"github.com/nexi-lab/nexus-raft/node"
)

// etcdServices registers what a member offers of etcd's API.
func etcdServices(n *node.Node) func(grpc.ServiceRegistrar) {
	identity := func() server.Identity { return server.Identity{Cluster: n.Cluster(), Node: n.ID()} }
	return func(r grpc.ServiceRegistrar) {
		server.NewKV(zones{n}, identity).Register(r)
		server.NewOperator(zones{n}, n).Register(r)
		server.NewTokens(n).Register(r)
		server.NewAccess(n).Register(r)
	}
}

// zones are a node's, as the key-value service needs them.
type zones struct{ node *node.Node }

func (z zones) Zone(id nexusraft.ZoneID) (server.Zone, error) {
	found, err := z.node.Zone(id)
	if err != nil {
		return nil, err // not found: an interface that holds a nil *node.Zone is not nil
	}
	return found, nil
}
