package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Session proposes commands to a zone, each of which runs once, however often it has to be handed over. Its
// methods may be called from many goroutines.
//
// The zone remembers, on all replicas, in snapshots and over restarts, the answers to a session's last
// 64 commands, up to 1 MiB of them, and 4096 sessions with 16 MiB; the session that was used longest ago
// is forgotten first, and one that was not used for an hour. What was forgotten is refused and never
// run as new.
type Session struct {
	zone *Zone

	renewing chan struct{} // has room for one: filled while a session is registered

	mu  sync.Mutex // guards what follows, and the fields of numbers
	now *numbers
}

// numbers are those of the commands of one registered session.
type numbers struct {
	id           uint64
	next, lowest uint64 // the next one to give, and the lowest one that has not ended; lowest <= next
	ended        map[uint64]bool
	moved        chan struct{} // closed, and replaced, when lowest moves
}

// NewSession registers a session, and retries until it has one or ctx ends. A session needs no end: it is
// forgotten when it is not used. If ctx is that of a client's gRPC call the session is that client's: only
// contexts of that client's calls may use it, or ErrDenied is returned.
//
// Errors are those of Zone.Propose, and ErrRefused in a cluster with a node of an earlier release.
func (z *Zone) NewSession(ctx context.Context) (*Session, error) {
	s := &Session{zone: z, renewing: make(chan struct{}, 1)}
	if err := s.renew(ctx, nil); err != nil {
		return nil, err
	}
	return s, nil
}

// ID returns the session's ID, for a RequestID; a program that numbers commands itself begins with 1, and has
// no more than 64 numbers between the lowest one that it may retry and the highest. It changes when the session
// was forgotten and Propose has registered another one.
func (s *Session) ID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.id
}

// Propose is Zone.Propose for a command that runs once. It numbers the command and hands it over again, with
// the same number, while its outcome is uncertain, the zone has no leader, or is overloaded, until ctx ends:
// give it a context that does. At most 64 commands of a session are under way, one more waits. Result.Index is
// where the command has run.
//
// ErrUncertain is returned where ctx ended while the outcome was unknown, or what hinders the command does
// not pass: it may still commit, once. It comes with ErrUnknownSession if the session was forgotten
// meanwhile. A session that was forgotten before the command was handed over is replaced.
func (s *Session) Propose(ctx context.Context, command []byte) (r nexusraft.Result, err error) {
	for range sessionRenewals {
		var forgotten *numbers
		r, forgotten, err = s.propose(ctx, command)
		if forgotten == nil {
			return r, err
		}
		if err := s.renew(ctx, forgotten); err != nil {
			return r, err
		}
	}
	return r, err
}

// sessionRenewals is how often a call replaces a session that was forgotten: a state machine may answer with
// ErrUnknownSession, too.
const sessionRenewals = 3

// propose is Propose in the session as it is now. forgotten is not nil if the command has certainly not run
// because the zone does not know that session.
func (s *Session) propose(ctx context.Context, command []byte) (r nexusraft.Result, forgotten *numbers, err error) {
	n, number, err := s.begin(ctx)
	if err != nil {
		return r, nil, err
	}
	defer s.end(n, number)
	waiting, uncertain := s.zone.node.awaits(), false
	for {
		changed := s.zone.node.events.Changed() // before the leader is looked at, so that nothing falls in between
		r, err = s.zone.ProposeOnce(ctx, nexusraft.RequestID{Session: n.id, Sequence: number}, command)
		switch {
		case isAnswer(err):
			return r, nil, err
		case !uncertain && errors.Is(err, nexusraft.ErrUnknownSession):
			return r, n, err
		}
		uncertain = uncertain || errors.Is(err, nexusraft.ErrUncertain)
		ended := err
		if s.zone.passes(err) {
			ended = waiting.next(ctx, changed)
		}
		switch {
		case ended == nil:
		case uncertain && !errors.Is(err, nexusraft.ErrUncertain):
			return r, nil, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
		case errors.Is(err, ended):
			return r, nil, err
		default:
			return r, nil, fmt.Errorf("%w; gave up: %w", err, ended)
		}
	}
}

// isAnswer reports whether an outcome is that of the command, and not of the attempt to propose it.
func isAnswer(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, known := wire.Find(err)
	return !known || errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrTooLarge)
}

// passes reports whether another attempt makes sense: a leader is missing, busy, or lost.
func (z *Zone) passes(err error) bool {
	for _, passing := range [...]error{
		nexusraft.ErrUncertain, nexusraft.ErrNotLeader, nexusraft.ErrOverloaded, nexusraft.ErrNoQuorum, nexusraft.ErrClosed,
	} {
		if errors.Is(err, passing) {
			return !z.node.replicas.Stopped(z.id)
		}
	}
	return false
}

// begin takes the next number, once it is in the window with all that have not ended.
func (s *Session) begin(ctx context.Context) (n *numbers, number uint64, err error) {
	for {
		s.mu.Lock()
		n = s.now
		number = n.next
		moved := n.moved
		free := number-n.lowest < system.SessionWindow
		if free {
			n.next++
		}
		s.mu.Unlock()
		if free {
			return n, number, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("gave up before anything was written: %w", context.Cause(ctx))
		}
	}
}

// end gives a number back, which is not used again.
func (s *Session) end(n *numbers, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.ended[number] = true
	for n.ended[n.lowest] {
		delete(n.ended, n.lowest)
		n.lowest++
	}
	n.move()
}

// move wakes those that wait in begin. The caller holds the session's lock.
func (n *numbers) move() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// renew registers a session in place of old, unless another call has.
func (s *Session) renew(ctx context.Context, old *numbers) error {
	select {
	case s.renewing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("gave up before anything was written: %w", context.Cause(ctx))
	}
	defer func() { <-s.renewing }()
	s.mu.Lock()
	renewed := s.now != old
	s.mu.Unlock()
	if renewed {
		return nil
	}
	id, err := s.zone.register(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = &numbers{id: id, next: 1, lowest: 1, ended: make(map[uint64]bool), moved: make(chan struct{})}
	if old != nil {
		old.move()
	}
	return nil
}

// register registers a session until that has succeeded or ctx ends. One that nobody hears of does no harm.
func (z *Zone) register(ctx context.Context) (id uint64, err error) {
	waiting := z.node.awaits()
	for {
		changed := z.node.events.Changed() // before the leader is looked at, so that nothing falls in between
		id, err = z.registerOnce(ctx)
		if err == nil {
			return id, nil
		}
		ended := err
		if z.passes(err) {
			ended = waiting.next(ctx, changed)
		}
		switch {
		case ended == nil:
		case errors.Is(err, ended):
			return 0, fmt.Errorf("register a session: %w", err)
		default:
			return 0, fmt.Errorf("register a session: %w; gave up: %w", err, ended)
		}
	}
}

func (z *Zone) registerOnce(ctx context.Context) (uint64, error) {
	root := z.id == nexusraft.RootZone
	if root {
		if err := z.node.registry.RequireVersion(ctx); err != nil {
			return 0, err
		}
	}
	answer, err := z.node.proposeSystem(ctx, z.id, &pb.NodeCommand{Kind: &pb.NodeCommand_RegisterSession{
		RegisterSession: &pb.RegisterSession{Owner: authz.RequesterName(ctx), RootZone: root},
	}})
	switch {
	case err != nil:
		return 0, err
	case len(answer) != 8:
		return 0, fmt.Errorf("%w: the answer is no session's ID", nexusraft.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(answer), nil
}
