package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Zone is one zone as this node sees it. Its methods may be called from many goroutines.
type Zone struct {
	node *Node
	id   nexusraft.ZoneID
}

// ID returns the zone's ID.
func (z *Zone) ID() nexusraft.ZoneID { return z.id }

// Machine returns the state machine that the zone runs, as Config has it, also if the zone is on other nodes; nil if it
// is stopped on this node, or Config has none of that name.
func (z *Zone) Machine() nexusraft.StateMachine {
	p, err := z.node.replicas.View(z.id)
	switch {
	case err == nil:
		return p.Machine
	case !errors.Is(err, nexusraft.ErrNotLeader):
		return nil
	}
	var record *pb.ZoneRecord
	err = z.node.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) (err error) {
		record, err = system.FindZone(r, z.id)
		return err
	})
	if err != nil || record == nil {
		return nil
	}
	return z.node.config.Machines[record.GetMachine()]
}

// Propose replicates a command and returns what the state machine answered, once the
// command is on the disks that its quorum needs and applied by the leader. Command is
// copied.
//
// On a node that does not lead the zone the command is forwarded to the leader. While none is known
// or reached, Propose waits for one: give it a context that ends. The context bounds the waiting, not
// what was handed over. Only what was certainly not appended is proposed again.
//
// If ctx is that of a client's gRPC call, the leader checks once more that the client may make it;
// a handler that works for a client passes that context on.
//
// Errors: ErrNotLeader with the context's (no leader was reached in time), ErrOverloaded,
// ErrTooLarge, ErrDiskFull, ErrZoneNotFound, ErrClosed, ErrNoQuorum, ErrDenied: nothing was or will be
// appended. ErrUncertain: it may still commit. Any other error is the state machine's own, or the
// context's before anything was written.
func (z *Zone) Propose(ctx context.Context, id nexusraft.RequestID, command []byte) (r nexusraft.Result, err error) {
	waiting := z.node.awaits()
	for {
		changed := z.node.events.Changed() // before the leader is looked at, so that nothing falls in between
		r, err = z.ProposeOnce(ctx, id, command)
		if !proposable(err) {
			return r, err
		}
		if ended := waiting.next(ctx, changed); ended != nil {
			return r, fmt.Errorf("%w; waited for a leader: %w", err, ended)
		}
	}
}

// proposable reports whether a proposal that got an error may be proposed again when there is a
// leader: it certainly was not appended. Of one whose outcome is uncertain only its caller knows
// whether it may happen twice.
func proposable(err error) bool {
	return errors.Is(err, nexusraft.ErrNotLeader) && !errors.Is(err, nexusraft.ErrUncertain)
}

// ProposeOnce is Propose without waiting for a leader: where none is known or reached now it returns
// ErrNotLeader. It is for a caller that has other nodes to ask.
func (z *Zone) ProposeOnce(ctx context.Context, id nexusraft.RequestID, command []byte) (nexusraft.Result, error) {
	p := transport.Proposal{Zone: z.id, Request: id, Command: command, Requester: authz.RequesterOf(ctx)}
	return z.node.proposeAnywhere(ctx, p)
}

// proposeAnywhere proposes here, or if this node does not lead the zone, at the leader, once.
func (n *Node) proposeAnywhere(ctx context.Context, p transport.Proposal) (nexusraft.Result, error) {
	r, err := handler{n}.Propose(ctx, p)
	leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
	if !ok || leader.Leader == 0 || leader.Leader == n.self().Node {
		return r, err
	}
	r, err = n.proposeAt(ctx, leader, p)
	if n.replicas.Has(p.Zone) || errors.Is(err, nexusraft.ErrUncertain) {
		return r, err
	}
	// The zone is on other nodes, of which only the leader takes it: the first one asked knows which that is.
	next, ok := errors.AsType[*nexusraft.NotLeaderError](err)
	if !ok || next.Leader == 0 || next.Leader == leader.Leader || next.Leader == n.self().Node {
		return r, err
	}
	return n.proposeAt(ctx, next, p)
}

// proposeAt proposes at another node.
func (n *Node) proposeAt(
	ctx context.Context, leader *nexusraft.NotLeaderError, p transport.Proposal,
) (nexusraft.Result, error) {
	var r nexusraft.Result
	var err error = leader
	ctx, end, ok := n.forwards.Start(ctx, p.Zone, leader.Leader)
	if !ok {
		return r, err
	}
	defer end()
	r, err = n.peers.Propose(ctx, leader.Leader, p)
	if cause := context.Cause(ctx); errors.Is(err, nexusraft.ErrUncertain) && errors.Is(cause, forward.ErrLeaderLost) {
		return r, fmt.Errorf("propose to node %v: %w: %w", leader.Leader, nexusraft.ErrUncertain, cause)
	}
	if errors.Is(err, transport.ErrUnreachable) {
		return r, fmt.Errorf("%w: %w", leader, err) // it never left this node
	}
	return r, err
}

// Checksum digests this node's own copy of the zone's state: SHA-256 over each pair in key order,
// lengths included.
func (z *Zone) Checksum(ctx context.Context) (nexusraft.Checksum, error) {
	return z.node.workers.Checksum(ctx, z.id)
}

// Term returns the newest term that this replica has stored. It does not wait.
func (z *Zone) Term() nexusraft.Term {
	p, err := z.node.replicas.View(z.id)
	if err != nil {
		return 0
	}
	return nexusraft.Term(p.Term.Load())
}

// HasLeader reports whether this replica knows a leader of the zone; true, too, if the zone is on other nodes, which
// are asked. It does not wait.
func (z *Zone) HasLeader() bool {
	k, err := z.node.replicas.View(z.id)
	if err != nil {
		return errors.Is(err, nexusraft.ErrNotLeader)
	}
	return k.Led.Load()
}

// Propose implements transport.MemberHandler: a forwarded command is never forwarded again.
func (n handler) Propose(ctx context.Context, p transport.Proposal) (nexusraft.Result, error) {
	if err := checkSize(p.Command); err != nil {
		return nexusraft.Result{}, err
	}
	if err := n.nodes.MayPropose(ctx); err != nil {
		return nexusraft.Result{}, err
	}
	if p.Own {
		if err := system.Check(p.Command); err != nil {
			return nexusraft.Result{}, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nexusraft.Result{}, fmt.Errorf("gave up before anything was written: %w", err)
	}
	p.Command = bytes.Clone(p.Command)
	return n.workers.Propose(ctx, p)
}

// proposeInTerm is nexusraft.Leadership.Propose.
func (n *Node) proposeInTerm(
	ctx context.Context, zone nexusraft.ZoneID, term nexusraft.Term, id nexusraft.RequestID, command []byte,
) (nexusraft.Result, error) {
	if err := checkSize(command); err != nil {
		return nexusraft.Result{}, err
	}
	p := transport.Proposal{Zone: zone, Request: id, Command: bytes.Clone(command)}
	return n.workers.ProposeInTerm(ctx, p, term)
}

func checkSize(command []byte) error {
	if len(command) > nexusraft.MaxCommandBytes {
		return fmt.Errorf("%w: command of %d bytes, limit %d", nexusraft.ErrTooLarge, len(command), nexusraft.MaxCommandBytes)
	}
	return nil
}

// Read runs fn over the zone's state, which includes every write that was acknowledged, by any
// node, before Read was called: a quorum confirms it. It returns ErrNoQuorum if the context ends
// first, or no leader is known for 32 election timeouts, ErrNotLeader with the leader while this
// node follows with a full disk (what it may not store, it can't serve), ErrDenied if ctx is that
// of a client's call and the client may not make it any more by the state that was confirmed, or
// fn's own error. The Reader is void when fn returns.
func (z *Zone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return z.node.read(ctx, z.id, fn)
}

func (n *Node) read(ctx context.Context, id nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	if err := n.workers.Confirm(ctx, id); err != nil {
		return err
	}
	return (&Zone{n, id}).ReadLocal(ctx, fn)
}

// ReadWithin runs fn over a state of the zone that is at most age old: it includes every write that was
// acknowledged, by any node, more than age before ReadWithin was called. If an earlier read through this node,
// of anyone, shows that this replica's state is as new as that, it asks nobody and waits for nothing;
// otherwise it is Read, and its errors are. So is an age of 0 or less.
//
// The age is measured by this machine's clocks alone, what the others' say does not matter; the call may
// take longer than age. A client's right is checked as by ReadLocal.
func (z *Zone) ReadWithin(ctx context.Context, age time.Duration, fn func(nexusraft.Reader) error) error {
	p, err := z.node.replicas.View(z.id)
	if err != nil {
		return err
	}
	if p.Fresh.Within(age, time.Now()) {
		return z.ReadLocal(ctx, fn)
	}
	return z.Read(ctx, fn)
}

// ReadLease is Read, and asks nobody where that is as good: on the zone's leader while it holds a lease, because a
// quorum has answered it so lately that no other node can lead yet. Where there is no lease it is Read: without
// Config.MaxClockDrift, on a node that does not lead, after a while without reads, from a leadership transfer until
// another leader follows, after a change of the zone's replicas, and while the zone has a voter that has not
// said that its release knows of leases.
//
// What Read promises holds as long as the clocks keep their bound. A process that is stopped for a while, or a
// machine that is suspended, may lose its lease, and no more.
func (z *Zone) ReadLease(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := z.readAlone(ctx, fn); !errors.Is(err, errNoLease) {
		return err
	}
	return z.Read(ctx, fn)
}

// errNoLease: there is no lease, or it was over before fn could run.
var errNoLease = errors.New("no lease")

// readAlone is Read by a lease, in the order that driver.Lease asks for, or errNoLease.
func (z *Zone) readAlone(ctx context.Context, fn func(nexusraft.Reader) error) error {
	p, err := z.node.replicas.View(z.id)
	if err != nil {
		return err
	}
	index, held := p.Lease.Index()
	if !held {
		return errNoLease
	}
	if !p.Fresh.Has(index) { // it is being written
		if err := z.node.workers.ConfirmIndex(ctx, z.id, index); err != nil {
			return err
		}
	}
	return z.node.readSystemLocal(z.id, func(r nexusraft.Reader) error {
		if !p.Lease.Holds() {
			return errNoLease
		}
		if err := z.node.access.Permits(authz.RequesterOf(ctx)); err != nil {
			return err
		}
		return fn(apply.MachineReader(r))
	})
}

// ReadAt runs fn over a state of this replica that includes the entry at an index, and so all before it: with
// the index of a proposal's Result, at any member, the caller's own write. It asks nobody, and waits
// until the replica has applied the entry. If ctx ends first it returns ErrNoQuorum: a replica that is
// cut off learns of no entries, and an index that is none of the zone's never comes. Otherwise its
// errors are those of Read.
func (z *Zone) ReadAt(ctx context.Context, index nexusraft.Index, fn func(nexusraft.Reader) error) error {
	p, err := z.node.replicas.View(z.id)
	if err != nil {
		return err
	}
	if !p.Fresh.Has(index) {
		if err := z.node.workers.ConfirmIndex(ctx, z.id, index); err != nil {
			return fmt.Errorf("read zone %v at index %d: %w", z.id, index, err)
		}
	}
	return z.ReadLocal(ctx, fn)
}

// ReadLocal runs fn over the state as this replica has it, which may be behind; so may be what it
// says of the client of ctx, and all that such a client gets to see is from before its right was
// taken.
func (z *Zone) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return z.node.readPermitted(ctx, z.id, func(r nexusraft.Reader) error { return fn(apply.MachineReader(r)) })
}

// Status returns this replica's view of the zone.
func (z *Zone) Status(ctx context.Context) (nexusraft.ZoneStatus, error) {
	return z.node.workers.Status(ctx, z.id)
}
