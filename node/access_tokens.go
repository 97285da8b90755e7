package node

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/storage"
)

var (
	accessTokenPrefix = []byte{partNode, 'a', 't'}
	accessTokenEnd    = []byte{partNode, 'a', 't' + 1}
)

const (
	maxAccessTokens = 4096 // of all principals

	accessTokenIDBytes     = 8
	accessTokenSecretBytes = 16
	accessTokenBytes       = accessTokenIDBytes + accessTokenSecretBytes
)

func accessTokenKey(id []byte) []byte { return append(slices.Clone(accessTokenPrefix), id...) }

// applyPutAccessToken stores a bearer token, and drops those that have expired.
func applyPutAccessToken(base *storage.Overlay, now int64, t *pb.AccessToken) error {
	if err := checkAccessToken(t); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	if find(all, t.GetName()) == nil {
		return errUnknownPrincipal(t.GetName())
	}
	tokens, err := readAccessTokens(base)
	if err != nil {
		return err
	}
	kept := 0
	for _, old := range tokens {
		if bytes.Equal(old.GetId(), t.GetId()) {
			return fmt.Errorf("%w: access token %x exists", nexusraft.ErrRefused, t.GetId())
		}
		if old.GetExpiresNanos() > now {
			kept++
			continue
		}
		if err := base.Delete(accessTokenKey(old.GetId())); err != nil {
			return err
		}
	}
	if kept >= maxAccessTokens {
		return fmt.Errorf("%w: there are %d access tokens, which is the limit; revoke some with: nexus-raft access revoke-token", nexusraft.ErrRefused, kept)
	}
	b, err := encodeRecord(&pb.AccessToken{Id: t.GetId(), Hash: t.GetHash(), Name: t.GetName(), ExpiresNanos: t.GetExpiresNanos()})
	if err != nil {
		return err
	}
	return base.Set(accessTokenKey(t.GetId()), b)
}

func checkAccessToken(t *pb.AccessToken) error {
	if len(t.GetId()) != accessTokenIDBytes || len(t.GetHash()) != sha256.Size {
		return fmt.Errorf("%w: an access token with an identifier of %d and a hash of %d bytes", nexusraft.ErrRefused, len(t.GetId()), len(t.GetHash()))
	}
	return pki.ValidateClient(t.GetName())
}

func applyDeleteAccessToken(base *storage.Overlay, c *pb.DeleteAccessToken) error {
	if len(c.GetId()) != accessTokenIDBytes {
		return fmt.Errorf("%w: the identifier of an access token has %d bytes, not %d", nexusraft.ErrRefused, accessTokenIDBytes, len(c.GetId()))
	}
	_, ok, err := base.Get(accessTokenKey(c.GetId()))
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: there is no access token %x; nexus-raft access list prints those that there are", nexusraft.ErrRefused, c.GetId())
	}
	return base.Delete(accessTokenKey(c.GetId()))
}

// readAccessTokens returns all bearer tokens, by identifier.
func readAccessTokens(r nexusraft.Reader) (all []*pb.AccessToken, err error) {
	for pair, err := range r.Scan(accessTokenPrefix, accessTokenEnd) {
		if err != nil {
			return nil, err
		}
		t, err := decodeAccessToken(pair.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

func decodeAccessToken(b []byte) (*pb.AccessToken, error) {
	t := &pb.AccessToken{}
	if err := proto.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%w: the record of an access token can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	return t, nil
}

// accessTokenText begins every bearer token: nra1-, and then identifier and secret in base32.
const accessTokenText = "nra1-"

var accessTokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newAccessToken returns a token's text, which is a secret, its identifier and what is stored of the secret.
func newAccessToken() (text string, id, hash []byte) {
	b := make([]byte, accessTokenBytes)
	_, _ = rand.Read(b) // it never fails
	sum := sha256.Sum256(b[accessTokenIDBytes:])
	return accessTokenText + accessTokenEncoding.EncodeToString(b), b[:accessTokenIDBytes], sum[:]
}

// parseAccessToken takes the one spelling that newAccessToken writes. Its error doesn't repeat the text.
func parseAccessToken(text string) (id, hash []byte, err error) {
	rest, ok := strings.CutPrefix(text, accessTokenText)
	if ok && len(rest) == accessTokenEncoding.EncodedLen(accessTokenBytes) {
		b, err := accessTokenEncoding.DecodeString(rest)
		if err == nil && accessTokenEncoding.EncodeToString(b) == rest {
			sum := sha256.Sum256(b[accessTokenIDBytes:])
			return b[:accessTokenIDBytes], sum[:], nil
		}
	}
	return nil, nil, fmt.Errorf("%w: this is no access token; they begin with %s", nexusraft.ErrRefused, accessTokenText)
}
