package node

import (
	"context"
	"encoding/json"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// peerRecord is what is kept of a peer, in the tree "node": the latest life seen of it,
// and where it said it is reached.
type peerRecord struct {
	transport.Life
	Address string `json:"address"`
}

const peerPrefix = "peer/"

func peerKey(id nexusraft.NodeID) []byte { return []byte(peerPrefix + id.String()) }

func loadPeers(t *storage.Tree) (map[nexusraft.NodeID]peerRecord, error) {
	out := make(map[nexusraft.NodeID]peerRecord)
	for p, err := range t.Scan([]byte(peerPrefix), []byte(peerPrefix+"g")) {
		if err != nil {
			return nil, err
		}
		id, r, err := decodePeer(p)
		if err != nil {
			return nil, err
		}
		out[id] = r
	}
	return out, nil
}

func decodePeer(p nexusraft.Pair) (id nexusraft.NodeID, r peerRecord, err error) {
	if err := id.UnmarshalText(p.Key[len(peerPrefix):]); err != nil {
		return 0, peerRecord{}, fmt.Errorf("%w: peer record %q: %w", nexusraft.ErrCorrupt, p.Key, err)
	}
	if err := json.Unmarshal(p.Value, &r); err != nil {
		return 0, peerRecord{}, fmt.Errorf("%w: record of peer %v: %w", nexusraft.ErrCorrupt, id, err)
	}
	return id, r, nil
}

// Hello implements transport.PeerHandler.
func (n *Node) Hello(peer transport.Identity) error {
	if err := n.meet(peer); err != nil || peer.Cluster == 0 {
		return err
	}
	n.peers.SetAddress(peer.Node, peer.Address) // it is there: no pause before the next attempt
	return nil
}

// meet is told what every peer says of itself, whoever of the two has called. It refuses
// what can't be this cluster's node as it was last seen (I5), and a node that was removed
// (I12).
func (n *Node) meet(peer transport.Identity) error {
	if peer.Node == n.identity().Node {
		return fmt.Errorf("%w: node %v is this node; a copy of its data directory must not run", nexusraft.ErrRefused, peer.Node)
	}
	if n.wasRemoved(peer.Node) {
		return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, peer.Node)
	}
	n.helloMu.Lock()
	defer n.helloMu.Unlock()
	n.peersMu.Lock()
	old := n.known[peer.Node]
	n.peersMu.Unlock()
	switch {
	case peer.Cluster == 0 && old.Incarnation > 0:
		return fmt.Errorf("%w: node %v was of this cluster and says that it belongs to none: its data directory was copied or rolled back", nexusraft.ErrFenced, peer.Node)
	case peer.Cluster == 0:
		return nil // it asks to join and is nobody's peer yet
	}
	if err := old.Check(peer); err != nil {
		return err
	}
	if now := (peerRecord{transport.LifeOf(peer), peer.Address}); now != old {
		if err := n.storePeer(peer.Node, now); err != nil {
			return err
		}
		n.peersMu.Lock()
		n.known[peer.Node] = now
		n.peersMu.Unlock()
	}
	return nil
}

// accepted is told what a peer says of itself that accepts this node.
func (n *Node) accepted(peer transport.Identity) error {
	n.refusals.Remove(peer.Node)
	return n.meet(peer)
}

// wasRemoved reports whether the root zone, and with it the cluster, has a tombstone of a
// node.
func (n *Node) wasRemoved(id nexusraft.NodeID) bool {
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	return n.states[nexusraft.RootZone].members.IsRemovedNode(id)
}

// moved takes over an address that was heard of from somebody else: an operator's hint, or
// a record that the leader has changed. What the node itself says later counts more.
func (n *Node) moved(id nexusraft.NodeID, address string) {
	if id == n.ID() || address == "" {
		return
	}
	n.peersMu.Lock()
	r := n.known[id]
	r.Address = address
	n.known[id] = r
	n.peersMu.Unlock()
	n.peers.SetAddress(id, address)
}

// followHints looks for peers at the addresses of Config.Join while some are missing:
// nodes that have all moved know no other way to each other.
func (n *Node) followHints(ctx context.Context) {
	if len(n.config.Join) == 0 {
		return
	}
	n.peers.Find(ctx, n.config.Join, func(id nexusraft.NodeID, address string) {
		n.logger.Debug("peer found by a hint", "peer", id, "addr", address)
		n.moved(id, address)
	})
}

func (n *Node) storePeer(id nexusraft.NodeID, r peerRecord) error {
	record, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of peer %v: %w", id, err)
	}
	b := n.store.NewBatch()
	defer b.Close()
	b.UseReserve() // a peer that restarts must be met on a full disk, too
	if err := b.Set(n.trees.node, peerKey(id), record); err != nil {
		return err
	}
	return b.Commit(true)
}

// addressOf is where a node was last known to be, or fallback.
func (n *Node) addressOf(id nexusraft.NodeID, fallback string) string {
	if self := n.self(); id == self.Node {
		return self.Address
	}
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	if r, ok := n.known[id]; ok && r.Address != "" {
		return r.Address
	}
	return fallback
}

// current is a record with the address that its node has now.
func (n *Node) current(m nexusraft.Member) nexusraft.Member {
	m.Address = n.addressOf(m.Node, m.Address)
	return m
}

// connect makes the senders know every replica's node.
func (n *Node) connect(members nexusraft.Membership) {
	for _, m := range members.Members {
		if m.Node == n.identity().Node {
			continue
		}
		if address := n.addressOf(m.Node, m.Address); address != "" {
			n.peers.SetAddress(m.Node, address)
		}
	}
}
