package nexusraft

import "iter"

// Pair is one key and its value.
type Pair struct {
	Key, Value []byte
}

// Reader reads one zone's state as of one moment.
//
// Slices that it returns are borrowed: they may be read until the next call on the same
// Reader or the next step of an iteration, and must not be changed. A Reader is for one
// goroutine and is void when the function it was given to returns.
type Reader interface {
	// Get returns the value at key and whether there is one.
	Get(key []byte) (value []byte, ok bool, err error)

	// Scan yields the pairs with start <= key < end in ascending order; a nil end means
	// no upper bound. An error is yielded once and last, with an empty pair.
	Scan(start, end []byte) iter.Seq2[Pair, error]

	// ScanReverse is Scan in descending order.
	ScanReverse(start, end []byte) iter.Seq2[Pair, error]
}

// ReadWriter is a Reader with writes, which its reads observe. Key and value are copied, so
// the caller may reuse its slices.
type ReadWriter interface {
	Reader

	// Set stores value at key.
	Set(key, value []byte) error

	// Delete removes key; a key that is absent is no error.
	Delete(key []byte) error
}

// Tx is what a command sees of the zone's state while it is applied: reads observe the
// writes of the same command and of all commands before it.
type Tx interface {
	ReadWriter

	// DeleteRange removes all keys with start <= key < end; a nil end means no upper bound.
	// Unlike Delete for each of them it takes the same memory however many there are.
	DeleteRange(start, end []byte) error

	// Publish appends an event to the zone's events, durable and ordered like the command
	// itself: it is there if the command's writes are, and a command that fails publishes
	// nothing. Topic and kind have 1 to MaxEventNameBytes bytes of valid UTF-8, otherwise
	// it returns ErrTooLarge or ErrRefused; the payload has at most MaxEventPayloadBytes and
	// is copied. All events of one command together have at most MaxCommandEventBytes,
	// otherwise ErrTooLarge. Events are not part of what a Reader sees. Where the zone's
	// events are turned off, nothing is kept.
	Publish(topic, kind string, payload []byte) error
}

// Command is one committed command.
type Command struct {
	// Index is the command's place in the zone's log; it grows with every command.
	Index Index

	// Time is the leader's clock when it took the command, in nanoseconds since the
	// Unix epoch. It never goes backwards inside a zone. It is the only clock that a
	// state machine may look at.
	Time int64

	// Data is what the proposer handed over, borrowed until Apply returns.
	Data []byte
}

// StateMachine is one deterministic function over a zone's tree. Snapshots, restore and
// the position up to which commands are applied are the node's work.
type StateMachine interface {
	// Apply runs one committed command against tx and returns what its proposer gets.
	//
	// It must be a function of its arguments alone: no clock, no randomness, no map
	// order, no configuration of this process (invariant I4), since every replica runs
	// it and all must agree. An error is the proposer's answer and leaves nothing of
	// the command behind; it, too, must be deterministic. An error of tx is returned as
	// it is. A panic stops the zone on this node. Only the zone's worker calls Apply.
	//
	// What it costs must be bounded by what is known before the command is proposed, since
	// all replicas pay at once, and again whenever they start (invariant I15): a command's
	// writes and result are in memory until they are stored, and nothing else of the
	// zones of this node goes on meanwhile.
	Apply(tx Tx, cmd Command) (result []byte, err error)
}
