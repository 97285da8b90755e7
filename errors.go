package nexusraft

import (
	"errors"
	"fmt"
)

// The sentinels tell a caller what it may do next (invariant I9). Compare with errors.Is.
var (
	// ErrNotLeader: the command was not and will not be appended; try the hinted leader.
	ErrNotLeader = errors.New("nexusraft: not leader")

	// ErrOverloaded: the command was not appended; back off and try again.
	ErrOverloaded = errors.New("nexusraft: overloaded, nothing was written")

	// ErrUncertain: the command was handed to Raft and its outcome is unknown; it may
	// still commit. Retry only with the same request ID, or read first.
	ErrUncertain = errors.New("nexusraft: outcome unknown")

	// ErrNoQuorum: a read could not be confirmed in time; nothing was changed.
	ErrNoQuorum = errors.New("nexusraft: no quorum confirmed the read in time")

	// ErrZoneNotFound: this node has no replica of the zone.
	ErrZoneNotFound = errors.New("nexusraft: zone not found")

	// ErrTooLarge: a key, value or command is over its limit; nothing was written.
	ErrTooLarge = errors.New("nexusraft: too large")

	// ErrDiskFull: the disk's reserve is reached; nothing was written.
	ErrDiskFull = errors.New("nexusraft: disk full")

	// ErrClosed: the store, node or zone is closed or has stopped.
	ErrClosed = errors.New("nexusraft: closed")

	// ErrCorrupt: stored bytes fail their checks; an operator must act.
	ErrCorrupt = errors.New("nexusraft: corrupt data")

	// ErrRefused: a change of membership, a transfer or an admission was refused; the
	// error's text says why. Nothing was changed.
	ErrRefused = errors.New("nexusraft: refused")

	// ErrFenced: a data directory may no longer take part in its cluster, for good: its node
	// was removed, or it is a copy or was rolled back. Clear it and join as a new node.
	ErrFenced = errors.New("nexusraft: fenced")

	// ErrUnknownSession: a request names a session that is unknown or has expired, or a number
	// that its session no longer remembers. It was not run; whether an earlier attempt was, is no
	// longer known.
	ErrUnknownSession = errors.New("nexusraft: unknown or expired session")

	// ErrGone: the requested events are no longer kept; see GoneError.
	ErrGone = errors.New("nexusraft: no longer kept")

	// ErrDenied: the caller showed no credentials, or none that are known here, or may not do
	// what it asked for; the error's text says which. Nothing was done.
	ErrDenied = errors.New("nexusraft: denied")

	// ErrNotFounded: the data directory holds no identity; found a cluster with init,
	// or join one.
	ErrNotFounded = errors.New("nexusraft: the data directory belongs to no cluster")
)

// NotLeaderError is ErrNotLeader with the leader's identity where it is known.
type NotLeaderError struct {
	Zone    ZoneID
	Leader  NodeID // 0 if unknown
	Address string // "" if unknown
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("nexusraft: zone %v has no known leader", e.Zone)
	}
	return fmt.Sprintf("nexusraft: not the leader of zone %v, node %v at %s is", e.Zone, e.Leader, e.Address)
}

// Unwrap makes errors.Is(err, ErrNotLeader) true.
func (e *NotLeaderError) Unwrap() error { return ErrNotLeader }

// GoneError is ErrGone with what is still kept: a subscriber has missed the events before Oldest,
// and may go on there.
type GoneError struct {
	Asked  uint64 // the sequence that was asked for
	Oldest uint64 // the lowest one that is kept
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("nexusraft: event %d is no longer kept, the oldest is %d", e.Asked, e.Oldest)
}

// Unwrap makes errors.Is(err, ErrGone) true.
func (e *GoneError) Unwrap() error { return ErrGone }
