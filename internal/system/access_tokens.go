package system

import (
	"crypto/sha256"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

var (
	accessTokenPrefix = []byte{Prefix, 'a', 't'}
	accessTokenEnd    = []byte{Prefix, 'a', 't' + 1}
)

// maxAccessTokens is how many there are of all principals. Changing it changes history.
const maxAccessTokens = 4096

func accessTokenKey(id []byte) []byte { return append(slices.Clone(accessTokenPrefix), id...) }

// applyPutAccessToken stores a bearer token, and deletes those that have expired.
func applyPutAccessToken(base nexusraft.ReadWriter, now int64, t *pb.AccessToken) error {
	if err := checkAccessToken(t); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	if FindPrincipal(all, t.GetName()) == nil {
		return UnknownPrincipal(t.GetName())
	}
	tokens, err := AccessTokens(base)
	if err != nil {
		return err
	}
	kept, err := sweep(base, now, tokens, t.GetId(), accessTokenKey, "access token")
	if err != nil {
		return err
	}
	if kept >= maxAccessTokens {
		return fmt.Errorf("%w: there are %d access tokens, which is the limit; revoke some with: nexus-raft access "+
			"revoke-token", nexusraft.ErrRefused, kept)
	}
	return set(base, accessTokenKey(t.GetId()), &pb.AccessToken{
		Id: t.GetId(), Hash: t.GetHash(), Name: t.GetName(), ExpiresNanos: t.GetExpiresNanos(),
	}, accessTokenRecord)
}

func checkAccessToken(t *pb.AccessToken) error {
	if len(t.GetId()) != pki.AccessTokenIDBytes || len(t.GetHash()) != sha256.Size {
		return fmt.Errorf("%w: an access token with an identifier of %d and a hash of %d bytes", nexusraft.ErrRefused,
			len(t.GetId()), len(t.GetHash()))
	}
	return pki.ValidateClient(t.GetName())
}

func applyDeleteAccessToken(base nexusraft.ReadWriter, c *pb.DeleteAccessToken) error {
	if len(c.GetId()) != pki.AccessTokenIDBytes {
		return fmt.Errorf("%w: the identifier of an access token has %d bytes, not %d", nexusraft.ErrRefused,
			pki.AccessTokenIDBytes, len(c.GetId()))
	}
	_, ok, err := base.Get(accessTokenKey(c.GetId()))
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: there is no access token %x; nexus-raft access list prints those that there are",
			nexusraft.ErrRefused, c.GetId())
	}
	return base.Delete(accessTokenKey(c.GetId()))
}

// AccessTokens returns all bearer tokens, by identifier.
func AccessTokens(r nexusraft.Reader) ([]*pb.AccessToken, error) {
	return decodeAll[pb.AccessToken](r, accessTokenPrefix, accessTokenEnd, accessTokenRecord)
}

const accessTokenRecord = "the record of an access token"
