package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Limits of commands. All replicas depend on them: they can't be changed for a zone that has
// commands.
const (
	maxNameBytes = 255 // of a lock, and of an owner
	minLease     = time.Millisecond
	maxLease     = 24 * time.Hour
	maxForgotten = 2 // grants that have ended, which a new one removes: more than it adds
)

// What a command does, in its first byte.
const (
	opAcquire = 'a' // the lease in nanoseconds, 8 bytes; the length of the name, 4 bytes; the name; the owner
	opRenew   = 'n' // the lease in nanoseconds and the token, 8 bytes each; the name
	opRelease = 'r' // the token, 8 bytes; the name
)

// Acquire is the command that takes a lock which nobody has. Its answer is for ParseGrant; it is
// refused while another grant lasts, also one of the same owner.
func Acquire(name, owner string, lease time.Duration) []byte {
	command := binary.BigEndian.AppendUint64([]byte{opAcquire}, uint64(lease))
	command = append(binary.BigEndian.AppendUint32(command, uint32(len(name))), name...)
	return append(command, owner...)
}

// Renew is the command that gives a grant a new end, a lease from now; it is refused if the grant
// is not the lock's newest, or has ended. Its answer is for ParseGrant.
func Renew(name string, token uint64, lease time.Duration) []byte {
	command := binary.BigEndian.AppendUint64([]byte{opRenew}, uint64(lease))
	return append(binary.BigEndian.AppendUint64(command, token), name...)
}

// Release is the command that ends a grant. One that has ended already is no error: it may be
// proposed again.
func Release(name string, token uint64) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{opRelease}, token), name...)
}

// Grant is a lock that somebody has until an end, by the zone's time. It can't know when that has
// come: a pause, or a clock that is wrong, hides it. So all that is done under a grant shows its
// token, and what keeps the result refuses a token below one that it has seen.
type Grant struct {
	Token uint64 // higher than that of every grant before, of any lock in the zone
	End   time.Time
}

// ParseGrant reads the answer of Acquire or Renew.
func ParseGrant(answer []byte) (Grant, error) {
	if len(answer) != 16 {
		return Grant{}, fmt.Errorf("locks: an answer of %d bytes is no grant's", len(answer))
	}
	return Grant{Token: number(answer), End: time.Unix(0, int64(number(answer[8:])))}, nil
}

// service is a lock service as a state machine. Its keys:
//
//	l, name         the lock's grant: its token and its end, 8 bytes each, and its owner
//	e, end, token   the name of that lock, so that what ran out is found
//
// A token is the order of the command that was granted: it ascends, also after a lock was
// forgotten. A command touches a bounded number of keys: a grant removes two that ran out, so that
// no more are kept than there were at once.
type service struct{}

func (service) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if len(cmd.Data) == 0 {
		return nil, refuse("an empty command: make one with Acquire, Renew or Release")
	}
	now := uint64(cmd.Time)
	switch op, data := cmd.Data[0], cmd.Data[1:]; {
	case op == opAcquire && len(data) >= 12 && uint64(binary.BigEndian.Uint32(data[8:])) <= uint64(len(data)-12):
		names, size := data[12:], binary.BigEndian.Uint32(data[8:])
		h := held{name: string(names[:size]), owner: string(names[size:]), token: cmd.Order()}
		return acquire(tx, now, h, time.Duration(number(data)))
	case op == opRenew && len(data) >= 16:
		return renew(tx, now, string(data[16:]), number(data[8:]), time.Duration(number(data)))
	case op == opRelease && len(data) >= 8:
		return nil, release(tx, string(data[8:]), number(data))
	}
	return nil, refuse("a command %q of %d bytes: make one with Acquire, Renew or Release", cmd.Data[0], len(cmd.Data))
}

// refuse returns a refusal, which its proposer can tell from other errors on any member.
func refuse(format string, args ...any) error {
	return fmt.Errorf("locks: %w: "+format, append([]any{nexusraft.ErrRefused}, args...)...)
}

// held is a lock's grant as it is kept.
type held struct {
	name, owner string
	token, end  uint64
}

func (h held) key() []byte { return append([]byte("l"), h.name...) }

func (h held) endKey() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte("e"), h.end), h.token)
}

// answer is what ParseGrant reads.
func (h held) answer() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, h.token), h.end)
}

func (h held) store(tx nexusraft.Tx) error {
	if err := tx.Set(h.endKey(), []byte(h.name)); err != nil {
		return err
	}
	return tx.Set(h.key(), append(h.answer(), h.owner...))
}

func (h held) drop(tx nexusraft.Tx) error {
	if err := tx.Delete(h.endKey()); err != nil {
		return err
	}
	return tx.Delete(h.key())
}

// find reads a lock's newest grant, which may have ended, and reports whether there is one.
func find(r nexusraft.Reader, name string) (h held, ok bool, err error) {
	if err := checkName("a lock", name); err != nil {
		return held{}, false, err
	}
	h = held{name: name}
	value, ok, err := r.Get(h.key())
	if err != nil || !ok {
		return h, false, err
	}
	h.token, h.end, h.owner = number(value), number(value[8:]), string(value[16:])
	return h, true, nil
}

func checkName(what, name string) error {
	if name == "" || len(name) > maxNameBytes {
		return refuse("the name of %s has %d bytes: give it 1 to %d", what, len(name), maxNameBytes)
	}
	return nil
}

func checkLease(lease time.Duration) error {
	if lease < minLease || lease > maxLease {
		return refuse("a lease of %v: give one from %v to %v", lease, minLease, maxLease)
	}
	return nil
}

func acquire(tx nexusraft.Tx, now uint64, h held, lease time.Duration) ([]byte, error) {
	if err := errors.Join(checkLease(lease), checkName("an owner", h.owner)); err != nil {
		return nil, err
	}
	old, ok, err := find(tx, h.name)
	if err != nil {
		return nil, err
	}
	if ok && now < old.end {
		return nil, refuse("the lock %q is held by %q for another %v: wait, and ask again", h.name, old.owner,
			time.Duration(old.end-now))
	}
	if ok {
		if err := old.drop(tx); err != nil {
			return nil, err
		}
	}
	if err := forget(tx, now); err != nil {
		return nil, err
	}
	h.end = now + uint64(lease)
	return h.answer(), h.store(tx)
}

// forget removes grants that have ended, so that names which nobody uses again do not stay.
func forget(tx nexusraft.Tx, now uint64) error {
	var ended []held
	end := held{end: now + 1}
	for p, err := range tx.Scan([]byte("e"), end.endKey()) {
		if err != nil {
			return err
		}
		ended = append(ended, held{name: string(p.Value), end: number(p.Key[1:]), token: number(p.Key[9:])})
		if len(ended) == maxForgotten {
			break
		}
	}
	for _, h := range ended {
		if err := h.drop(tx); err != nil {
			return err
		}
	}
	return nil
}

func renew(tx nexusraft.Tx, now uint64, name string, token uint64, lease time.Duration) ([]byte, error) {
	if err := checkLease(lease); err != nil {
		return nil, err
	}
	h, ok, err := find(tx, name)
	if err != nil {
		return nil, err
	}
	if !ok || h.token != token || now >= h.end {
		return nil, refuse("the grant %d of the lock %q has ended: stop what is done under it, and acquire again",
			token, name)
	}
	if err := h.drop(tx); err != nil {
		return nil, err
	}
	h.end = now + uint64(lease)
	return h.answer(), h.store(tx)
}

// Holder reads a lock's newest grant, which may have ended, and its owner: "" if the lock was
// released or forgotten. An owner whose Acquire ended with ErrUncertain finds its own.
func Holder(r nexusraft.Reader, name string) (owner string, g Grant, err error) {
	h, ok, err := find(r, name)
	if err != nil || !ok {
		return "", Grant{}, err
	}
	g, err = ParseGrant(h.answer())
	return h.owner, g, err
}

func release(tx nexusraft.Tx, name string, token uint64) error {
	h, ok, err := find(tx, name)
	if err != nil || !ok || h.token != token {
		return err
	}
	return h.drop(tx)
}

func number(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
