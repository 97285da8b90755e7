package kv

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// MaxCheckpoint is up to how many leases one checkpoint may have. Changing it changes history.
const MaxCheckpoint = 4096

// Remaining is what is left of a lease.
type Remaining struct {
	ID         int64
	Generation int64 // of the lease; if it has another one, the checkpoint leaves it as it is
	Seconds    int64 // that are left; 0, or as many as its TTL or more: all of it again; below 0: one
}

type checkpointRequest []Remaining

// EncodeCheckpoint returns the command that notes what is left of up to MaxCheckpoint leases, each of which gets a new
// generation; Apply refuses more of them. Leases that are gone, are being revoked or have another generation by then
// are left as they are.
func EncodeCheckpoint(leases []Remaining) []byte {
	b := []byte{kindCheckpoint}
	for _, l := range leases {
		if l.Seconds < 0 {
			l.Seconds = 1
		}
		b = appendNumbers(b, max(l.ID, 0), max(l.Generation, 0), l.Seconds) // no lease has 0
	}
	return b
}

func decodeCheckpoint(b []byte) (c checkpointRequest, ok bool) {
	for len(b) > 0 {
		var l Remaining
		if b, ok = decodeNumbers(b, &l.ID, &l.Generation, &l.Seconds); !ok {
			return nil, false
		}
		c = append(c, l)
	}
	return c, true
}

// DecodeCheckpointResult returns the leases that a checkpoint has changed, in its order, as they are after it. The
// refusals are ErrRequestTooLarge and ErrNoLeases.
func DecodeCheckpointResult(b []byte) (leases []Lease, err error) {
	if len(b) == 0 || b[0] != outcomeOK {
		return nil, ofLeases(decodeRefusal(b))
	}
	for rest := b[1:]; len(rest) > 0; {
		var l Lease
		var ok bool
		if rest, ok = decodeNumbers(rest, &l.ID, &l.TTL, &l.Generation, &l.Remaining); !ok || !l.valid() {
			return nil, fmt.Errorf("kv: decode result of a checkpoint: %w", nexusraft.ErrCorrupt)
		}
		leases = append(leases, l)
	}
	return leases, nil
}

// checkpointed is the response of a checkpoint.
type checkpointed []Lease

func (c checkpointed) append(b []byte) []byte {
	for _, l := range c {
		b = appendNumbers(b, l.ID, l.TTL, l.Generation, l.Remaining)
	}
	return b
}

func (w *writer) checkpoint(req checkpointRequest) (done checkpointed, err error) {
	if len(req) > MaxCheckpoint {
		return nil, ErrRequestTooLarge
	}
	for _, left := range req {
		was, ok, err := LeaseOf(w.tx, left.ID)
		if err != nil {
			return nil, err
		}
		if !ok || was.Revoking || was.Generation != left.Generation {
			continue
		}
		l := was
		if l.Remaining = left.Seconds; l.Remaining >= l.TTL {
			l.Remaining = 0
		}
		if l, err = w.addLease(l, &was); err != nil {
			return nil, err
		}
		done = append(done, l)
	}
	return done, nil
}
