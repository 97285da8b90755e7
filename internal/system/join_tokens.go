package system

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

var (
	joinTokenPrefix = []byte{Prefix, 's', 't'}
	joinTokenEnd    = []byte{Prefix, 's', 't' + 1}
)

// maxJoinTokens is how many there are. Changing it changes history.
const maxJoinTokens = 1024

// MaxJoinTokenUses is for how many nodes a join token is at most. Changing it changes history.
const MaxJoinTokenUses = 64

func joinTokenKey(id []byte) []byte { return append(slices.Clone(joinTokenPrefix), id...) }

// applyPutJoinToken stores a token, and deletes those that have expired.
func applyPutJoinToken(base nexusraft.ReadWriter, now int64, t *pb.JoinToken) error {
	if err := CheckJoinToken(t); err != nil {
		return err
	}
	tokens, err := JoinTokens(base)
	if err != nil {
		return err
	}
	kept, err := sweep(base, now, tokens, t.GetId(), joinTokenKey, "join token")
	if err != nil {
		return err
	}
	if kept >= maxJoinTokens {
		return fmt.Errorf("%w: there are %d join tokens; revoke some with: nexus-raft token revoke", nexusraft.ErrRefused,
			kept)
	}
	return setJoinToken(base, t)
}

// CheckJoinToken returns why a command would refuse to store a token.
func CheckJoinToken(t *pb.JoinToken) error {
	switch role := t.GetRole(); {
	case len(t.GetId()) != len(pki.Token{}.ID) || len(t.GetHash()) != len(pki.Token{}.Hash()):
		return fmt.Errorf("%w: a join token with an identifier of %d and a hash of %d bytes", nexusraft.ErrRefused,
			len(t.GetId()), len(t.GetHash()))
	case t.GetUses() == 0 || t.GetUses() > MaxJoinTokenUses:
		return fmt.Errorf("%w: a join token for %d nodes; it can be for 1 to %d", nexusraft.ErrRefused, t.GetUses(),
			MaxJoinTokenUses)
	case role != pb.Role_ROLE_UNSPECIFIED && role != pb.Role_ROLE_MEMBER && role != pb.Role_ROLE_WITNESS:
		return fmt.Errorf("%w: a join token for the role %v; nodes join as member or as witness", nexusraft.ErrRefused, role)
	}
	return nil
}

func applyDeleteJoinToken(base nexusraft.ReadWriter, c *pb.DeleteJoinToken) error {
	if _, err := JoinToken(base, c.GetId()); err != nil {
		return err
	}
	return base.Delete(joinTokenKey(c.GetId()))
}

// applyUseJoinToken notes that a node joins with a token.
func applyUseJoinToken(base nexusraft.ReadWriter, now int64, c *pb.UseJoinToken) error {
	t, err := JoinToken(base, c.GetId())
	if err != nil {
		return err
	}
	used, err := JoinTokenAllows(t, now, c)
	if err != nil || used {
		return err
	}
	t.Nodes = append(t.Nodes, c.GetNode())
	if c.GetKeyHash() != nil {
		t.Keys = append(t.Keys, &pb.TokenKey{Node: c.GetNode(), Hash: c.GetKeyHash()})
	}
	return setJoinToken(base, t)
}

// JoinTokenAllows returns nil if a token lets a node join at the time now, and whether the node has
// used it before.
// What the refusals say does not help to guess a secret.
func JoinTokenAllows(t *pb.JoinToken, now int64, c *pb.UseJoinToken) (used bool, err error) {
	used = slices.Contains(t.GetNodes(), c.GetNode())
	switch {
	case subtle.ConstantTimeCompare(t.GetHash(), c.GetHash()) != 1:
		return false, UnknownJoinToken(c.GetId())
	case t.GetExpiresNanos() <= now:
		return false, fmt.Errorf("%w: join token %x has expired; make a new one with: nexus-raft token create",
			nexusraft.ErrRefused, c.GetId())
	case t.GetRole() != pb.Role_ROLE_UNSPECIFIED && t.GetRole() != c.GetRole():
		return false, fmt.Errorf("%w: join token %x is for a %s, not for a %s", nexusraft.ErrRefused, c.GetId(),
			wire.RoleFromProto(t.GetRole()), wire.RoleFromProto(c.GetRole()))
	case used && !sameKey(t, c):
		return false, fmt.Errorf("%w: node %v has used join token %x, with another key; make a new one with: nexus-raft "+
			"token create", nexusraft.ErrRefused, nexusraft.NodeID(c.GetNode()), c.GetId())
	case !used && len(t.GetNodes()) >= int(t.GetUses()):
		return false, fmt.Errorf("%w: join token %x is used up, by %d nodes; make a new one with: nexus-raft token create",
			nexusraft.ErrRefused, c.GetId(), len(t.GetNodes()))
	}
	return used, nil
}

// sameKey reports whether a node that has used a token asks with the key that it had then, if that
// is known.
func sameKey(t *pb.JoinToken, c *pb.UseJoinToken) bool {
	i := slices.IndexFunc(t.GetKeys(), func(k *pb.TokenKey) bool { return k.GetNode() == c.GetNode() })
	return i < 0 || bytes.Equal(t.GetKeys()[i].GetHash(), c.GetKeyHash())
}

// UnknownJoinToken is the refusal of a join token that does not exist, or has another secret.
func UnknownJoinToken(id []byte) error {
	return fmt.Errorf("%w: join token %x is not known here: it is wrong, was revoked, or expired long ago; make a new "+
		"one with: nexus-raft token create", nexusraft.ErrRefused, id)
}

func setJoinToken(base nexusraft.ReadWriter, t *pb.JoinToken) error {
	return set(base, joinTokenKey(t.GetId()), t, joinTokenRecord)
}

// JoinToken returns the record of a join token; ErrRefused if there is none.
func JoinToken(r nexusraft.Reader, id []byte) (*pb.JoinToken, error) {
	if len(id) != len(pki.Token{}.ID) {
		return nil, fmt.Errorf("%w: the identifier of a join token has %d bytes, not %d", nexusraft.ErrRefused,
			len(pki.Token{}.ID), len(id))
	}
	b, ok, err := r.Get(joinTokenKey(id))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, UnknownJoinToken(id)
	}
	return decode[pb.JoinToken](b, joinTokenRecord)
}

// JoinTokens returns all tokens, by identifier.
func JoinTokens(r nexusraft.Reader) ([]*pb.JoinToken, error) {
	return decodeAll[pb.JoinToken](r, joinTokenPrefix, joinTokenEnd, joinTokenRecord)
}

const joinTokenRecord = "a join token"
