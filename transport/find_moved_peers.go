package transport

import (
	"context"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How long Find pauses between two rounds, and waits for one address.
const (
	findPause   = 500 * time.Millisecond
	findTimeout = 2 * time.Second
)

// Find asks at each address which node is there and where that node knows others to be, and calls
// found with every answer of this cluster. Until ctx ends it makes a round now and then,
// while some peer is not connected. It is how nodes that have all moved find each other
// again: found calls SetAddress, and the handshake that follows proves the rest. An answer
// proves nothing by itself, and what one node says of another counts only while that one
// is not connected.
func (p *Peers) Find(ctx context.Context, addrs []string, found func(node nexusraft.NodeID, addr string)) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	for {
		for _, addr := range addrs {
			if !p.id().IsAt(addr) && !p.allConnected() {
				p.findAt(ctx, addr, found)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(findPause):
		}
	}
}

// findAt asks at one address. One that does not answer is asked again in the next round.
func (p *Peers) findAt(ctx context.Context, addr string, found func(nexusraft.NodeID, string)) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	c, end, err := p.pool.spare(NodeAddress{Endpoint: addr})
	if err != nil {
		return
	}
	defer end()
	st, err := c.Status(ctx)
	self := p.id()
	if err != nil || st.Cluster != self.Cluster || st.Node == self.Node {
		return
	}
	if !p.isConnected(st.Node) { // or the node that answers here may be a copy of it
		found(st.Node, addr)
	}
	for _, z := range st.Zones {
		for _, m := range z.Membership.Members {
			if m.Node != self.Node && m.Node != st.Node && nexusraft.ValidateAddress(m.Address) == nil &&
				!p.isConnected(m.Node) {
				found(m.Node, m.Address)
			}
		}
	}
}

func (p *Peers) allConnected() bool {
	rows := p.Stats()
	return len(rows) > 0 && !slices.ContainsFunc(rows, func(s PeerStats) bool { return !s.Connected })
}

func (p *Peers) isConnected(node nexusraft.NodeID) bool {
	x := p.peer(node)
	return x != nil && x.stats().Connected
}
