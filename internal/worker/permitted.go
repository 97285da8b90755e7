package worker

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// The member that a client calls checks the client by its own records of the root zone, which may
// be old. So what the client asks for carries the client's name on (I14), and is checked again:
//
//   - a command, a membership change, a transfer: by the zone's leader, in the moment in which it
//     hands them to Raft, once it has applied an entry of its own term. By then its records include
//     each change that was acknowledged, by itself or by a leader before it. A leader that was deposed
//     without noticing appends entries that never commit.
//   - a read: by this member, after a quorum has confirmed it, against records that are no older than
//     the state which is read.
//
// Entries of the log carry no requester that counts: replicas of earlier releases could not check
// it, and would come to another state.

// errTermBegins: the leader does not know yet what was committed before it led.
var errTermBegins = fmt.Errorf("%w: the leader's term has just begun", nexusraft.ErrOverloaded)

// permits returns nil if a leader may hand to Raft what a requester asks for, ErrDenied if not, or
// errTermBegins. A replica that does not lead returns nil: it refuses everything anyway.
func (g *group) permits(q *nexusraft.Requester) error {
	if _, self := g.replica.Leader(); !self || q == nil {
		return nil
	}
	if !g.replica.TermApplied() {
		return errTermBegins
	}
	return g.w.o.Access.Permits(q)
}

// permitsSession returns nil if the client that asks may use the session of its command: it has registered it,
// as far as this leader has applied, which is at least up to where the client heard of the session. A session that is
// not known by then is refused here, too, or a client could use one whose ID it has guessed before it was made.
func (g *group) permitsSession(p *propose.Call) error {
	if _, self := g.replica.Leader(); !self || p.Request.IsZero() {
		return nil
	}
	if !g.replica.TermApplied() {
		return errTermBegins
	}
	owner, known, err := system.SessionOwner(g.overlay, p.Request.Session)
	switch {
	case err != nil:
		return err
	case !known:
		return fmt.Errorf("%w: session %d of zone %v", nexusraft.ErrUnknownSession, p.Request.Session, g.id)
	case owner != nameOf(p.Requester):
		return fmt.Errorf("%w: session %d of zone %v belongs to another client", nexusraft.ErrDenied, p.Request.Session, g.id)
	}
	return nil
}

// nameOf is the name under which a requester owns sessions; clients that nobody tells apart have the same.
func nameOf(q *nexusraft.Requester) string {
	if q == nil {
		return ""
	}
	return q.Name
}

// onceTermBegan runs f again when its errTermBegins has passed. It may be called from any goroutine.
func (w *worker) onceTermBegan(ctx context.Context, z nexusraft.ZoneID, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, errTermBegins) {
			return err
		}
		if err := w.confirm(ctx, z); err != nil {
			return err
		}
	}
}

// askPermitted is ask for what only a leader does, and only if the client of ctx may have it done.
func askPermitted[T any](
	ctx context.Context, w *worker, z nexusraft.ZoneID, f func(*group) (T, error),
) (value T, err error) {
	err = w.onceTermBegan(ctx, z, func() (err error) {
		value, err = ask(ctx, w, z, func(g *group) (T, error) {
			if err := g.permits(authz.RequesterOf(ctx)); err != nil {
				var none T
				return none, err
			}
			return f(g)
		})
		return err
	})
	return value, err
}
