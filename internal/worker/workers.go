package worker

import (
	"cmp"
	"context"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Workers is the way to the zones of a member, each of which one of its workers owns: which one follows from the
// zone's ID, so that a zone never moves. Its methods may be called from many goroutines; Run is called once.
//
// What waits ends with an ErrClosed when Run returns. A context bounds the waiting, not what was handed
// over. A zone that is not here is ErrZoneNotFound, or ErrOverloaded while the node has not opened its zones;
// one that has stopped on this node is ErrClosed.
type Workers struct{ *together }

// New returns workers without zones. Nothing runs yet.
func New(o Options) *Workers {
	t := newTogether(o)
	for place := range cap(t.workers) {
		t.workers = append(t.workers, newWorker(o, t, place))
	}
	return &Workers{t}
}

// Run works until stop is closed, which is no error, or one of the workers can't go on, which is: its disk has
// failed, raft has panicked, or this node was removed from the cluster. Then all of them end, and they have
// answered everything that waited. The error is that of the first one.
func (x *Workers) Run(stop <-chan struct{}) (err error) {
	ended, end := make(chan error, len(x.workers)), make(chan struct{})
	for _, w := range x.workers {
		go func() { ended <- w.run(end) }()
	}
	running := len(x.workers)
	select {
	case <-stop:
	case err = <-ended:
		running--
	}
	close(end)
	for range running {
		err = cmp.Or(err, <-ended)
	}
	return err
}

// OpenZones opens the zones of which the data directory has replicas, each worker its own, and returns when they
// are open. It is called once. A zone whose log, state or state machine is not good for that stops on
// this node, and is no error.
func (x *Workers) OpenZones() error {
	var dir openedRoot
	root := x.workers[0]
	err := <-root.does(func() (err error) {
		dir, err = root.openRoot()
		return err
	})
	if err != nil || dir.root == nil {
		return err
	}
	var opening []<-chan error
	for _, w := range x.workers {
		opening = append(opening, w.does(func() error { return w.openZones(dir.zones) }))
	}
	for _, opened := range opening {
		err = cmp.Or(err, <-opened)
	}
	if err != nil {
		return err
	}
	return <-root.does(func() error {
		root.beginRoot(dir)
		return nil
	})
}

// does has a worker's goroutine run f, and brings its result.
func (w *worker) does(f func() error) <-chan error {
	done := make(chan error, 1)
	err := w.inbox.Call(func(err error) {
		if err == nil {
			err = f()
		}
		done <- err
	})
	if err != nil {
		done <- err
	}
	return done
}

// Ended reports whether the worker of a zone has ended.
func (x *Workers) Ended(id nexusraft.ZoneID) bool { return x.of(id).inbox.Closed() }

// Inbox returns the way for what peers send.
func (x *Workers) Inbox() raftwire.Intake { return intake{x.together} }

// intake divides what comes in among the workers.
type intake struct{ t *together }

// Put implements raftwire.Intake.
func (b intake) Put(ms []driver.Inbound) (taken int) {
	for len(ms) > 0 {
		w, n := b.t.of(ms[0].Zone), 1
		for n < len(ms) && b.t.of(ms[n].Zone) == w {
			n++
		}
		taken += w.inbox.Put(ms[:n])
		ms = ms[n:]
	}
	return taken
}

// Hear implements raftwire.Intake.
func (b intake) Hear(from nexusraft.NodeID, s zone.Signal) {
	for _, w := range b.t.workers {
		w.inbox.Hear(from, s)
	}
}

// Closed implements raftwire.Intake: one worker does not end without the others.
func (b intake) Closed() bool {
	return slices.ContainsFunc(b.t.workers, func(w *worker) bool { return w.inbox.Closed() })
}

// Statuses is driver.Statuses of the zones. With an error come those of the workers that have answered.
func (x *Workers) Statuses(ctx context.Context, only nexusraft.ZoneID) (all []nexusraft.ZoneStatus, err error) {
	asked := x.workers
	if only != 0 {
		asked = slices.Compact([]*worker{x.of(nexusraft.RootZone), x.of(only)})
	}
	some, errs := make([][]nexusraft.ZoneStatus, len(asked)), make([]error, len(asked))
	var answers sync.WaitGroup
	for i, w := range asked {
		answers.Go(func() { some[i], errs[i] = driver.Statuses(ctx, w.inbox, only, w.ids, w.status) })
	}
	answers.Wait()
	for i := range asked {
		all, err = append(all, some[i]...), cmp.Or(err, errs[i])
	}
	slices.SortFunc(all, func(a, b nexusraft.ZoneStatus) int { return cmp.Compare(a.Zone, b.Zone) })
	return all, err
}

// Awake returns how many of the zones do not sleep, and the signal of this node, by which others know whether
// zones may sleep on.
func (x *Workers) Awake(ctx context.Context) (zones int, own zone.Signal, err error) {
	for _, w := range x.workers {
		some, err := driver.Ask(ctx, w.inbox, func(error) (n int) {
			for range w.neighbors.Awake {
				n++
			}
			return n
		})
		if err != nil {
			return 0, own, err
		}
		zones += some
	}
	return zones, x.signal.Now(), nil
}

// Unreachable tells every zone that does not sleep that messages to a node were lost: once for all that
// are lost before its worker comes to it, since a full queue loses one after the other.
func (x *Workers) Unreachable(node nexusraft.NodeID) {
	for _, w := range x.workers {
		w.unreachable(node)
	}
}

// Leaving tells the zones that a node shuts down in order, so nothing is held back for it.
func (x *Workers) Leaving(node nexusraft.NodeID) {
	for _, w := range x.workers {
		w.leaving(node)
	}
}
