package forward

import (
	"context"
	"errors"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Calls are those that this node has passed on to a leader and that have not come
// back. A node that stops waits for them, or their outcome would be unknown to the callers. The methods
// may be called from many goroutines; the zero value is ready for use.
//
// A leader that is lost does not answer. So a call ends, with its outcome unknown, once the node
// that it was passed on to has not led the zone for an election timeout, as far as is known here.
type Calls struct {
	mu      sync.Mutex                          // guards what follows
	running map[nexusraft.ZoneID]map[*call]bool // of each zone that has any
	idle    chan struct{}                       // nil until Drain; closed by the last call
}

// ErrLeaderLost is why a call that was passed on got no answer.
var ErrLeaderLost = errors.New("it leads the zone no more")

// call is one call on its way.
type call struct {
	zone   nexusraft.ZoneID
	leader nexusraft.NodeID // that it was passed on to
	over   int              // ticks since that led the zone
	cancel context.CancelCauseFunc
}

// Start returns the context of a call that is passed on to a zone's leader. ok is false once
// Drain has begun: the call may not be passed on. end must follow.
func (f *Calls) Start(
	ctx context.Context, z nexusraft.ZoneID, leader nexusraft.NodeID,
) (_ context.Context, end func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle != nil {
		return ctx, nil, false
	}
	x := &call{zone: z, leader: leader}
	ctx, x.cancel = context.WithCancelCause(ctx)
	if f.running == nil {
		f.running = make(map[nexusraft.ZoneID]map[*call]bool)
	}
	if f.running[z] == nil {
		f.running[z] = make(map[*call]bool)
	}
	f.running[z][x] = true
	return ctx, func() { f.end(x) }, true
}

func (f *Calls) end(x *call) {
	x.cancel(nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.running[x.zone]
	if delete(of, x); len(of) > 0 {
		return
	}
	if delete(f.running, x.zone); len(f.running) == 0 && f.idle != nil {
		close(f.idle)
	}
}

// Tick is a tick of a zone that a node leads, 0 if none is known. It ends the calls whose
// leader has not led for so many ticks.
func (f *Calls) Tick(z nexusraft.ZoneID, leader nexusraft.NodeID, ticks int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for x := range f.running[z] {
		if x.leader == leader {
			x.over = 0
		} else if x.over++; x.over >= ticks {
			x.cancel(ErrLeaderLost)
		}
	}
}

// Drain lets no call begin any more and waits for the running ones, up to limit. It is
// called once.
func (f *Calls) Drain(limit time.Duration) {
	f.mu.Lock()
	idle := make(chan struct{})
	f.idle = idle
	if len(f.running) == 0 {
		close(idle)
	}
	f.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(limit):
	}
}
