package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The records of sessions are on the path of writes, and have fields of fixed width, big-endian.

var (
	sessionTableKey = []byte{Prefix, 'r', 'c'}
	sessionPrefix   = []byte{Prefix, 'r', 's'}
	answerPrefixOf  = []byte{Prefix, 'r', 'a'}
)

func sessionKey(id uint64) []byte {
	return binary.BigEndian.AppendUint64(slices.Clone(sessionPrefix), id)
}

// sessionAnswerKey is where a session keeps the answer to a number: numbers that are never in the window
// together share a place, so that the answers that leave the window are overwritten, and not deleted.
func sessionAnswerKey(id, sequence uint64) []byte {
	b := binary.BigEndian.AppendUint64(slices.Clone(answerPrefixOf), id)
	return append(b, byte(sequence%sessionWindow))
}

// sessionTable is what a zone keeps of all sessions together: they are a list in the order of their last
// use, so that neither a use nor the oldest one takes a search.
type sessionTable struct {
	count, bytes   uint64 // of the sessions; what they are charged for
	oldest, newest uint64 // 0 if there are none
	clock          int64  // nanoseconds; by it sessions expire
	last           int64  // the zone's time when clock was moved on; 0: never
}

const sessionTableBytes = 6 * 8

func (t sessionTable) encode() []byte {
	b := make([]byte, 0, sessionTableBytes)
	for _, v := range [...]uint64{t.count, t.bytes, t.oldest, t.newest, uint64(t.clock), uint64(t.last)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeSessionTable(b []byte) (t sessionTable, err error) {
	if len(b) != sessionTableBytes {
		return t, fmt.Errorf("%w: the table of the sessions has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	for i, v := range [...]*uint64{&t.count, &t.bytes, &t.oldest, &t.newest} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	t.clock, t.last = int64(binary.BigEndian.Uint64(b[4*8:])), int64(binary.BigEndian.Uint64(b[5*8:]))
	none := t.count == 0
	if none != (t.oldest == 0) || none != (t.newest == 0) || none != (t.bytes == 0) || t.count > maxSessions {
		return t, fmt.Errorf("%w: the table of the sessions contradicts itself", nexusraft.ErrCorrupt)
	}
	return t, nil
}

// session is one session. Its window is the last numbers up to top; of each it knows whether that has run,
// and whether its answer is kept.
type session struct {
	id         uint64 // in the key
	prev, next uint64 // used before and after it; 0 at the ends of the list
	top        uint64 // the highest number so far; 0 before the first
	ran, kept  uint64 // bit i is the number top-i; what is kept has run
	bytes      uint64 // what it is charged for
	used       int64  // when it was last used, by the sessions' clock
	owner      string
}

const sessionHeader = 7 * 8

func (s *session) encode() []byte {
	b := make([]byte, 0, sessionHeader+len(s.owner))
	for _, v := range [...]uint64{s.prev, s.next, s.top, s.ran, s.kept, s.bytes, uint64(s.used)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, s.owner...)
}

func decodeSession(id uint64, b []byte) (*session, error) {
	if len(b) < sessionHeader || len(b) > sessionHeader+maxSessionOwnerBytes {
		return nil, fmt.Errorf("%w: session %d has %d bytes", nexusraft.ErrCorrupt, id, len(b))
	}
	s := &session{id: id, owner: string(b[sessionHeader:])}
	for i, v := range [...]*uint64{&s.prev, &s.next, &s.top, &s.ran, &s.kept, &s.bytes} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	s.used = int64(binary.BigEndian.Uint64(b[6*8:]))
	beyond := uint64(bits.Len64(s.ran)) > s.top // number 0 and those below are none
	if s.kept&^s.ran != 0 || beyond || s.prev == id || s.next == id || s.bytes > maxSessionBytes {
		return nil, fmt.Errorf("%w: session %d contradicts itself", nexusraft.ErrCorrupt, id)
	}
	return s, nil
}

// sessionAnswer is the answer to one command of a session.
type sessionAnswer struct {
	sequence uint64
	index    nexusraft.Index // where it has run
	digest   [sessionDigestBytes]byte
	failed   bool   // it is text and sentinels, otherwise data
	matches  uint32 // bit i: the error matches answerSentinels[i]
	data     []byte // or the error's text
}

const (
	sessionDigestBytes  = 16
	sessionAnswerHeader = 8 + 8 + sessionDigestBytes + 1 + 4
)

// answerSentinels are the errors that a kept answer matches again. Their order is for ever, and so is
// their number: of two releases each would keep another record of the same answer.
var answerSentinels = [...]error{
	nexusraft.ErrUncertain, nexusraft.ErrCorrupt, nexusraft.ErrClosed, nexusraft.ErrDiskFull, nexusraft.ErrNoQuorum,
	nexusraft.ErrNotLeader, nexusraft.ErrOverloaded, nexusraft.ErrZoneNotFound, nexusraft.ErrTooLarge,
	nexusraft.ErrFenced, nexusraft.ErrRefused, nexusraft.ErrUnknownSession, nexusraft.ErrNotFounded, nexusraft.ErrGone,
	nexusraft.ErrDenied,
}

// keptError is the error of a command as it was kept.
type keptError struct {
	text    string
	matches []error
}

func (e *keptError) Error() string   { return e.text }
func (e *keptError) Unwrap() []error { return e.matches }

// answerOf makes a record of what a command has come to.
func answerOf(data []byte, err error) (a sessionAnswer) {
	if err == nil {
		return sessionAnswer{data: data}
	}
	a.failed, a.data = true, []byte(err.Error())
	if len(a.data) > maxSessionErrorBytes {
		a.data = bytes.ToValidUTF8(a.data[:maxSessionErrorBytes], nil)
	}
	for i, sentinel := range answerSentinels {
		if errors.Is(err, sentinel) {
			a.matches |= 1 << i
		}
	}
	return a
}

// result is the inverse of answerOf.
func (a *sessionAnswer) result() (data []byte, err error) {
	if !a.failed {
		return a.data, nil
	}
	e := &keptError{text: string(a.data)}
	for i, sentinel := range answerSentinels {
		if a.matches&(1<<i) != 0 {
			e.matches = append(e.matches, sentinel)
		}
	}
	return nil, e
}

func (a *sessionAnswer) encode() []byte {
	b := make([]byte, 0, sessionAnswerHeader+len(a.data))
	b = binary.BigEndian.AppendUint64(b, a.sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(a.index))
	b = append(b, a.digest[:]...)
	failed := byte(0)
	if a.failed {
		failed = 1
	}
	b = append(b, failed)
	b = binary.BigEndian.AppendUint32(b, a.matches)
	return append(b, a.data...)
}

// decodeSessionAnswer reads what encode wrote. data is borrowed.
func decodeSessionAnswer(b []byte) (a sessionAnswer, err error) {
	const flag = 16 + sessionDigestBytes
	if len(b) < sessionAnswerHeader {
		return a, fmt.Errorf("%w: the answer of a session has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	a.sequence, a.index = binary.BigEndian.Uint64(b), nexusraft.Index(binary.BigEndian.Uint64(b[8:]))
	copy(a.digest[:], b[16:])
	a.failed, a.matches = b[flag] == 1, binary.BigEndian.Uint32(b[flag+1:])
	a.data = b[sessionAnswerHeader:]
	if b[flag] > 1 || !a.failed && a.matches != 0 || a.matches>>len(answerSentinels) != 0 ||
		a.failed && len(a.data) > maxSessionErrorBytes {
		return a, fmt.Errorf("%w: the answer of a session contradicts itself", nexusraft.ErrCorrupt)
	}
	return a, nil
}
