package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// AccessTokenPrefix begins every bearer token of a client: nra1-, and then identifier and secret in
// base32.
const AccessTokenPrefix = "nra1-"

// AccessTokenIDBytes is the length of the identifier of a client's bearer token.
const AccessTokenIDBytes = 8

const accessTokenBytes = AccessTokenIDBytes + 16

var accessTokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewAccessToken returns a token's text, which is a secret, its identifier and what is stored of
// the secret.
func NewAccessToken() (text string, id, hash []byte) {
	b := make([]byte, accessTokenBytes)
	_, _ = rand.Read(b) // it never fails
	sum := sha256.Sum256(b[AccessTokenIDBytes:])
	return AccessTokenPrefix + accessTokenEncoding.EncodeToString(b), b[:AccessTokenIDBytes], sum[:]
}

// ParseAccessToken takes the one spelling that NewAccessToken writes; anything else is ErrRefused.
// Its error doesn't repeat the text.
func ParseAccessToken(text string) (id, hash []byte, err error) {
	rest, ok := strings.CutPrefix(text, AccessTokenPrefix)
	if ok && len(rest) == accessTokenEncoding.EncodedLen(accessTokenBytes) {
		b, err := accessTokenEncoding.DecodeString(rest)
		if err == nil && accessTokenEncoding.EncodeToString(b) == rest {
			sum := sha256.Sum256(b[AccessTokenIDBytes:])
			return b[:AccessTokenIDBytes], sum[:], nil
		}
	}
	return nil, nil, fmt.Errorf("%w: this is no access token; they begin with %s", nexusraft.ErrRefused,
		AccessTokenPrefix)
}
