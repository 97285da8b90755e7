package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// hello is how self speaks to the node to, 0 if only its address is known.
func hello(self Identity, to nexusraft.NodeID) *pb.Hello {
	earlier := self.Earlier[:min(len(self.Earlier), MaxEarlier)]
	recent := min(len(earlier), recentEarlier)
	return &pb.Hello{
		Protocol:     ProtocolVersion,
		ClusterId:    uint64(self.Cluster),
		NodeId:       uint64(self.Node),
		ToNodeId:     uint64(to),
		Incarnation:  uint64(self.Incarnation),
		Boot:         uint64(self.Boot),
		EarlierBoots: wireBoots(earlier[:recent]),
		OlderBoots:   wireBoots(earlier[recent:]),
		Address:      self.Address,
		Name:         self.Name,
		Witness:      self.Witness,
		Minor:        MinorVersion,
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
		Boot:        nexusraft.Boot(h.GetBoot()),
		Address:     h.GetAddress(),
		Name:        h.GetName(),
		Witness:     h.GetWitness(),
		Minor:       h.GetMinor(),
	}
	to := nexusraft.NodeID(h.GetToNodeId())
	switch {
	case h == nil:
		return Identity{}, refuse("the handshake is missing")
	case h.GetProtocol() != ProtocolVersion:
		return Identity{}, refuse("protocol mismatch: peer %v speaks version %d.%d, node %v speaks version %d.%d; upgrade "+
			"the older one, to the same release at best",
			peer.Node, h.GetProtocol(), h.GetMinor(), self.Node, ProtocolVersion, MinorVersion)
	case peer.Node == 0:
		return Identity{}, refuse("the peer's node ID is 0")
	case peer.Incarnation == 0:
		return Identity{}, refuse("the incarnation of peer %v is 0", peer.Node)
	case peer.Boot == 0:
		return Identity{}, refuse("the boot number of peer %v is 0", peer.Node)
	case len(h.GetEarlierBoots()) > recentEarlier:
		return Identity{}, refuse("peer %v names %d earlier boots, limit %d", peer.Node, len(h.GetEarlierBoots()),
			recentEarlier)
	case len(h.GetOlderBoots()) > MaxEarlier-recentEarlier:
		return Identity{}, refuse("peer %v names %d older boots, limit %d", peer.Node, len(h.GetOlderBoots()),
			MaxEarlier-recentEarlier)
	case len(h.GetOlderBoots()) > 0 && len(h.GetEarlierBoots()) < recentEarlier:
		return Identity{}, refuse("peer %v names older boots behind %d earlier ones, want %d", peer.Node,
			len(h.GetEarlierBoots()), recentEarlier)
	case peer.Address == "":
		return Identity{}, refuse("peer %v does not say its address", peer.Node)
	case len(peer.Address) > nexusraft.MaxAddressBytes:
		return Identity{}, refuse("the address of peer %v has %d bytes, limit %d", peer.Node, len(peer.Address),
			nexusraft.MaxAddressBytes)
	case nexusraft.Printable(peer.Address) != peer.Address:
		return Identity{}, refuse("the address of peer %v can't be printed: %q", peer.Node, peer.Address)
	case nexusraft.ValidateName(peer.Name) != nil:
		return Identity{}, refuse("the name of peer %v: %v", peer.Node, nexusraft.ValidateName(peer.Name))
	case peer.Node == self.Node:
		return Identity{}, refuse("node %v speaks to itself; its own address, or a copy of its data directory, is among "+
			"its peers", self.Node)
	case peer.Cluster != self.Cluster && peer.Cluster != 0 && self.Cluster != 0:
		return Identity{}, refuse("cluster mismatch: peer %v belongs to cluster %v, node %v to cluster %v",
			peer.Node, peer.Cluster, self.Node, self.Cluster)
	case to != self.Node && to != 0:
		return Identity{}, refuse("node mismatch: peer %v means to speak to node %v, but this is node %v", peer.Node, to,
			self.Node)
	}
	for _, b := range slices.Concat(h.GetEarlierBoots(), h.GetOlderBoots()) {
		peer.Earlier = append(peer.Earlier, nexusraft.Boot(b))
	}
	return peer, nil
}

func wireBoots(boots []nexusraft.Boot) []uint64 {
	var out []uint64
	for _, b := range boots {
		out = append(out, uint64(b))
	}
	return out
}

// checkCaller checks the handshake of a caller. One that is joining may belong to no
// cluster, and may not know the node that it speaks to.
func checkCaller(self Identity, h *pb.Hello, joining bool) (Identity, error) {
	peer, err := checkHello(self, h)
	switch {
	case err != nil:
		return Identity{}, err
	case self.Cluster == 0:
		return Identity{}, fmt.Errorf("handshake: node %v: %w", self.Node, nexusraft.ErrNotFounded)
	case peer.Cluster == 0 && !joining:
		return Identity{}, refuse("cluster mismatch: peer %v belongs to no cluster yet, node %v to cluster %v", peer.Node,
			self.Node, self.Cluster)
	case joining && nexusraft.ValidateAddress(peer.Address) != nil: // it becomes a record
		return Identity{}, refuse("peer %v: %v; give it another one to advertise", peer.Node,
			nexusraft.ValidateAddress(peer.Address))
	case h.GetToNodeId() == 0 && !joining:
		return Identity{}, refuse("node mismatch: peer %v does not say to which node it speaks", peer.Node)
	}
	return peer, nil
}

// checkSender refuses a handshake with another node or cluster than the certificate of its
// sender names. A node that joins and belongs to no cluster may have no certificate yet.
// Without TLS all pass.
func checkSender(ctx context.Context, self Identity, h *pb.Hello, joining bool) error {
	if !mtls.Encrypted(ctx) {
		return nil
	}
	claimed := mtls.Caller{Cluster: nexusraft.ClusterID(h.GetClusterId()), Node: nexusraft.NodeID(h.GetNodeId())}
	if joining && claimed.Cluster == 0 {
		claimed.Cluster = self.Cluster
	}
	caller, known := mtls.CallerOf(ctx)
	switch {
	case !known && joining && h.GetClusterId() == 0:
		return nil
	case !known:
		return refuse("peer %v has no certificate that node %v believes: %v", claimed.Node, self.Node,
			mtls.WhyUnknown(ctx))
	case caller.Node == 0:
		return refuse("peer %v shows the certificate of client %q; a node needs one of its own", claimed.Node,
			caller.Client)
	case caller.Node != claimed.Node:
		return refuse("node mismatch: peer %v shows the certificate of node %v", claimed.Node, caller.Node)
	case caller.Cluster != claimed.Cluster:
		return refuse("cluster mismatch: peer %v of cluster %v shows a certificate of cluster %v", claimed.Node,
			claimed.Cluster, caller.Cluster)
	}
	return nil
}

// provesFull reports whether the caller of a handshake proves that it is a full node, not a
// witness: by its certificate, or without TLS, where nothing is proved, by its own word.
func provesFull(ctx context.Context, h *pb.Hello) bool {
	if !mtls.Encrypted(ctx) {
		return !h.GetWitness()
	}
	caller, known := mtls.CallerOf(ctx)
	return known && caller.Role == nexusraft.RoleMember
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

// checkAnswerer refuses the handshake in an answer of another node than the certificate of
// the connection names. Without TLS all pass.
func checkAnswerer(info credentials.AuthInfo, h *pb.Hello) error {
	server, ok := mtls.ServerOf(info)
	if !ok {
		return nil
	}
	claimed := mtls.Caller{Cluster: nexusraft.ClusterID(h.GetClusterId()), Node: nexusraft.NodeID(h.GetNodeId())}
	if claimed != server {
		return refuse("node %v of cluster %v answers, with the certificate of node %v of cluster %v",
			claimed.Node, claimed.Cluster, server.Node, server.Cluster)
	}
	return nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: handshake: %s", nexusraft.ErrRefused, fmt.Sprintf(format, args...))
}

// refused makes err, a handler's verdict on a handshake, an ErrRefused unless it says more.
func refused(err error) error {
	if errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) {
		return err
	}
	return fmt.Errorf("%w: handshake: %w", nexusraft.ErrRefused, err)
}

// refusalStatus is the gRPC form of a refused handshake. Its details are the error, and
// what self is: a node that is refused for good wants to know which node says so.
func refusalStatus(self Identity, h *pb.Hello, err error) error {
	st := status.New(codes.FailedPrecondition, err.Error())
	detailed, failed := st.WithDetails(wire.ErrorToProto(err), hello(self, nexusraft.NodeID(h.GetNodeId())))
	if failed != nil {
		return st.Err()
	}
	return detailed.Err()
}

// refusal is a handshake that the other side refused, in its words.
type refusal struct {
	text  string
	means []error
	from  *pb.Hello // the node that has refused; nil if it does not say
}

func (e *refusal) Error() string   { return e.text }
func (e *refusal) Unwrap() []error { return e.means }

// asRefusal returns err, as what it means if it is the gRPC form of a refused handshake:
// ErrFenced, or else ErrRefused besides what it says itself.
func asRefusal(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.FailedPrecondition {
		return err
	}
	r := &refusal{text: s.Message(), means: []error{nexusraft.ErrRefused}}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *pb.Hello:
			r.from = d
		case *pb.Error:
			cause := wire.ErrorFromProto(d)
			if errors.Is(cause, nexusraft.ErrFenced) {
				r.means = nil
			}
			r.means = append(r.means, cause)
		}
	}
	return r
}

// fencedBy reports whether err is the refusal for good of the node that was asked, which
// belongs to self's cluster, and what that says of itself.
func fencedBy(self Identity, asked nexusraft.NodeID, err error) (Identity, bool) {
	r, ok := errors.AsType[*refusal](err)
	if !ok || !errors.Is(err, nexusraft.ErrFenced) || r.from == nil {
		return Identity{}, false
	}
	peer, err := checkAnswer(self, r.from, asked)
	return peer, err == nil
}
