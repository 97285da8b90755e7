package transport

import (
	"context"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// How often Find asks an address that has not answered yet, and how long it waits for it.
const (
	findPause   = 500 * time.Millisecond
	findTimeout = 2 * time.Second
)

// Find asks at each address, until it has answered or ctx ends, which node is there, and
// calls found with every answer of this cluster. It is how nodes that have all moved find
// each other again: found calls SetAddress, and the handshake that follows proves the
// rest. An answer proves nothing by itself.
func (p *Peers) Find(ctx context.Context, addrs []string, found func(node nexusraft.NodeID, addr string)) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	open := make(map[string]bool, len(addrs))
	for _, addr := range addrs {
		open[addr] = addr != p.id().Address
	}
	for {
		left := 0
		for addr, asking := range open {
			if !asking {
				continue
			}
			node, err := p.who(ctx, addr)
			if err != nil {
				left++
				continue
			}
			open[addr] = false
			if node != 0 {
				found(node, addr)
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(findPause):
		}
	}
}

// who returns which node of this cluster is at addr; 0 if one of another cluster is.
func (p *Peers) who(ctx context.Context, addr string) (nexusraft.NodeID, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	conn, err := p.dial(addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	resp, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask who is at %s: %w", addr, err)
	}
	self, st := p.id(), resp.GetStatus()
	if nexusraft.ClusterID(st.GetClusterId()) != self.Cluster || nexusraft.NodeID(st.GetNodeId()) == self.Node {
		return 0, nil
	}
	return nexusraft.NodeID(st.GetNodeId()), nil
}
