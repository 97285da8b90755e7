package main

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/server"
	"github.com/nexi-lab/nexus-raft/node"
)

// zones are a node's, as the key-value service needs them.
type zones struct{ node *node.Node }

func (z zones) Zone(id nexusraft.ZoneID) (server.Zone, error) {
	found, err := z.node.Zone(id)
	if err != nil {
		return nil, err // not found: an interface that holds a nil *node.Zone is not nil
	}
	return found, nil
}
