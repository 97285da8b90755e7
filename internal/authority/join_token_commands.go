package authority

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// maxTokenLife is how long a join token is good at most.
const maxTokenLife = 30 * 24 * time.Hour

func joinToken(t *pb.JoinToken) nexusraft.JoinToken {
	x := nexusraft.JoinToken{
		Expires: time.Unix(0, t.GetExpiresNanos()), UsesLeft: max(0, int(t.GetUses())-len(t.GetNodes())),
	}
	copy(x.ID[:], t.GetId())
	if t.GetRole() != pb.Role_ROLE_UNSPECIFIED {
		x.Role = wire.RoleFromProto(t.GetRole())
	}
	for _, node := range t.GetNodes() {
		x.Nodes = append(x.Nodes, nexusraft.NodeID(node))
	}
	return x
}

// CreateToken makes a token with which up to uses nodes (1 to 64) can join within life (at
// most 30 days), in a role: RoleMember or RoleWitness. The text is a secret, and
// is not to be had again. Errors are those of Zone.Propose, and ErrRefused with the reason.
func (s *Service) CreateToken(
	ctx context.Context, role nexusraft.Role, life time.Duration, uses int,
) (text string, info nexusraft.JoinToken, err error) {
	if life <= 0 || life > maxTokenLife {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create join token: %w: it can be good for up to %v, not for %v",
			nexusraft.ErrRefused, maxTokenLife, life)
	}
	if role != nexusraft.RoleMember && role != nexusraft.RoleWitness {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create join token: %w: it is for the role %s or %s, not %q",
			nexusraft.ErrRefused, nexusraft.RoleMember, nexusraft.RoleWitness, role)
	}
	if uses < 1 || uses > system.MaxJoinTokenUses {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create join token: %w: it can be for 1 to %d nodes, not for %d",
			nexusraft.ErrRefused, system.MaxJoinTokenUses, uses)
	}
	a, err := s.record()
	if err != nil {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	t, err := pki.NewToken(a.GetCertificate())
	if err != nil {
		return "", nexusraft.JoinToken{}, err
	}
	hash := t.Hash()
	stored := &pb.JoinToken{
		Id: t.ID[:], Hash: hash[:], ExpiresNanos: s.o.Clock().Add(life).UnixNano(),
		Uses: uint32(uses), Role: wire.RoleToProto(role),
	}
	if err := system.CheckJoinToken(stored); err != nil {
		return "", nexusraft.JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	err = s.propose(ctx, "create join token",
		&pb.NodeCommand{Kind: &pb.NodeCommand_PutJoinToken{PutJoinToken: stored}})
	if err != nil {
		return "", nexusraft.JoinToken{}, err
	}
	return t.String(), joinToken(stored), nil
}

// Tokens returns the join tokens that are still good, by identifier.
func (s *Service) Tokens(ctx context.Context) (tokens []nexusraft.JoinToken, err error) {
	now := s.o.Clock()
	err = s.o.Zone.Read(ctx, func(r nexusraft.Reader) error {
		stored, err := system.JoinTokens(r)
		for _, t := range stored {
			if x := joinToken(t); x.Expires.After(now) && x.UsesLeft > 0 {
				tokens = append(tokens, x)
			}
		}
		return err
	})
	return tokens, err
}

// RevokeToken takes a join token back. Nodes that have joined with it stay. ErrRefused if
// there is no such token.
func (s *Service) RevokeToken(ctx context.Context, id nexusraft.TokenID) error {
	return s.propose(ctx, fmt.Sprintf("revoke join token %x", id), &pb.NodeCommand{
		Kind: &pb.NodeCommand_DeleteJoinToken{DeleteJoinToken: &pb.DeleteJoinToken{Id: id[:]}},
	})
}

// errNeedsToken says how a node gets in.
var errNeedsToken = errors.New("the cluster speaks TLS and needs a join token: make one on a member with nexus-raft " +
	"token create, and give it to the node with --token-file or NEXUS_RAFT_TOKEN")
