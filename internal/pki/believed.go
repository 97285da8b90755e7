package pki

import (
	"bytes"
	"slices"
)

// What a node believes is a list of authorities, PEM, the one that signs for nodes first. A node of
// an earlier release has none: it believes the authority at the end of its own chain.

// Believed returns a node's list, or what stands for one.
func Believed(chain, list []byte) []byte {
	if len(list) > 0 {
		return list
	}
	return Last(chain)
}

// SignedByFirst reports whether the authority at the end of a chain is the first of a list; an
// empty list is no reason to doubt it.
func SignedByFirst(chain, list []byte) bool {
	if len(list) == 0 {
		return true
	}
	sums, err := Fingerprints(list)
	if err != nil {
		return false
	}
	by, err := Fingerprint(chain)
	return err == nil && by == sums[0]
}

// MaxFormer bounds what Former returns.
const MaxFormer = 64

// MaxAuthoritiesBytes is the longest list of authorities that nodes send each other, PEM.
const MaxAuthoritiesBytes = 16 << 10

// Former returns the SHA-256 of authorities that a node has believed and believes no more, the
// latest MaxFormer of them: those that it knows, which it leaves alone, and those of a list that
// are missing in the next one.
func Former(known [][]byte, before, after []byte) [][]byte {
	was, err1 := Fingerprints(before)
	is, err2 := Fingerprints(after)
	if err1 != nil || err2 != nil {
		return known
	}
	all := slices.Clone(known)
	for _, sum := range was {
		if !slices.Contains(is, sum) {
			all = append(all, bytes.Clone(sum[:]))
		}
	}
	return all[max(0, len(all)-MaxFormer):]
}

// NeverHeardOf reports whether a join token is of an authority that is neither in a node's list nor
// among the former ones: while the node was off, the cluster's was replaced. One that ended is not
// believed again, whatever a token says. No token, or one that can't be read, is of none.
func NeverHeardOf(token string, list []byte, former [][]byte) bool {
	t, err := ParseToken(token)
	if token == "" || err != nil {
		return false
	}
	is, err := Fingerprints(list)
	return err == nil && !slices.Contains(is, t.CA) &&
		!slices.ContainsFunc(former, func(sum []byte) bool { return bytes.Equal(sum, t.CA[:]) })
}
