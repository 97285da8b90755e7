package system

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/numbering"
)

// A session remembers the answers to the last numbers of one client, so that a command that is proposed
// again is answered and not run. What it remembers is bounded, for one session and for all of a zone; what
// was forgotten is refused, because it may have run.

// The limits of sessions. Changing one changes history.
const (
	maxSessions          = 4096
	maxSessionsBytes     = 16 << 20         // charged for all of a zone
	maxSessionBytes      = 1 << 20          // charged for one
	sessionCharge        = 1 << 10          // for each session
	sessionAnswerCharge  = 128              // for each answer, besides its data
	sessionWindow        = numbering.Window // the bits of session.ran
	sessionLife          = time.Hour        // without use, by the sessions' clock
	sessionPause         = time.Minute
	sessionSweep         = 4 // expired sessions that one command forgets
	maxSessionOwnerBytes = 64
	maxSessionErrorBytes = 1 << 10 // of an answer's text, which is cut there
)

// applyRegisterSession makes a session; the answer is its ID, 8 bytes big-endian, which is the command's index.
func applyRegisterSession(
	base nexusraft.ReadWriter, index nexusraft.Index, now int64, c *pb.RegisterSession,
) ([]byte, error) {
	if c.GetRootZone() {
		if err := requireVersion(base, ZonesVersion, "sessions"); err != nil {
			return nil, err
		}
	}
	if len(c.GetOwner()) > maxSessionOwnerBytes {
		return nil, fmt.Errorf("%w: a session's owner has a name of %d bytes, limit %d", nexusraft.ErrRefused,
			len(c.GetOwner()), maxSessionOwnerBytes)
	}
	t, err := loadSessions(base)
	if err != nil {
		return nil, err
	}
	t.advance(now)
	if err := t.sweep(); err != nil {
		return nil, err
	}
	if t.count == maxSessions {
		if err := t.forget(t.oldest); err != nil {
			return nil, err
		}
	}
	s := &session{id: uint64(index), used: t.clock, owner: c.GetOwner()}
	t.held = s
	if err := t.append(s); err != nil {
		return nil, err
	}
	t.count++
	t.charge(s, sessionCharge)
	if err := errors.Join(t.makeRoom(), t.store()); err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, s.id), nil
}

// SessionOwner returns the name of the client that registered a session; false if there is no such session.
func SessionOwner(r nexusraft.Reader, id uint64) (owner string, ok bool, err error) {
	s, err := findSession(r, id)
	if err != nil || s == nil {
		return "", false, err
	}
	return s.owner, true, nil
}

// Attempt is a command of a session while it is applied.
type Attempt struct {
	// Ran says that the command has run before, at Index, with Data or Err for its answer.
	Ran   bool
	Index nexusraft.Index
	Data  []byte
	Err   error

	// Now is the zone's time.
	Now int64

	t        *sessions
	sequence uint64
	digest   [sessionDigestBytes]byte
}

// BeginAttempt looks a command up, at the leader's time. If it has not run before it is to be run, and
// Attempt.End to follow. ErrUnknownSession and ErrRefused are the command's answer, the same on every
// replica: it is not to be run. Where the session is unknown, nothing is changed: not even
// the zone's time, as in releases that know no sessions. Any other error is that of base, or ErrCorrupt.
func BeginAttempt(
	base nexusraft.ReadWriter, leaders int64, request nexusraft.RequestID, command []byte,
) (*Attempt, error) {
	if s, err := findSession(base, request.Session); err != nil || s == nil {
		return nil, cmp.Or(err, unknownSession(request.Session))
	}
	now, err := AdvanceTime(base, leaders)
	if err != nil {
		return nil, err
	}
	t, err := loadSessions(base)
	if err != nil {
		return nil, err
	}
	clock, last := t.clock, t.last
	t.advance(now)
	if err := t.sweep(); err != nil {
		return nil, err
	}
	s, err := t.use(request.Session)
	if err != nil {
		return nil, err
	}
	if s == nil { // that was no use
		t.clock, t.last = clock, last
	}
	if err := t.store(); err != nil {
		return nil, err
	}
	if s == nil {
		return nil, unknownSession(request.Session)
	}
	sum := sha256.Sum256(command)
	a := &Attempt{Now: now, t: t, sequence: request.Sequence, digest: [sessionDigestBytes]byte(sum[:])}
	return a, a.lookUp(s)
}

// findSession returns a session, expired or not; nil if there is none.
func findSession(r nexusraft.Reader, id uint64) (*session, error) {
	b, ok, err := r.Get(sessionKey(id))
	if err != nil || !ok {
		return nil, err
	}
	return decodeSession(id, b)
}

func unknownSession(id uint64) error {
	return fmt.Errorf("%w: session %d", nexusraft.ErrUnknownSession, id)
}

// lookUp finds the answer if the command has run, or why it may not run.
func (a *Attempt) lookUp(s *session) error {
	if a.sequence == 0 {
		return fmt.Errorf("%w: a session's numbers begin at 1", nexusraft.ErrRefused)
	}
	if a.sequence > s.top {
		return nil
	}
	place := s.top - a.sequence
	switch {
	case place >= sessionWindow:
		return fmt.Errorf("%w: session %d remembers its last %d numbers up to %d, and this is %d",
			nexusraft.ErrUnknownSession, s.id, sessionWindow, s.top, a.sequence)
	case s.ran&(1<<place) == 0:
		return nil
	case s.kept&(1<<place) == 0:
		return fmt.Errorf("%w: session %d has run its number %d, and keeps the answer no more: its answers have over "+
			"%d bytes", nexusraft.ErrUnknownSession, s.id, a.sequence, maxSessionBytes)
	}
	first, err := a.t.answer(s, a.sequence)
	switch {
	case err != nil:
		return err
	case first.digest != a.digest:
		return fmt.Errorf("%w: session %d has run another command with the number %d, at index %d", nexusraft.ErrRefused,
			s.id, a.sequence, first.index)
	}
	a.Ran, a.Index = true, first.index
	a.Data, a.Err = first.result()
	a.Data = bytes.Clone(a.Data)
	return nil
}

// End remembers that the command was run, at index, and its answer.
func (a *Attempt) End(index nexusraft.Index, data []byte, answer error) error {
	s := a.t.held
	if err := a.t.moveWindow(s, a.sequence); err != nil {
		return err
	}
	bit := uint64(1) << (s.top - a.sequence)
	s.ran |= bit
	first := answerOf(data, answer)
	first.sequence, first.index, first.digest = a.sequence, index, a.digest
	if charge := first.charge(); charge <= maxSessionBytes-sessionCharge {
		if err := a.t.dropAnswers(s, charge); err != nil {
			return err
		}
		if err := a.t.base.Set(sessionAnswerKey(s.id, a.sequence), first.encode()); err != nil {
			return err
		}
		s.kept |= bit
		a.t.charge(s, charge)
	}
	return errors.Join(a.t.makeRoom(), a.t.store())
}

// charge is what a session is charged for an answer: for a failure the same whatever its text, which may be
// another one in another release, while what is forgotten must be the same.
func (a *sessionAnswer) charge() uint64 {
	if a.failed {
		return sessionAnswerCharge + maxSessionErrorBytes
	}
	return sessionAnswerCharge + uint64(len(a.data))
}

// sessions are those of a zone, while one command works on them. held is the session that it is about, which is
// stored last: what changes in the list meanwhile must reach it.
type sessions struct {
	sessionTable
	base nexusraft.ReadWriter
	held *session // nil if none is
}

func loadSessions(base nexusraft.ReadWriter) (*sessions, error) {
	t := &sessions{base: base}
	b, ok, err := base.Get(sessionTableKey)
	if err != nil || !ok {
		return t, err
	}
	t.sessionTable, err = decodeSessionTable(b)
	return t, err
}

// store stores the table and the session that is held.
func (t *sessions) store() error {
	if t.held != nil {
		if err := t.put(t.held); err != nil {
			return err
		}
	}
	return t.base.Set(sessionTableKey, t.encode())
}

// get returns a session that must be there.
func (t *sessions) get(id uint64) (*session, error) {
	if t.held != nil && t.held.id == id {
		return t.held, nil
	}
	s, err := findSession(t.base, id)
	if err == nil && s == nil {
		err = fmt.Errorf("%w: session %d is in the list and has no record", nexusraft.ErrCorrupt, id)
	}
	return s, err
}

func (t *sessions) put(s *session) error { return t.base.Set(sessionKey(s.id), s.encode()) }

// advance moves the sessions' clock on to the zone's time, by a minute at most since their last use: a leader
// whose clock is ahead would let all of them expire, those that were used a moment ago, too.
func (t *sessions) advance(now int64) {
	if t.last != 0 {
		t.clock += min(now-t.last, int64(sessionPause)) // the zone's time does not go backwards
	}
	t.last = now
}

// use makes a session that is known the newest one, and holds it. It returns nil for one that has expired, which it
// forgets.
func (t *sessions) use(id uint64) (*session, error) {
	s, err := findSession(t.base, id)
	if err != nil || s == nil { // the sweep has just forgotten it
		return nil, err
	}
	if t.expired(s) {
		return nil, t.forget(id)
	}
	t.held, s.used = s, t.clock
	if t.newest == id {
		return s, nil
	}
	if err := t.unlink(s); err != nil {
		return nil, err
	}
	return s, t.append(s)
}

func (t *sessions) expired(s *session) bool { return t.clock-s.used > int64(sessionLife) }

// sweep forgets sessions that have expired, a few of them.
func (t *sessions) sweep() error {
	for range sessionSweep {
		if t.count == 0 {
			return nil
		}
		s, err := t.get(t.oldest)
		if err != nil {
			return err
		}
		if !t.expired(s) {
			return nil
		}
		if err := t.forget(s.id); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom forgets the sessions that were used longest ago until all have room. The one that is held was
// used last, and has room alone.
func (t *sessions) makeRoom() error {
	for t.bytes > maxSessionsBytes {
		if err := t.forget(t.oldest); err != nil {
			return err
		}
	}
	return nil
}

// forget deletes a session and its answers.
func (t *sessions) forget(id uint64) error {
	s, err := t.get(id)
	if err != nil {
		return err
	}
	if err := t.unlink(s); err != nil {
		return err
	}
	for place := range uint64(sessionWindow) {
		if s.kept&(1<<place) == 0 {
			continue
		}
		if err := t.base.Delete(sessionAnswerKey(id, s.top-place)); err != nil {
			return err
		}
	}
	t.count--
	t.bytes -= s.bytes
	return t.base.Delete(sessionKey(id))
}

// unlink takes a session out of the list.
func (t *sessions) unlink(s *session) error {
	before, after := func(x *session) { x.next = s.next }, func(x *session) { x.prev = s.prev }
	if err := errors.Join(t.relink(s.prev, before), t.relink(s.next, after)); err != nil {
		return err
	}
	if s.prev == 0 {
		t.oldest = s.next
	}
	if s.next == 0 {
		t.newest = s.prev
	}
	s.prev, s.next = 0, 0
	return nil
}

// append makes a session that is not in the list its newest one.
func (t *sessions) append(s *session) error {
	if err := t.relink(t.newest, func(x *session) { x.next = s.id }); err != nil {
		return err
	}
	s.prev, t.newest = t.newest, s.id
	if t.oldest == 0 {
		t.oldest = s.id
	}
	return nil
}

// relink changes the links of a session; 0 is none.
func (t *sessions) relink(id uint64, change func(*session)) error {
	if id == 0 {
		return nil
	}
	s, err := t.get(id)
	if err != nil {
		return err
	}
	change(s)
	if s == t.held { // stored at the end
		return nil
	}
	return t.put(s)
}

func (t *sessions) charge(s *session, bytes uint64) { s.bytes, t.bytes = s.bytes+bytes, t.bytes+bytes }

// answer reads an answer that is kept.
func (t *sessions) answer(s *session, sequence uint64) (sessionAnswer, error) {
	b, ok, err := t.base.Get(sessionAnswerKey(s.id, sequence))
	if err != nil {
		return sessionAnswer{}, err
	}
	if !ok {
		return sessionAnswer{}, fmt.Errorf("%w: session %d has no answer to number %d", nexusraft.ErrCorrupt, s.id, sequence)
	}
	a, err := decodeSessionAnswer(b)
	if err == nil && a.sequence != sequence {
		err = fmt.Errorf("%w: session %d has the answer to number %d in place of %d", nexusraft.ErrCorrupt, s.id, a.sequence,
			sequence)
	}
	return a, err
}

// moveWindow makes a number part of the window, and drops the answers to those that leave it.
func (t *sessions) moveWindow(s *session, sequence uint64) error {
	if sequence <= s.top {
		return nil
	}
	by := sequence - s.top
	for place := range uint64(sessionWindow) {
		if place+min(by, sessionWindow) < sessionWindow || s.kept&(1<<place) == 0 {
			continue
		}
		if err := t.dropAnswer(s, place); err != nil {
			return err
		}
	}
	s.top, s.ran, s.kept = sequence, s.ran<<by, s.kept<<by // shifts of 64 and more give 0
	return nil
}

// dropAnswers drops answers until one of charge has room in its session, lowest numbers first.
func (t *sessions) dropAnswers(s *session, charge uint64) error {
	for place := uint64(sessionWindow); place > 0 && s.bytes+charge > maxSessionBytes; place-- {
		if s.kept&(1<<(place-1)) == 0 {
			continue
		}
		if err := t.dropAnswer(s, place-1); err != nil {
			return err
		}
	}
	return nil
}

// dropAnswer drops the answer that is kept at a place of the window.
func (t *sessions) dropAnswer(s *session, place uint64) error {
	a, err := t.answer(s, s.top-place)
	if err != nil {
		return err
	}
	s.kept &^= 1 << place
	s.bytes -= a.charge()
	t.bytes -= a.charge()
	return t.base.Delete(sessionAnswerKey(s.id, a.sequence))
}
