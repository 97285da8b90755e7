package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Zone is one zone as this node sees it. Its methods may be called from many goroutines.
type Zone struct {
	node *Node
	id   nexusraft.ZoneID
}

// ID returns the zone's ID.
func (z *Zone) ID() nexusraft.ZoneID { return z.id }

// Propose replicates a command and returns what the state machine answered, once the
// command is on the disks that its quorum needs and applied by the leader. Command is
// copied.
//
// On a node that does not lead the zone the command is forwarded to the leader, once. The
// context bounds the waiting, not what was handed over.
//
// Errors: ErrNotLeader, ErrOverloaded, ErrTooLarge, ErrDiskFull, ErrZoneNotFound, ErrClosed: nothing was
// or will be appended. ErrUncertain: it may still commit. Any other error is the state
// machine's own, or the context's before anything was written.
func (z *Zone) Propose(ctx context.Context, id nexusraft.RequestID, command []byte) (nexusraft.Result, error) {
	return z.node.proposeAnywhere(ctx, transport.Proposal{Zone: z.id, Request: id, Command: command})
}

// proposeAnywhere proposes here, or if this node does not lead the zone, at the leader, once.
func (n *Node) proposeAnywhere(ctx context.Context, p transport.Proposal) (nexusraft.Result, error) {
	r, err := n.Propose(ctx, p)
	leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
	if !ok || leader.Leader == 0 || leader.Leader == n.identity().Node || !n.forwards.start() {
		return r, err
	}
	defer n.forwards.end()
	r, err = n.peers.Propose(ctx, leader.Leader, p)
	if errors.Is(err, transport.ErrUnreachable) {
		return r, fmt.Errorf("%w: %w", leader, err) // it never left this node
	}
	return r, err
}

// Term returns the newest term that this replica has stored. It does not wait.
func (z *Zone) Term() nexusraft.Term {
	p, err := z.node.view(z.id)
	if err != nil {
		return 0
	}
	return nexusraft.Term(p.term.Load())
}

// Propose implements transport.MemberHandler: a forwarded command is never forwarded again.
func (n *Node) Propose(ctx context.Context, p transport.Proposal) (nexusraft.Result, error) {
	if len(p.Command) > zone.MaxCommandBytes {
		return nexusraft.Result{}, fmt.Errorf("%w: command of %d bytes, limit %d", nexusraft.ErrTooLarge, len(p.Command), zone.MaxCommandBytes)
	}
	if err := n.mayPropose(ctx); err != nil {
		return nexusraft.Result{}, err
	}
	if p.Own {
		if err := checkOwn(p.Command); err != nil {
			return nexusraft.Result{}, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nexusraft.Result{}, fmt.Errorf("gave up before anything was written: %w", err)
	}
	call := newProposal(p.Zone)
	call.request, call.own, call.command = p.Request, p.Own, bytes.Clone(p.Command)
	if err := n.worker.inbox.putProposal(call); err != nil {
		return nexusraft.Result{}, err
	}
	return call.wait(ctx)
}

// Read runs fn over the zone's state, which includes every write that was acknowledged,
// by any node, before Read was called: a quorum confirms it. It returns ErrNoQuorum if the
// context ends first, ErrNotLeader with the leader while this node follows with a full disk
// (what it may not store, it can't serve), or fn's own error. The Reader is void when fn returns.
func (z *Zone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := z.node.confirm(ctx, z.id); err != nil {
		return err
	}
	return z.ReadLocal(ctx, fn)
}

// confirm returns once this replica's state includes every write that was acknowledged
// before, or ErrNoQuorum; see Zone.Read.
func (n *Node) confirm(ctx context.Context, z nexusraft.ZoneID) error {
	r := newRead()
	defer r.gone.Store(true)
	_, err := ask(ctx, n, z, func(h *hosted) (struct{}, error) {
		if err := h.behind(); err != nil {
			return struct{}{}, err
		}
		h.reads.waiting = append(h.reads.waiting, r)
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

// ReadLocal runs fn over the state as this replica has it, which may be behind.
func (z *Zone) ReadLocal(_ context.Context, fn func(nexusraft.Reader) error) error {
	reader, end, err := z.node.reader(z.id)
	if err != nil {
		return err
	}
	defer end()
	return fn(machineReader{reader})
}

// Status returns this replica's view of the zone.
func (z *Zone) Status(ctx context.Context) (nexusraft.ZoneStatus, error) {
	return ask(ctx, z.node, z.id, func(h *hosted) (nexusraft.ZoneStatus, error) { return h.status(), nil })
}

// ask has the worker run f with the zone, and waits for its answer.
func ask[T any](ctx context.Context, n *Node, id nexusraft.ZoneID, f func(*hosted) (T, error)) (T, error) {
	type reply struct {
		value T
		err   error
	}
	done := make(chan reply, 1)
	var r reply
	err := n.worker.inbox.putCall(func(err error) {
		var r reply // its own: the caller may have gone
		if h := n.worker.zones[id]; err != nil {
			r.err = err
		} else if h == nil {
			r.err = n.absent(id)
		} else {
			r.value, r.err = f(h)
		}
		done <- r
	})
	if err != nil {
		return r.value, err
	}
	select {
	case r = <-done:
		return r.value, r.err
	case <-ctx.Done():
		return r.value, fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, context.Cause(ctx))
	}
}
