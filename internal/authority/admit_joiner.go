package authority

import (
	"context"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// CheckToken is transport.Handlers.CheckToken. Whether a token is used up, or has expired, the
// leader says.
func (s *Service) CheckToken(ctx context.Context, p mtls.TokenProof) error {
	_, err := s.provenToken(ctx, p)
	return err
}

// provenToken returns the record of the token that a caller has shown. A quorum is asked only for
// one that is not known here: it may be new.
func (s *Service) provenToken(ctx context.Context, p mtls.TokenProof) (t *pb.JoinToken, err error) {
	if p.ID == ([8]byte{}) {
		return nil, fmt.Errorf("%w: %w", nexusraft.ErrRefused, errNeedsToken)
	}
	find := func(r nexusraft.Reader) error {
		t, err = system.JoinToken(r, p.ID[:])
		return err
	}
	if err := s.o.Zone.ReadLocal(find); err != nil {
		if err := s.o.Zone.Read(ctx, find); err != nil {
			return nil, err
		}
	}
	if !p.Of(t.GetHash()) {
		return nil, system.UnknownJoinToken(p.ID[:])
	}
	return t, nil
}

// tokenUse is the command by which a node uses the token that it has shown, for the key of its
// request.
func (s *Service) tokenUse(
	ctx context.Context, p mtls.TokenProof, node nexusraft.NodeID, role nexusraft.Role, request []byte,
) (*pb.UseJoinToken, error) {
	t, err := s.provenToken(ctx, p)
	if err != nil {
		return nil, err
	}
	use := &pb.UseJoinToken{Id: t.GetId(), Hash: t.GetHash(), Node: uint64(node), Role: wire.RoleToProto(role)}
	if request != nil {
		use.KeyHash, err = pki.KeyHash(request)
	}
	return use, err
}

// Admit lets a node that asks to join go on: over TLS it needs a join token, unless it
// shows a certificate. A token is used only for a node that can be admitted.
//
// A node that speaks a lower version than the cluster has is refused: it knows nothing of what others
// may have made use of.
func (s *Service) Admit(ctx context.Context, r transport.JoinRequest) error {
	if err := s.checkVersion(ctx, r.Peer); err != nil {
		return err
	}
	if !mtls.Encrypted(ctx) {
		if r.CertificateRequest != nil {
			return fmt.Errorf("%w: this node gives no certificates over a connection that is not encrypted: start it with --tls",
				nexusraft.ErrRefused)
		}
		return nil
	}
	if _, ok := mtls.CallerOf(ctx); ok {
		return nil
	}
	use, err := s.tokenUse(ctx, r.Proof, r.Peer.Node, r.Role, r.CertificateRequest)
	if err != nil {
		return err
	}
	refusal, err := s.o.Zone.MayJoin(ctx, r)
	if err != nil {
		return err
	}
	used := false
	// A wrong token costs no entry of the log. Every token that was ever made is known here,
	// in a leader's first moments, too.
	err = s.o.Zone.Read(ctx, func(reader nexusraft.Reader) error {
		t, err := system.JoinToken(reader, use.GetId())
		if err == nil {
			used, err = system.JoinTokenAllows(t, s.o.Clock().UnixNano(), use)
		}
		return err
	})
	switch {
	case err != nil || used:
		return err
	case refusal != nil:
		return refusal
	}
	return s.o.Zone.Propose(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: use}})
}

// checkVersion refuses a node that speaks a lower version than the cluster has, if that was raised: before,
// a cluster takes nodes of any. One that speaks what this node does needs no look: no version is higher.
func (s *Service) checkVersion(ctx context.Context, peer transport.Identity) error {
	if peer.Minor >= transport.MinorVersion {
		return nil
	}
	return s.o.Zone.Read(ctx, func(r nexusraft.Reader) error { // the leader's own state may be behind at first
		version, err := system.ClusterVersion(r)
		if err != nil || version < system.ZonesVersion || peer.Minor >= version {
			return err
		}
		return fmt.Errorf("%w: node %v speaks version %d of the protocol, and this cluster has version %d: install the "+
			"newest release", nexusraft.ErrRefused, peer.Node, peer.Minor, version)
	})
}

// renewable refuses to renew by a token that the node has used already with a key that is not
// recorded: an earlier release applied that. A holder of the token, which is spent, would get the
// certificate of a node of the cluster.
func renewable(t *pb.JoinToken, node nexusraft.NodeID) error {
	has := func(k *pb.TokenKey) bool { return k.GetNode() == uint64(node) }
	if slices.Contains(t.GetNodes(), uint64(node)) && !slices.ContainsFunc(t.GetKeys(), has) {
		return fmt.Errorf("%w: node %v has used join token %x before, with a key that is not known here; make a new one "+
			"with: nexus-raft token create",
			nexusraft.ErrRefused, node, t.GetId())
	}
	return nil
}

// useForRenewal lets a node that is in the cluster renew its certificate by the token that it has
// shown, which must be for the role that it has there, and returns that.
func (s *Service) useForRenewal(ctx context.Context, r transport.RenewRequest) (nexusraft.Role, error) {
	if _, err := s.provenToken(ctx, r.Proof); err != nil { // before anything is said of the node
		return "", err
	}
	if err := s.o.Zone.Confirm(ctx); err != nil {
		return "", err
	}
	members, err := s.o.Zone.Members()
	if err != nil {
		return "", err
	}
	m, ok := members.Node(r.Node)
	if !ok {
		return "", fmt.Errorf("%w: node %v is not in the cluster", nexusraft.ErrFenced, r.Node)
	}
	role := nexusraft.RoleMember
	if m.Role == nexusraft.RoleWitness {
		role = nexusraft.RoleWitness
	}
	t, err := s.provenToken(ctx, r.Proof) // once more: now it is as the quorum knows it
	if err != nil {
		return "", err
	}
	if err := renewable(t, r.Node); err != nil {
		return "", err
	}
	use, err := s.tokenUse(ctx, r.Proof, r.Node, role, r.CertificateRequest)
	if err != nil {
		return "", err
	}
	return role, s.o.Zone.Propose(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: use}})
}
