package authz

import (
	"crypto/subtle"
	"time"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// token returns a bearer token that is good. What its refusals say does not help to guess one.
func (r *records) token(text string, now time.Time) (*pb.AccessToken, error) {
	id, hash, err := pki.ParseAccessToken(text)
	if err != nil {
		return nil, unknown("%v", err)
	}
	t := r.tokens[string(id)]
	switch {
	case subtle.ConstantTimeCompare(t.GetHash(), hash) != 1:
		return nil, unknown("access token %x is not known here: it is wrong, was revoked, or expired long ago", id)
	case t.GetExpiresNanos() <= now.UnixNano():
		return nil, unknown("access token %x has expired", id)
	}
	return t, nil
}
