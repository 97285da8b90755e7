package nexusraft

// RequestID lets a caller retry an uncertain command without running it twice: the same
// session and sequence name the same command, which runs once and gets the first answer again.
// The zero value asks for no such protection.
//
// node.Zone.NewSession registers a session. Sequences begin at 1, and the zone remembers the
// answers to the 64 up to the highest so far, within bounds: what it does not remember is refused
// with ErrUnknownSession and not run, and a sequence of another command with ErrRefused.
type RequestID struct {
	Session  uint64
	Sequence uint64
}

// IsZero reports whether no request ID was given.
func (r RequestID) IsZero() bool { return r == RequestID{} }

// Result is the outcome of a committed command.
type Result struct {
	Data   []byte // what the state machine returned; owned by the caller
	Index  Index  // of the log's entry with which the command has run
	Copies int    // data copies it was durable on when it was acknowledged; at least this many
}
