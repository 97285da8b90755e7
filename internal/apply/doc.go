// Package apply applies commands to a zone's state: those of its state machine, and system commands
// (internal/system). It is deterministic: state, command, index and time alone say what comes of it (I4).
//
// A zone's state tree has two parts, told apart by the first byte of each key: the state machine's, which
// that reads and writes as if it was alone there, and the system state. A command has an overlay of its
// own, so that one that fails leaves nothing behind.
package apply
