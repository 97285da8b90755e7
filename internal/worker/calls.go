package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// This file has what other goroutines ask of a zone. They wait for their answers.

// ask has the worker run f with the zone, and waits for its answer. It may be called from any goroutine.
func ask[T any](ctx context.Context, w *worker, id nexusraft.ZoneID, f func(*group) (T, error)) (T, error) {
	type reply struct {
		value T
		err   error
	}
	r, err := driver.Ask(ctx, w.inbox, func(err error) (r reply) {
		if g := w.group(id); err != nil {
			r.err = err
		} else if g == nil {
			r.err = w.o.Replicas.Absent(id)
		} else {
			r.value, r.err = f(g)
		}
		return r
	})
	switch {
	case err == nil:
		return r.value, r.err
	case errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, err)
	}
	return r.value, err
}

// Propose proposes a command if this node leads its zone, which keeps the command; errors are those of
// node.Zone.ProposeOnce. While it is not known yet what the requester of the command may do, it waits.
func (x *Workers) Propose(ctx context.Context, p transport.Proposal) (r nexusraft.Result, err error) {
	err = x.of(p.Zone).onceTermBegan(ctx, p.Zone, func() (err error) {
		r, err = x.ProposeInTerm(ctx, p, 0)
		return err
	})
	return r, err
}

// ProposeInTerm is Propose in one term only, if that is not 0; in another one it returns ErrNotLeader. It does
// not wait to know the requester.
func (x *Workers) ProposeInTerm(
	ctx context.Context, p transport.Proposal, term nexusraft.Term,
) (nexusraft.Result, error) {
	call := propose.New(p.Zone)
	call.Term = term
	call.Request, call.Own, call.Command, call.Requester = p.Request, p.Own, p.Command, p.Requester
	if err := x.of(p.Zone).put(call); err != nil {
		return nexusraft.Result{}, err
	}
	return call.Wait(ctx)
}

// readElections is for how many election timeouts a read waits for a leader.
const readElections = 32

// read is one call that waits until its zone may serve it.
type read struct {
	ready chan error  // has room for the one answer
	gone  atomic.Bool // the caller has given up
}

func newRead() *read { return &read{ready: make(chan error, 1)} }

// Serve implements driver.Read.
func (r *read) Serve(err error) { r.ready <- err }

// Gone implements driver.Read.
func (r *read) Gone() bool { return r.gone.Load() }

// Confirm returns once this replica's state includes every write that was acknowledged
// before, or ErrNoQuorum; see node.Zone.Read.
func (x *Workers) Confirm(ctx context.Context, id nexusraft.ZoneID) error {
	return x.of(id).confirm(ctx, id)
}

func (w *worker) confirm(ctx context.Context, id nexusraft.ZoneID) error {
	asked := time.Now()
	return w.served(ctx, id, func(g *group, r *read) { g.group.Read(r, asked) })
}

// ConfirmIndex returns once this replica's state includes the entry at an index, or ErrNoQuorum; see
// node.Zone.ReadAt.
func (x *Workers) ConfirmIndex(ctx context.Context, id nexusraft.ZoneID, index nexusraft.Index) error {
	return x.of(id).served(ctx, id, func(g *group, r *read) { g.group.ReadAt(r, index) })
}

// served returns once a replica serves the read that give gives to it, unless it follows with a full disk,
// or ErrNoQuorum if the context ends first. It may be called from any goroutine.
func (w *worker) served(ctx context.Context, id nexusraft.ZoneID, give func(*group, *read)) error {
	r := newRead()
	defer r.gone.Store(true)
	_, err := ask(ctx, w, id, func(g *group) (struct{}, error) {
		if err := g.behind(); err != nil {
			return struct{}{}, err
		}
		give(g, r)
		return struct{}{}, nil
	})
	if err != nil {
		return err
	}
	select {
	case err := <-r.ready:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
	}
}

// LeadsIn returns the term in which this node leads a zone, and has applied what was acknowledged before; 0 if it does
// not.
func (x *Workers) LeadsIn(ctx context.Context, id nexusraft.ZoneID) (nexusraft.Term, error) {
	return ask(ctx, x.of(id), id, func(g *group) (nexusraft.Term, error) {
		if !g.replica.TermApplied() {
			return 0, nil
		}
		return g.replica.Term(), nil
	})
}

// Membership returns a zone's records, with the addresses that the nodes have now.
func (x *Workers) Membership(ctx context.Context, id nexusraft.ZoneID) (nexusraft.Membership, error) {
	return ask(ctx, x.of(id), id, func(g *group) (nexusraft.Membership, error) { return g.current(), nil })
}

// Status returns this replica's view of a zone.
func (x *Workers) Status(ctx context.Context, id nexusraft.ZoneID) (nexusraft.ZoneStatus, error) {
	return ask(ctx, x.of(id), id, func(g *group) (nexusraft.ZoneStatus, error) { return g.status(), nil })
}

// Checksum is node.Zone.Checksum.
func (x *Workers) Checksum(ctx context.Context, id nexusraft.ZoneID) (nexusraft.Checksum, error) {
	type moment struct {
		applied nexusraft.Index
		snap    *storage.Snapshot
		state   *storage.Tree
	}
	snaps := make(chan moment, 1)
	var gone atomic.Bool
	drop := func() { // a snapshot that nobody takes: the second of worker and caller drops it
		select {
		case m := <-snaps:
			m.snap.Close()
		default:
		}
	}
	_, err := ask(ctx, x.of(id), id, func(g *group) (struct{}, error) {
		snaps <- moment{g.log.Applied(), g.w.o.Dir.Store.NewSnapshot(), g.state}
		if gone.Load() {
			drop()
		}
		return struct{}{}, nil
	})
	if err != nil {
		gone.Store(true)
		drop()
		return nexusraft.Checksum{}, err
	}
	m := <-snaps
	defer m.snap.Close()
	c, err := snapshot.Checksum(ctx, m.snap.Reader(m.state))
	if err != nil {
		return nexusraft.Checksum{}, err
	}
	c.Applied = m.applied
	return c, nil
}
