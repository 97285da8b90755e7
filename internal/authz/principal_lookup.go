package authz

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// records are those of some moment.
type records struct {
	until      <-chan struct{} // closed once they have changed
	principals map[string]*pb.Principal
	tokens     map[string]*pb.AccessToken // by identifier
}

func newRecords(until <-chan struct{}) *records {
	return &records{
		until: until, principals: make(map[string]*pb.Principal), tokens: make(map[string]*pb.AccessToken),
	}
}

func (r *records) read(reader nexusraft.Reader) error {
	principals, err := system.Principals(reader)
	if err != nil {
		return err
	}
	tokens, err := system.AccessTokens(reader)
	if err != nil {
		return err
	}
	for _, p := range principals {
		r.principals[p.GetName()] = p
	}
	for _, t := range tokens {
		r.tokens[string(t.GetId())] = t
	}
	return nil
}

// principal returns the client that shows credentials, and until when they are good; the zero time
// for as long as the connection.
func (r *records) principal(c credentials, now time.Time) (*pb.Principal, time.Time, error) {
	if c.bearer != "" {
		t, err := r.token(c.bearer, now)
		if err != nil {
			return nil, time.Time{}, err
		}
		return r.named(t.GetName()), time.Unix(0, t.GetExpiresNanos()), nil
	}
	switch {
	case c.anonymous != nil:
		return nil, time.Time{},
			unknown("show an access token (they begin with "+pki.AccessTokenPrefix+"), or a certificate of the cluster: %v",
				c.anonymous)
	case c.caller.Node != 0:
		return nil, time.Time{}, refusal(codes.PermissionDenied, "the certificate of node %v is for what nodes do; show "+
			"one of a client, or an access token", c.caller.Node)
	}
	return r.named(c.caller.Client), time.Time{}, nil
}

// named returns what a name may do: nothing if it is not known.
func (r *records) named(name string) *pb.Principal {
	if p := r.principals[name]; p != nil {
		return p
	}
	return &pb.Principal{Name: name}
}

// permits returns ErrDenied unless a requester may still do what it asks for.
func (r *records) permits(q *nexusraft.Requester, now time.Time) error {
	if len(q.Token) > 0 {
		t := r.tokens[string(q.Token)]
		if t.GetName() != q.Name || t.GetExpiresNanos() <= now.UnixNano() {
			return fmt.Errorf("%w: access token %x of %q was revoked, or has expired", nexusraft.ErrDenied, q.Token, q.Name)
		}
	}
	p := r.named(q.Name)
	for _, need := range q.Needs {
		if a := askedFor(need); !a.allows(p) {
			return fmt.Errorf("%w: the role %s in %s was taken from %q", nexusraft.ErrDenied, a.role, a.where(), q.Name)
		}
	}
	return nil
}
