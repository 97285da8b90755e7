package node

import (
	"context"
	"iter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/transport"
)

// handler is what a node does for its peers (transport.Handlers) and for its clients (rpc.ClientHandlers).
// It owns nothing: it hands over and waits. Its methods stand beside what they hand over to.
type handler struct{ *Node }

// peerHandler is handler with what raft's messages need.
type peerHandler struct {
	handler
	*raftwire.Receiver
}

func (n *Node) peerHandlers() transport.Handlers {
	h := handler{n}
	return transport.Handlers{
		Peer: peerHandler{h, raftwire.NewReceiver(n.workers.Inbox(), n.logger, false)}, Member: h,
		Operators:     rpc.NewZones(h, zoneKeeper{n}),
		CheckSnapshot: n.workers.CheckSnapshot, CheckToken: n.authority.CheckToken,
		AskLeader: h.AskLeader,
		Renew:     n.authority.Renew, Trust: n.authority.Trust,
	}
}

func (n *Node) clientHandlers() rpc.ClientHandlers {
	return rpc.ClientHandlers{Events: handler{n}, Access: n.authority, Tokens: n.authority, Rotation: n.authority}
}

// ChangeMembership implements rpc.ZoneHandler.
func (n handler) ChangeMembership(
	ctx context.Context, zone nexusraft.ZoneID, c nexusraft.MembershipChange,
) (nexusraft.Membership, error) {
	return n.changeMembership(ctx, zone, c)
}

// TransferLeader implements rpc.ZoneHandler.
func (n handler) TransferLeader(
	ctx context.Context, zone nexusraft.ZoneID, to nexusraft.NodeID,
) (nexusraft.NodeID, error) {
	return n.workers.Changer(zone).TransferLeader(ctx, to)
}

// Checksum implements rpc.ZoneHandler.
func (n handler) Checksum(ctx context.Context, zone nexusraft.ZoneID) (nexusraft.Checksum, error) {
	return n.workers.Checksum(ctx, zone)
}

// RegisterSession implements rpc.ZoneHandler.
func (n handler) RegisterSession(ctx context.Context, zone nexusraft.ZoneID) (uint64, error) {
	z, err := n.Zone(zone)
	if err != nil {
		return 0, err
	}
	return z.registerOnce(ctx)
}

// Publish implements rpc.EventHandler.
func (n handler) Publish(
	ctx context.Context, zone nexusraft.ZoneID, topic, kind string, payload []byte,
) (uint64, error) {
	z, err := n.Zone(zone)
	if err != nil {
		return 0, err
	}
	return z.Publish(ctx, topic, kind, payload)
}

// Retain implements rpc.EventHandler.
func (n handler) Retain(ctx context.Context, zone nexusraft.ZoneID, count uint64, age time.Duration) error {
	z, err := n.Zone(zone)
	if err != nil {
		return err
	}
	return z.SetEventRetention(ctx, nexusraft.Retention{Count: count, Age: age})
}

// Hello implements transport.PeerHandler.
func (n handler) Hello(peer transport.Identity) error { return n.peering.Hello(peer) }

// Leaving implements transport.PeerHandler.
func (n handler) Leaving(node nexusraft.NodeID) { n.workers.Leaving(node) }

// InstallSnapshot implements transport.MemberHandler.
func (n handler) InstallSnapshot(
	ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	return n.workers.InstallSnapshot(ctx, from, h, chunks)
}
