package peering

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Hello implements that of transport.PeerHandler: it learns addresses, and refuses a peer that
// can't be what it claims to be.
func (p *Peering) Hello(peer transport.Identity) error {
	if err := p.meet(peer); err != nil || peer.Cluster == 0 {
		return err
	}
	p.heed(peer)
	if peer.Full { // for good: no node becomes a witness
		p.full.Store(peer.Node, true)
	}
	p.peers.SetAddress(peer.Node, peer.Address) // it is there: no pause before the next attempt
	return nil
}

// Vouched reports whether a node has proved to be a full one since this one was started.
func (p *Peering) Vouched(node nexusraft.NodeID) bool {
	_, ok := p.full.Load(node)
	return ok
}

// WasRemoved reports whether the root zone, and with it the cluster, has a tombstone of a node.
func (p *Peering) WasRemoved(node nexusraft.NodeID) bool { return p.o.Members().IsRemovedNode(node) }

// ErrNodeRemoved refuses a node that was removed.
func ErrNodeRemoved(node nexusraft.NodeID) error {
	return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, node)
}

// AddressOf returns where a node was last known to be, or fallback.
func (p *Peering) AddressOf(node nexusraft.NodeID, fallback string) string {
	if self := p.Self(); node == self.Node {
		return self.Address
	}
	if r, _, _ := p.lookUp(node); r.Address != "" {
		return r.Address
	}
	return fallback
}

// Moved takes over an address that was heard of from another one than the node itself: an
// operator's hint, or a record that the leader has changed. What the node itself says later counts
// more.
func (p *Peering) Moved(node nexusraft.NodeID, address string) {
	if node == p.Self().Node || address == "" {
		return
	}
	p.mu.Lock()
	r := p.known[node]
	r.Address = address
	p.known[node] = r
	p.mu.Unlock()
	p.peers.SetAddress(node, address)
}

// Connect makes the senders know the node of every replica.
func (p *Peering) Connect(members nexusraft.Membership) {
	self := p.Self().Node
	for _, m := range members.Members {
		if m.Node == self {
			continue
		}
		if address := p.AddressOf(m.Node, m.Address); address != "" {
			p.peers.SetAddress(m.Node, address)
		}
	}
}

// Removed ends all connections with a node that was removed.
func (p *Peering) Removed(node nexusraft.NodeID) {
	p.peers.Remove(node)
	p.server.End(node, ErrNodeRemoved(node))
	p.tls.HangUp(node)
}

// followHints looks for peers at the addresses of Options.Join while some are missing, until ctx
// ends: nodes that have all moved know no other way to each other.
func (p *Peering) followHints(ctx context.Context) {
	if len(p.o.Join) == 0 {
		return
	}
	p.peers.Find(ctx, p.o.Join, func(node nexusraft.NodeID, address string) {
		p.o.Logger.Debug("peer found by a hint", "peer", node, "addr", address)
		p.Moved(node, address)
	})
}

// refusedBy is told that a peer refuses this node for good. A peer that can't be the one that it
// names is not believed, and one alone ends the node only if no quorum is left without it.
func (p *Peering) refusedBy(peer transport.Identity, err error) {
	if refused := p.meet(peer); refused != nil {
		p.o.Logger.Warn("a refusal is not believed", "peer", peer.Node, "err", refused)
		return
	}
	why, news := p.refusals.Add(peer.Node, err)
	if news {
		p.o.Logger.Error("refused for good", "peer", peer.Node, "err", why)
	}
	if !p.refusals.Final(p.o.Members()) {
		return
	}
	p.o.Fail(fmt.Errorf("%w: peer %v refuses this node for good: %w: %s; or, %s", nexusraft.ErrFenced, peer.Node, why,
		WayBack(p.o.Dir), ForgetLivesHint))
}

// accepted is told what a peer says of itself that accepts this node.
func (p *Peering) accepted(peer transport.Identity) error {
	p.refusals.Remove(peer.Node)
	err := p.meet(peer)
	if err == nil {
		p.heed(peer)
	}
	return err
}
