package transport

import "errors"

// ErrUnreachable: the peer could not be reached and got nothing of the call.
var ErrUnreachable = errors.New("transport: peer unreachable")

// errSuperseded: newer votes for the same zones took the place of these.
var errSuperseded = errors.New("transport: superseded by newer votes")
