package transport

import (
	"errors"
	"fmt"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// hello is how self speaks to the node to, 0 if only its address is known.
func hello(self Identity, to nexusraft.NodeID) *pb.Hello {
	return &pb.Hello{
		Protocol:    ProtocolVersion,
		ClusterId:   uint64(self.Cluster),
		NodeId:      uint64(self.Node),
		ToNodeId:    uint64(to),
		Incarnation: uint64(self.Incarnation),
		Address:     self.Address,
		Name:        self.Name,
		Witness:     self.Witness,
	}
}

// checkHello makes the checks of invariant I6 that hold for callers and answers alike. A
// cluster of 0 on either side and a to of 0 pass; where they may not be, the caller of
// checkHello says so.
func checkHello(self Identity, h *pb.Hello) (Identity, error) {
	peer := Identity{
		Cluster:     nexusraft.ClusterID(h.GetClusterId()),
		Node:        nexusraft.NodeID(h.GetNodeId()),
		Incarnation: nexusraft.Incarnation(h.GetIncarnation()),
		Address:     h.GetAddress(),
		Name:        h.GetName(),
		Witness:     h.GetWitness(),
	}
	to := nexusraft.NodeID(h.GetToNodeId())
	switch {
	case h == nil:
		return Identity{}, refuse("the handshake is missing")
	case h.GetProtocol() != ProtocolVersion:
		return Identity{}, refuse("protocol mismatch: peer %v speaks version %d, node %v version %d; run the same release on both",
			peer.Node, h.GetProtocol(), self.Node, ProtocolVersion)
	case peer.Node == 0:
		return Identity{}, refuse("the peer's node ID is 0")
	case peer.Incarnation == 0:
		return Identity{}, refuse("the incarnation of peer %v is 0", peer.Node)
	case len(peer.Address) > nexusraft.MaxAddressBytes:
		return Identity{}, refuse("the address of peer %v has %d bytes, limit %d", peer.Node, len(peer.Address), nexusraft.MaxAddressBytes)
	case len(peer.Name) > nexusraft.MaxNameBytes:
		return Identity{}, refuse("the name of peer %v has %d bytes, limit %d", peer.Node, len(peer.Name), nexusraft.MaxNameBytes)
	case peer.Node == self.Node:
		return Identity{}, refuse("node %v speaks to itself; its own address, or a copy of its data directory, is among its peers", self.Node)
	case peer.Cluster != self.Cluster && peer.Cluster != 0 && self.Cluster != 0:
		return Identity{}, refuse("cluster mismatch: peer %v belongs to cluster %v, node %v to cluster %v",
			peer.Node, peer.Cluster, self.Node, self.Cluster)
	case to != self.Node && to != 0:
		return Identity{}, refuse("node mismatch: peer %v means to speak to node %v, but this is node %v", peer.Node, to, self.Node)
	}
	return peer, nil
}

// checkCaller checks the handshake of a caller. One that is joining may belong to no
// cluster, and may not know whom it speaks to.
func checkCaller(self Identity, h *pb.Hello, joining bool) (Identity, error) {
	peer, err := checkHello(self, h)
	switch {
	case err != nil:
		return Identity{}, err
	case self.Cluster == 0:
		return Identity{}, fmt.Errorf("handshake: node %v: %w", self.Node, nexusraft.ErrNotFounded)
	case peer.Cluster == 0 && !joining:
		return Identity{}, refuse("cluster mismatch: peer %v belongs to no cluster yet, node %v to cluster %v", peer.Node, self.Node, self.Cluster)
	case h.GetToNodeId() == 0 && !joining:
		return Identity{}, refuse("node mismatch: peer %v does not say to which node it speaks", peer.Node)
	}
	return peer, nil
}

// checkAnswer checks the handshake in an answer, given which node was asked; 0 if only its
// address was known.
func checkAnswer(self Identity, h *pb.Hello, asked nexusraft.NodeID) (Identity, error) {
	peer, err := checkHello(self, h)
	switch {
	case err != nil:
		return Identity{}, err
	case peer.Cluster == 0:
		return Identity{}, refuse("cluster mismatch: peer %v belongs to no cluster yet", peer.Node)
	case peer.Node != asked && asked != 0:
		return Identity{}, refuse("node mismatch: node %v was asked, but node %v answered", asked, peer.Node)
	}
	return peer, nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: handshake: %s", nexusraft.ErrRefused, fmt.Sprintf(format, args...))
}

// refused makes err, a handler's verdict on a handshake, an ErrRefused.
func refused(err error) error {
	if errors.Is(err, nexusraft.ErrRefused) {
		return err
	}
	return fmt.Errorf("%w: handshake: %w", nexusraft.ErrRefused, err)
}

// incarnations remembers the highest incarnation seen of each peer (invariant I5).
type incarnations struct {
	mu      sync.Mutex
	highest map[nexusraft.NodeID]nexusraft.Incarnation
}

// check refuses a peer of which a higher incarnation was seen.
func (n *incarnations) check(peer Identity) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if high := n.highest[peer.Node]; peer.Incarnation < high {
		return refuse("incarnation mismatch: peer %v comes with incarnation %d, but %d was seen; its data directory was copied or rolled back",
			peer.Node, peer.Incarnation, high)
	}
	return nil
}

// record remembers a peer that was accepted.
func (n *incarnations) record(peer Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.highest == nil {
		n.highest = make(map[nexusraft.NodeID]nexusraft.Incarnation)
	}
	n.highest[peer.Node] = max(n.highest[peer.Node], peer.Incarnation)
}
