package node

import (
	"context"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// AuthorityKey is the private key of the cluster's authority, PEM.
func (n *Node) AuthorityKey() ([]byte, error) {
	ca, err := n.Authority()
	return ca.Key, err
}

// RenewCertificate does at once what the node does now and then.
func (n *Node) RenewCertificate(ctx context.Context, now time.Time) error {
	return n.authority.Renewal().Look(ctx, now)
}

// Issuer is the part of the node that issues credentials.
func (n *Node) Issuer() *authority.Service { return n.authority }

// Authority is what signs the certificates of nodes.
func (n *Node) Authority() (ca pki.Pair, err error) {
	err = n.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		a, err := system.Authority(r)
		ca = system.SignerOfNodes(a)
		return err
	})
	return ca, err
}

// SpendWithoutKey uses a token for a witness as an earlier release does, which keeps no key.
func (n *Node) SpendWithoutKey(ctx context.Context, t pki.Token, node nexusraft.NodeID) error {
	hash := t.Hash()
	c := &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: &pb.UseJoinToken{
		Id: t.ID[:], Hash: hash[:], Node: uint64(node), Role: pb.Role_ROLE_WITNESS,
	}}}
	_, err := n.proposeSystem(ctx, nexusraft.RootZone, c)
	return err
}

// LeftBehind reports whether the node is about to believe the authority that its join token names.
func (n *Node) LeftBehind() bool { return n.peering.LeftBehind() }
