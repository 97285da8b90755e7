package nexusraft

// RequestID lets a caller retry an uncertain command without running it twice: the same
// session and sequence name the same command. The zero value asks for no such protection.
//
// Sessions are not offered yet: a command with a session other than 0 is refused at apply
// with ErrUnknownSession on every replica, so that the day they are, nothing that is in a
// log changes its meaning.
type RequestID struct {
	Session  uint64
	Sequence uint64
}

// IsZero reports whether no request ID was given.
func (r RequestID) IsZero() bool { return r == RequestID{} }

// Result is the outcome of a committed command.
type Result struct {
	Data   []byte // what the state machine returned; owned by the caller
	Index  Index  // the command's place in the log
	Copies int    // data copies it was durable on when it was acknowledged; at least this many
}
