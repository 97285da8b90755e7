package node

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/storage"
)

// The root zone keeps the cluster's authority and its join tokens.
var (
	authorityKey = []byte{partNode, 's', 'a'}
	tokenPrefix  = []byte{partNode, 's', 't'}
	tokenEnd     = []byte{partNode, 's', 't' + 1}
)

// Bounds of join tokens.
const (
	maxTokens    = 1024
	maxTokenUses = 64
	maxTokenLife = 30 * 24 * time.Hour
)

func tokenKey(id []byte) []byte { return append(slices.Clone(tokenPrefix), id...) }

// applyPutToken stores a token, and drops those that have expired.
func applyPutToken(base *storage.Overlay, now int64, t *pb.JoinToken) error {
	if err := checkToken(t); err != nil {
		return err
	}
	tokens, err := readTokens(base)
	if err != nil {
		return err
	}
	kept := 0
	for _, old := range tokens {
		if bytes.Equal(old.GetId(), t.GetId()) {
			return fmt.Errorf("%w: join token %x exists", nexusraft.ErrRefused, t.GetId())
		}
		if old.GetExpiresNanos() > now {
			kept++
			continue
		}
		if err := base.Delete(tokenKey(old.GetId())); err != nil {
			return err
		}
	}
	if kept >= maxTokens {
		return fmt.Errorf("%w: there are %d join tokens; revoke some with: nexus-raft token revoke", nexusraft.ErrRefused, kept)
	}
	return setToken(base, t)
}

func checkToken(t *pb.JoinToken) error {
	switch role := t.GetRole(); {
	case len(t.GetId()) != len(pki.Token{}.ID) || len(t.GetHash()) != len(pki.Token{}.Hash()):
		return fmt.Errorf("%w: a join token with an identifier of %d and a hash of %d bytes", nexusraft.ErrRefused, len(t.GetId()), len(t.GetHash()))
	case t.GetUses() == 0 || t.GetUses() > maxTokenUses:
		return fmt.Errorf("%w: a join token for %d nodes; it can be for 1 to %d", nexusraft.ErrRefused, t.GetUses(), maxTokenUses)
	case role != pb.Role_ROLE_UNSPECIFIED && role != pb.Role_ROLE_MEMBER && role != pb.Role_ROLE_WITNESS:
		return fmt.Errorf("%w: a join token for the role %v; nodes join as member or as witness", nexusraft.ErrRefused, role)
	}
	return nil
}

func applyDeleteToken(base *storage.Overlay, c *pb.DeleteJoinToken) error {
	if _, err := readToken(base, c.GetId()); err != nil {
		return err
	}
	return base.Delete(tokenKey(c.GetId()))
}

// applyUseToken notes that a node joins with a token.
func applyUseToken(base *storage.Overlay, now int64, c *pb.UseJoinToken) error {
	t, err := readToken(base, c.GetId())
	if err != nil {
		return err
	}
	used, err := tokenAllows(t, now, c)
	if err != nil || used {
		return err
	}
	t.Nodes = append(t.Nodes, c.GetNode())
	return setToken(base, t)
}

// tokenAllows returns nil if a token lets a node join, and whether the node has used it before.
// What the refusals say does not help to guess a secret.
func tokenAllows(t *pb.JoinToken, now int64, c *pb.UseJoinToken) (used bool, err error) {
	used = slices.Contains(t.GetNodes(), c.GetNode())
	switch {
	case subtle.ConstantTimeCompare(t.GetHash(), c.GetHash()) != 1:
		return false, errUnknownToken(c.GetId())
	case t.GetExpiresNanos() <= now:
		return false, fmt.Errorf("%w: join token %x has expired; make a new one with: nexus-raft token create", nexusraft.ErrRefused, c.GetId())
	case t.GetRole() != pb.Role_ROLE_UNSPECIFIED && t.GetRole() != c.GetRole():
		return false, fmt.Errorf("%w: join token %x is for a %s, not for a %s", nexusraft.ErrRefused, c.GetId(), wire.RoleFromProto(t.GetRole()), wire.RoleFromProto(c.GetRole()))
	case !used && len(t.GetNodes()) >= int(t.GetUses()):
		return false, fmt.Errorf("%w: join token %x is used up, by %d nodes; make a new one with: nexus-raft token create", nexusraft.ErrRefused, c.GetId(), len(t.GetNodes()))
	}
	return used, nil
}

func errUnknownToken(id []byte) error {
	return fmt.Errorf("%w: join token %x is not known here: it is wrong, was revoked, or expired long ago; make a new one with: nexus-raft token create", nexusraft.ErrRefused, id)
}

func setToken(base *storage.Overlay, t *pb.JoinToken) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode join token %x: %w", t.GetId(), err)
	}
	return base.Set(tokenKey(t.GetId()), b)
}

func readToken(r nexusraft.Reader, id []byte) (*pb.JoinToken, error) {
	if len(id) != len(pki.Token{}.ID) {
		return nil, fmt.Errorf("%w: the identifier of a join token has %d bytes, not %d", nexusraft.ErrRefused, len(pki.Token{}.ID), len(id))
	}
	b, ok, err := r.Get(tokenKey(id))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errUnknownToken(id)
	}
	return decodeToken(b)
}

func decodeToken(b []byte) (*pb.JoinToken, error) {
	t := &pb.JoinToken{}
	if err := proto.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%w: a join token can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	return t, nil
}

// readTokens returns all tokens, by identifier.
func readTokens(r nexusraft.Reader) (tokens []*pb.JoinToken, err error) {
	for p, err := range r.Scan(tokenPrefix, tokenEnd) {
		if err != nil {
			return nil, err
		}
		t, err := decodeToken(p.Value)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// JoinToken is what is known of a join token, but for its secret.
type JoinToken struct {
	ID       [8]byte
	Role     nexusraft.Role // in which nodes may join with it; "" for any
	Expires  time.Time
	UsesLeft int
	Nodes    []nexusraft.NodeID // that have joined with it
}

func joinToken(t *pb.JoinToken) JoinToken {
	x := JoinToken{Expires: time.Unix(0, t.GetExpiresNanos()), UsesLeft: max(0, int(t.GetUses())-len(t.GetNodes()))}
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
// most 30 days), in a role: RoleMember, RoleWitness, or "" for any. The text is a secret, and
// is not to be had again. Errors are those of Zone.Propose, and ErrRefused with the reason.
func (n *Node) CreateToken(ctx context.Context, role nexusraft.Role, life time.Duration, uses int) (text string, info JoinToken, err error) {
	if life <= 0 || life > maxTokenLife {
		return "", JoinToken{}, fmt.Errorf("create join token: %w: it can be good for up to %v, not for %v", nexusraft.ErrRefused, maxTokenLife, life)
	}
	if uses < 1 || uses > maxTokenUses {
		return "", JoinToken{}, fmt.Errorf("create join token: %w: it can be for 1 to %d nodes, not for %d", nexusraft.ErrRefused, maxTokenUses, uses)
	}
	ca, err := n.authority()
	if err != nil {
		return "", JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	t, err := pki.NewToken(ca.Cert)
	if err != nil {
		return "", JoinToken{}, err
	}
	hash := t.Hash()
	stored := &pb.JoinToken{Id: t.ID[:], Hash: hash[:], ExpiresNanos: n.config.Clock().Add(life).UnixNano(), Uses: uint32(uses)}
	if role != "" {
		stored.Role = wire.RoleToProto(role)
	}
	if err := checkToken(stored); err != nil {
		return "", JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	_, err = n.proposeOwn(ctx, nexusraft.RootZone, &pb.NodeCommand{Kind: &pb.NodeCommand_PutJoinToken{PutJoinToken: stored}})
	if err != nil {
		return "", JoinToken{}, fmt.Errorf("create join token: %w", err)
	}
	return t.String(), joinToken(stored), nil
}

// Tokens returns the join tokens that are still good, by identifier.
func (n *Node) Tokens(ctx context.Context) (tokens []JoinToken, err error) {
	now := n.config.Clock()
	err = n.readOwn(ctx, nexusraft.RootZone, func(r nexusraft.Reader) error {
		stored, err := readTokens(r)
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
func (n *Node) RevokeToken(ctx context.Context, id [8]byte) error {
	_, err := n.proposeOwn(ctx, nexusraft.RootZone, &pb.NodeCommand{
		Kind: &pb.NodeCommand_DeleteJoinToken{DeleteJoinToken: &pb.DeleteJoinToken{Id: id[:]}},
	})
	if err != nil {
		return fmt.Errorf("revoke join token %x: %w", id, err)
	}
	return nil
}

// authority returns the cluster's authority as this replica has it.
func (n *Node) authority() (ca pki.Pair, err error) {
	err = n.readOwnLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		ca, err = readAuthority(r)
		return err
	})
	return ca, err
}

var errNoAuthority = fmt.Errorf("%w: the cluster has no certificate authority of its own, because it was founded by an earlier release: give its nodes certificates with --tls-cert, --tls-key and --tls-ca", nexusraft.ErrRefused)

// errNeedsToken says how a node gets in.
var errNeedsToken = errors.New("the cluster speaks TLS and needs a join token: make one on a member with nexus-raft token create, and give it to the node with --token-file or NEXUS_RAFT_TOKEN")
