package change

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// refusing is a Zone that can't be used, for each of some reasons once, and then runs what it is given.
type refusing struct {
	why  []error
	used int
}

func (z *refusing) Use(_ context.Context, f func(Handle) error) error {
	z.used++
	if z.used <= len(z.why) {
		return z.why[z.used-1]
	}
	return f(leaderless{})
}

func (z *refusing) UsePermitted(ctx context.Context, f func(Handle) error) error {
	return z.Use(ctx, f)
}

// TestHandOverToAZoneThatRefuses: an inbox that is full is asked again, a worker that has ended is not.
func TestHandOverToAZoneThatRefuses(t *testing.T) {
	full := nexusraft.ErrOverloaded
	for name, tc := range map[string]struct {
		why  []error
		want int
	}{
		"a full inbox":    {[]error{full, full}, 3},
		"an ended worker": {[]error{nexusraft.ErrClosed}, 1},
		"no leader here":  {nil, 1},
	} {
		z := &refusing{why: tc.why}
		x := Changer{Zone: z, TickInterval: time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
		x.HandOver(t.Context())
		if z.used != tc.want {
			t.Errorf("%s: asked %d times, want %d", name, z.used, tc.want)
		}
	}
}
