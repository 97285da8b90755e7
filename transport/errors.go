package transport

import (
	"errors"

	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// ErrUnreachable: the peer could not be reached and got nothing of the call.
var ErrUnreachable = errors.New("transport: peer unreachable")

// ErrSuperseded: newer votes for the same zones took the place of these.
var ErrSuperseded = errors.New("transport: superseded by newer votes")

// ErrApplication is matched by a state machine's own error that came from a peer.
var ErrApplication = wire.ErrApplication
