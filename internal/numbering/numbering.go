// Package numbering gives the commands of a session their numbers, so that one that is proposed again is known
// for the same: for node.Session and for package client.
package numbering

import (
	"context"
	"fmt"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Window is how many of a session's numbers may be under way at a time: a zone remembers its last ones. It is part
// of what applying a command does, and changing it changes history.
const Window = 64

// Numbers are those of one caller, in a session that is registered when the first one is wanted, and in another one
// when the zone has forgotten that. Its methods may be called from many goroutines.
type Numbers struct {
	register func(context.Context) (uint64, error)
	renewing chan struct{} // has room for one: filled while a session is registered

	mu  sync.Mutex // guards what follows, and the fields of session
	now *session   // nil before the first is registered
}

// session has the numbers of one registered session.
type session struct {
	id           uint64
	next, lowest uint64 // the next one to give, and the lowest one that has not ended; lowest <= next
	ended        map[uint64]bool
	moved        chan struct{} // closed, and replaced, when lowest moves
}

// number is one command's, and is used for no other.
type number struct {
	nexusraft.RequestID
	of *session
}

// New returns numbers in sessions that register makes. Register is called by those who want a number, with their
// contexts, by one at a time.
func New(register func(context.Context) (id uint64, err error)) *Numbers {
	return &Numbers{register: register, renewing: make(chan struct{}, 1)}
}

// Session returns the ID of the session; 0 if none is registered yet.
func (s *Numbers) Session() uint64 {
	if now := s.current(); now != nil {
		return now.id
	}
	return 0
}

func (s *Numbers) current() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Register registers the first session, unless there is one. Its error is that of New's register, or of ctx.
func (s *Numbers) Register(ctx context.Context) error {
	if s.current() != nil {
		return nil
	}
	return s.replace(ctx, nil)
}

// renewals is how often Propose replaces a session that was forgotten: a state machine may answer with
// ErrUnknownSession, too.
const renewals = 3

// Propose has propose propose a command under the next number, once that is in the window with all that are under
// way. If propose returns that the session is forgotten, and the command has certainly not run, another session is
// registered in its place, and propose is called once more, with a number of that. The error is that of the last
// call, or, if nothing was proposed, that of New's register or of ctx.
func (s *Numbers) Propose(
	ctx context.Context, propose func(nexusraft.RequestID) (forgotten bool, err error),
) (err error) {
	for range renewals {
		var n number
		if n, err = s.begin(ctx); err != nil {
			return err
		}
		var forgotten bool
		forgotten, err = propose(n.RequestID)
		s.end(n)
		if !forgotten {
			return err
		}
		if err := s.replace(ctx, n.of); err != nil {
			return err
		}
	}
	return err
}

// begin returns the next number. End must follow.
func (s *Numbers) begin(ctx context.Context) (number, error) {
	if err := s.Register(ctx); err != nil {
		return number{}, err
	}
	for {
		n, moved := s.take()
		if moved == nil {
			return n, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return number{}, gaveUp(ctx)
		}
	}
}

// take takes the next number, or returns what is closed when there may be one.
func (s *Numbers) take() (n number, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now
	if now.next-now.lowest >= Window {
		return number{}, now.moved
	}
	n = number{nexusraft.RequestID{Session: now.id, Sequence: now.next}, now}
	now.next++
	return n, nil
}

// end says that a number's command is not proposed again.
func (s *Numbers) end(n number) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := n.of
	of.ended[n.Sequence] = true
	for of.ended[of.lowest] {
		delete(of.ended, of.lowest)
		of.lowest++
	}
	of.move()
}

// move wakes those that wait in begin. The caller holds the lock.
func (s *session) move() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// replace registers a session in place of old, unless another call has.
func (s *Numbers) replace(ctx context.Context, old *session) error {
	select {
	case s.renewing <- struct{}{}:
	case <-ctx.Done():
		return gaveUp(ctx)
	}
	defer func() { <-s.renewing }()
	if s.current() != old {
		return nil
	}
	id, err := s.register(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = &session{id: id, next: 1, lowest: 1, ended: make(map[uint64]bool), moved: make(chan struct{})}
	if old != nil {
		old.move()
	}
	return nil
}

func gaveUp(ctx context.Context) error {
	return fmt.Errorf("gave up before anything was written: %w", context.Cause(ctx))
}
