package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/numbering"
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
	zone    *Zone
	numbers *numbering.Numbers
}

// NewSession registers a session, and retries until it has one or ctx ends. A session needs no end: it is
// forgotten when it is not used. If ctx is that of a client's gRPC call the session is that client's: only
// contexts of that client's calls may use it, or ErrDenied is returned.
//
// Errors are those of Zone.Propose, and ErrRefused in a cluster with a node of an earlier release.
func (z *Zone) NewSession(ctx context.Context) (*Session, error) {
	s := &Session{zone: z, numbers: numbering.New(z.register)}
	if err := s.numbers.Register(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// ID returns the session's ID, for a RequestID; a program that numbers commands itself begins with 1, and has
// no more than 64 numbers between the lowest one that it may retry and the highest. It changes when the session
// was forgotten and Propose has registered another one.
func (s *Session) ID() uint64 { return s.numbers.Session() }

// Propose is Zone.Propose for a command that runs once. It numbers the command and hands it over again, with
// the same number, while its outcome is uncertain, the zone has no leader, or is overloaded, until ctx ends:
// give it a context that does. At most 64 commands of a session are under way, one more waits. Result.Index is
// where the command has run.
//
// ErrUncertain is returned where ctx ended while the outcome was unknown, or what hinders the command does
// not pass: it may still commit, once. It comes with ErrUnknownSession if the session was forgotten
// meanwhile. A session that was forgotten before the command was handed over is replaced.
func (s *Session) Propose(ctx context.Context, command []byte) (r nexusraft.Result, err error) {
	err = s.numbers.Propose(ctx, func(id nexusraft.RequestID) (forgotten bool, err error) {
		r, forgotten, err = s.propose(ctx, id, command)
		return forgotten, err
	})
	return r, err
}

// propose proposes a command under its number until it is answered. Forgotten says that the command has certainly not
// run, because the zone does not know the session.
func (s *Session) propose(
	ctx context.Context, id nexusraft.RequestID, command []byte,
) (r nexusraft.Result, forgotten bool, err error) {
	waiting, uncertain := s.zone.node.awaits(), false
	for {
		changed := s.zone.node.events.Changed() // before the leader is looked at, so that nothing falls in between
		r, err = s.zone.ProposeOnce(ctx, id, command)
		switch {
		case isAnswer(err):
			return r, false, err
		case !uncertain && errors.Is(err, nexusraft.ErrUnknownSession):
			return r, true, err
		}
		uncertain = uncertain || errors.Is(err, nexusraft.ErrUncertain)
		ended := err
		if s.zone.passes(err) {
			ended = waiting.next(ctx, changed)
		}
		switch {
		case ended == nil:
		case uncertain && !errors.Is(err, nexusraft.ErrUncertain):
			return r, false, fmt.Errorf("%w: %w", nexusraft.ErrUncertain, err)
		case errors.Is(err, ended):
			return r, false, err
		default:
			return r, false, fmt.Errorf("%w; gave up: %w", err, ended)
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
