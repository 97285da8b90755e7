package authz

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
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

// proves reports whether a text is the access token of a name, and good. It does the same work whatever is wrong.
func (r *records) proves(name, text string, now time.Time) bool {
	id, hash, err := pki.ParseAccessToken(text)
	if err != nil {
		hash = make([]byte, sha256.Size)
	}
	t := r.tokens[string(id)]
	stored := t.GetHash()
	if len(stored) != sha256.Size {
		stored = make([]byte, sha256.Size)
	}
	same := subtle.ConstantTimeCompare(stored, hash) & subtle.ConstantTimeCompare([]byte(t.GetName()), []byte(name))
	return same == 1 && err == nil && t != nil && t.GetExpiresNanos() > now.UnixNano()
}

// Authenticate returns nil if a text is the access token of a name, and good by the records as they are here. Otherwise
// it is ErrDenied, whatever is wrong, and the log says from where, now and then; the text is told to nobody. Where the
// records can't be read it is the reason.
func (g *Guard) Authenticate(ctx context.Context, method, name, text string) error {
	records, err := g.current()
	if err != nil {
		return fmt.Errorf("who may do what can't be read here now: %w", err)
	}
	if !records.proves(name, text, g.config.Clock()) {
		err := fmt.Errorf("%w: wrong name or access token", nexusraft.ErrDenied)
		_ = g.tell(ctx, method, err)
		return err
	}
	return nil
}
