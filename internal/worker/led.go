package worker

import (
	"container/list"
	"context"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
)

// Led is a zone that this node leads, as it was when the zone last applied something.
type Led struct {
	Zone           nexusraft.ZoneID
	Term           nexusraft.Term
	MachineVersion uint32
}

// ledNews numbers what the zones that this node leads have applied, for all workers.
type ledNews struct {
	count   atomic.Uint64
	changed events.Notifier
}

// recent are a worker's zones, the one that has last applied something while this node led it first, so that
// a look at what is new costs what is new. Only the worker touches it.
type recent struct{ groups list.List }

// recentPlace is a zone's place there.
type recentPlace struct {
	element *list.Element // nil: it has none
	number  uint64        // of ledNews
	applied nexusraft.Index
}

// noteLed notes at the end of a round that the zone has applied something and is led by this node.
func (g *group) noteLed() {
	p := &g.recent
	if !g.replica.TermApplied() || g.log.Applied() == p.applied {
		return
	}
	p.applied = g.log.Applied()
	p.number = g.w.shared.led.count.Add(1)
	if p.element == nil {
		p.element = g.w.recent.groups.PushFront(g)
	} else {
		g.w.recent.groups.MoveToFront(p.element)
	}
	g.w.shared.led.changed.Notify()
}

// forgetLed takes out a zone that stops.
func (g *group) forgetLed() {
	if g.recent.element != nil {
		g.w.recent.groups.Remove(g.recent.element)
		g.recent.element = nil
	}
}

// led returns the zones that this node leads and that have applied something after a number of ledNews.
func (w *worker) led(since uint64) (all []Led) {
	for e := w.recent.groups.Front(); e != nil; e = e.Next() {
		g := e.Value.(*group)
		if g.recent.number <= since {
			return all
		}
		if g.replica.TermApplied() {
			all = append(all, Led{g.id, g.replica.Term(), g.machine.Version})
		}
	}
	return all
}

// Led returns the zones that this node leads and that have applied something since an earlier call has returned
// since; 0: all that it leads. It costs what it returns, and wakes no zone. There is none once the
// workers have ended.
func (x *Workers) Led(ctx context.Context, since uint64) (all []Led, next uint64, err error) {
	next = x.together.led.count.Load() // before the workers are asked: what comes meanwhile may come again
	for _, w := range x.workers {
		some, err := driver.Ask(ctx, w.inbox, func(err error) []Led {
			if err != nil { // raft may have panicked
				return nil
			}
			return w.led(since)
		})
		if err != nil {
			return nil, since, err
		}
		all = append(all, some...)
	}
	return all, next, nil
}

// LedChanged returns a channel that is closed when a zone that this node leads applies something.
func (x *Workers) LedChanged() <-chan struct{} { return x.together.led.changed.Wait() }
