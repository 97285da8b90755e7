package pki

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// Token lets a node without a certificate join: it proves to the cluster that an admin has asked
// for the node, and to the node that it speaks to that cluster. Any holder can join with it, so it
// is a secret; only String shows it.
type Token struct {
	ID     [8]byte  // names it in lists
	Secret [16]byte // what only the cluster and its bearer know
	CA     [32]byte // Fingerprint of the cluster's authority
}

const tokenPrefix = "nrj1-"

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewToken returns a new token of the cluster whose authority, or a chain that ends with it, is ca.
func NewToken(ca []byte) (t Token, err error) {
	if t.CA, err = Fingerprint(ca); err != nil {
		return Token{}, fmt.Errorf("make a token: the authority: %w", err)
	}
	rand.Read(t.ID[:]) // never fails, by its contract
	rand.Read(t.Secret[:])
	return t, nil
}

// String returns the token as it is given to people: a secret.
func (t Token) String() string {
	return tokenPrefix + tokenEncoding.EncodeToString(append(append(t.ID[:], t.Secret[:]...), t.CA[:]...))
}

// Format keeps a token from being printed by accident.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "token %x", t.ID) }

// ParseToken is the inverse of String; white space around it is ignored. Its error says nothing of
// what it was given.
func ParseToken(s string) (t Token, err error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(text) > 128 {
		return Token{}, errNoToken
	}
	b, err := tokenEncoding.DecodeString(text)
	if err != nil || len(b) != len(t.ID)+len(t.Secret)+len(t.CA) {
		return Token{}, errNoToken
	}
	n := copy(t.ID[:], b)
	n += copy(t.Secret[:], b[n:])
	copy(t.CA[:], b[n:])
	if t.String() != s {
		return Token{}, errNoToken
	}
	return t, nil
}

var errNoToken = errors.New("this is no join token: it begins with " + tokenPrefix + "; make one with: nexus-raft " +
	"token create")

// Prove returns the proof that this side knows the secret, for the side that has the secret's hash.
// It is worth nothing outside its binding, which both sides know and neither can choose.
func (t Token) Prove(binding []byte) []byte {
	hash := t.Hash()
	return proof(hash[:], binding)
}

// Proves reports whether a proof is that of the secret with a hash, for a binding.
func Proves(hash, binding, shown []byte) bool {
	return hmac.Equal(proof(hash, binding), shown)
}

func proof(hash, binding []byte) []byte {
	mac := hmac.New(sha256.New, hash)
	mac.Write(binding)
	return mac.Sum(nil)
}

// Hash is what is stored of the secret. It is as good as the secret, so it is kept like one.
func (t Token) Hash() [32]byte { return sha256.Sum256(t.Secret[:]) }
