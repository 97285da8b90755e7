package peering

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// meet is told what every peer says of itself, whichever of the two has called. It remembers lives
// and addresses, and refuses what can't be this cluster's node as it was last seen (I5), and a node
// that was removed (I12).
func (p *Peering) meet(peer transport.Identity) error {
	self := p.Self()
	if peer.Node == self.Node {
		return fmt.Errorf("%w: node %v is this node; a copy of its data directory must not run", nexusraft.ErrRefused,
			peer.Node)
	}
	if p.WasRemoved(peer.Node) {
		return ErrNodeRemoved(peer.Node)
	}
	p.meeting.Lock()
	defer p.meeting.Unlock()
	old, known, count := p.lookUp(peer.Node)
	switch {
	case peer.Cluster == 0 && old.Incarnation > 0:
		return fmt.Errorf("%w: node %v was of this cluster and says that it belongs to none: its data directory was copied "+
			"or rolled back", nexusraft.ErrFenced, peer.Node)
	case peer.Cluster == 0:
		return nil // it asks to join and is nobody's peer yet
	case !known && p.o.MaxPeers > 0 && count >= p.o.MaxPeers:
		return fmt.Errorf("%w: %s %v knows %d nodes already and takes no more", nexusraft.ErrRefused, p.kind(), self.Node,
			p.o.MaxPeers)
	}
	if err := old.Check(peer); err != nil {
		return err
	}
	now := Peer{peer.Opening(), peer.Address}
	if now == old {
		return nil
	}
	if err := p.o.Store.Save(RecordChange{Node: peer.Node, Peer: &now}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[peer.Node] = now
	return nil
}

// heed remembers what a peer speaks that was met and accepted, unless a later opening of it has been met
// meanwhile: an older handshake may be on its way still.
func (p *Peering) heed(peer transport.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[peer.Node].Opening == peer.Opening() {
		p.minors[peer.Node] = peer.Minor
	}
}

// Minor returns the minor version of the protocol that a node speaks: what it said last, in a handshake
// that was accepted in this opening. It is false for a node that has said nothing yet.
func (p *Peering) Minor(node nexusraft.NodeID) (uint32, bool) {
	if node == p.Self().Node {
		return transport.MinorVersion, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	minor, ok := p.minors[node]
	return minor, ok
}

// lookUp returns what is known of a peer, and how many are known.
func (p *Peering) lookUp(node nexusraft.NodeID) (old Peer, known bool, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, known = p.known[node]
	return old, known, len(p.known)
}
