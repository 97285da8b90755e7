package change

import (
	"context"
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// late is a Zone whose caller's context ends first: what it is given runs when the call has returned.
type late struct{ run chan func() }

var errGone = errors.New("the caller has gone")

func (z late) Use(_ context.Context, f func(Handle) error) error {
	z.run <- func() { _ = f(leaderless{}) }
	return errGone
}

func (z late) UsePermitted(ctx context.Context, f func(Handle) error) error { return z.Use(ctx, f) }

// leaderless is the Handle of a zone's replica that does not lead.
type leaderless struct{ Handle }

func (leaderless) Replica() *zone.Replica { return new(zone.Replica) }

func (leaderless) Hinted(err error) error { return err }

// TestCallersThatHaveGone: what a caller that has gone gets shares nothing with what still runs for it.
// The race detector sees it if it does.
func TestCallersThatHaveGone(t *testing.T) {
	z := late{make(chan func(), 1)}
	x := Changer{Zone: z, Current: func(m nexusraft.Member) nexusraft.Member { return m }}
	for name, call := range map[string]func() (any, error){
		"MayJoin": func() (any, error) { return x.MayJoin(t.Context(), nexusraft.Member{}) },
		"Admit":   func() (any, error) { return x.Admit(t.Context(), nexusraft.Member{}) },
	} {
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			defer func() { _ = recover() }() // the replica is an empty one
			(<-z.run)()
		}()
		if _, err := call(); !errors.Is(err, errGone) {
			t.Errorf("%s: got %v, want %v", name, err, errGone)
		}
		<-ran
	}
}
