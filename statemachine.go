package nexusraft

import (
	"context"
	"iter"
)

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

	// Note tells v to the call of Leading.Lead that runs on this node, by Leadership.NextNote, once the
	// command's writes are stored and before its proposer hears; those of a command that fails
	// are dropped. It has no answer, so that Apply stays the same everywhere: where no Lead runs, as
	// on all nodes but the leader's and when a log is applied again, nothing is kept. v is not
	// copied; it must not share memory with what is borrowed, and Apply does not change it afterwards.
	Note(v any)
}

// Command is one committed command.
type Command struct {
	// Index is that of the command's entry in the zone's log. It never falls from one command to the
	// next, but many small commands that wait at once become one entry: they have the same one. Order
	// grows with every command.
	Index Index

	// Place is the command's place in its entry, from 0; it is below MaxEntryCommands.
	Place int

	// Time is the leader's clock when it took the command, in nanoseconds since the
	// Unix epoch. It never goes backwards inside a zone. It is the only clock that a
	// state machine may look at.
	Time int64

	// Data is what the proposer handed over, borrowed until Apply returns.
	Data []byte

	// Version is the zone's version of its state machine: which behaviour Apply is to have, so that
	// programs of different versions agree while they are updated one by one. See Versioned.
	Version uint32
}

// Order returns a number that grows with every command of the zone, and is higher than the Index of any
// command so far: to name something for all time, or to fence what is older.
func (c Command) Order() uint64 { return uint64(c.Index)*MaxEntryCommands + uint64(c.Place) }

// StateMachine is one deterministic function over a zone's tree. Snapshots, restore and
// the position up to which commands are applied are the node's work.
type StateMachine interface {
	// Apply runs one committed command against tx and returns what its proposer gets.
	//
	// It must be a function of its arguments alone: no clock, no randomness, no map
	// order, no configuration of this process (invariant I4), since every replica runs
	// it and all must agree. An error is the proposer's answer and leaves nothing of
	// the command behind; it, too, must be deterministic. An error of tx is returned as
	// it is. A panic stops the zone on this node. Only the zone's worker calls Apply: the commands of a zone
	// come one after the other, those of several zones that share a StateMachine at the same time, too.
	//
	// What it costs must be bounded by what is known before the command is proposed, since
	// all replicas pay at once, and again whenever they start (invariant I15): a command's
	// writes and result are in memory until they are stored, with those of the other commands of its
	// entry (see Batched), and nothing else of the zones of the same worker goes on
	// meanwhile (node.Config.Workers).
	Apply(tx Tx, cmd Command) (result []byte, err error)
}

// The interfaces below are optional: a state machine that has the method gets what it promises. Let the
// compiler hold that it has: var _ nexusraft.Versioned = orders{}.

// Versioned is a StateMachine whose behaviour changes from one release of its program to the next.
type Versioned interface {
	StateMachine

	// Version returns the highest version that this program knows, a constant; a state machine that
	// is not Versioned has version 0. Apply is to do what Command.Version says, which is not higher.
	//
	// A zone begins with version 0. Its leader raises that, by a command of the nodes in the zone's log, to
	// the highest one that the programs of all nodes with a copy of its state have said that they
	// know: members and learners, those that are away included, which hold it back. For a new
	// zone that takes a moment. It never falls, and snapshots carry it.
	//
	// A node whose program knows less than the zone's version does not run the zone: it has applied nothing
	// from the raise on, says so in its status and log, and goes on from there with a newer program.
	Version() uint32
}

// Batched is a StateMachine whose commands may share an entry of the log: many small ones that wait together
// become one, and cost less each. Those of any other state machine have an entry each, so that Command.Index tells
// them apart; a machine that becomes Batched names things by Command.Order, or not by their place at all.
type Batched interface {
	StateMachine

	// Alone reports whether a command's entry is to carry no other one, as of those that write or return far more
	// than they have bytes. Otherwise up to MaxEntryCommands commands of 64 KiB together are applied before
	// anything that they write or return is stored, and leaves memory.
	//
	// The zone's worker asks on the leader, for each command before it is proposed, so it is to be
	// fast; of an Opener, what Open has returned is asked. The answer may be another one in
	// another release. A panic counts as true.
	Alone(command []byte) bool
}

// Opener is a StateMachine that keeps something in memory for each zone, such as a cache.
type Opener interface {
	StateMachine

	// Open returns the state machine that applies the zone's commands from then on; Versioned is asked
	// of the Opener, Leading of what Open returns. r is the state that the next command finds, void when
	// Open returns. It is called before the first command after a start, and again after each
	// snapshot that replaces the state; what it has returned before is not used any more then.
	//
	// Whatever is in memory must follow from the state (invariant I4). A command's writes are kept if
	// and only if Apply returns no error: so change the memory last, when nothing can fail any more.
	//
	// The zone's worker calls it, and its other zones wait meanwhile; it may be called for several zones at
	// once. An error or a panic stops the zone on this node, and nothing else.
	Open(zone ZoneID, r Reader) (StateMachine, error)
}

// EventExpander is a StateMachine whose events refer to its state, where what they tell of is kept, instead of
// repeating it.
type EventExpander interface {
	StateMachine

	// ExpandEvent returns an event that Apply has published as subscribers get it. r is the zone's state,
	// which may be newer than the event by any number of commands. Kind and payload are borrowed until it returns,
	// and what it returns may be a part of them. It is called by any number of goroutines at once, and must not
	// wait; an error ends the subscription.
	ExpandEvent(r Reader, topic, kind string, payload []byte) (string, []byte, error)
}

// Leading is a StateMachine with work that only the zone's leader is to do.
type Leading interface {
	StateMachine

	// Lead is called once this node leads the zone and has applied an entry of its own term, and so all that
	// was acknowledged before. It has a goroutine of its own, and there is one call at a time for each
	// zone. When it returns while the node leads on, it has done its part of this term. A panic stops the
	// zone on this node, and nothing else.
	//
	// ctx ends as soon as this node knows that it does not lead any more in this term, or that the zone has
	// stopped or was deleted, with the reason as context.Cause. Lead is to return then: there is no
	// next call before, and a node that stops in order waits 1.5 s for it, tells the log and goes
	// on. If the cause is ErrOverloaded the node leads on, but more notes were waiting than there
	// is room for: Lead is called again, and begins by reading the state.
	//
	// It does not promise that no other node leads: that node may have been elected before this one knows. What
	// Lead does by l.Propose is safe all the same. What it does elsewhere is to carry l.Term, and the
	// other side to refuse a term that is lower than one it has seen.
	Lead(ctx context.Context, l Leadership)
}

// Leadership is a zone that this node leads in one term. Its methods may be called from many goroutines,
// until Lead returns; after the end of Lead's context they fail, with the reason.
type Leadership interface {
	Zone() ZoneID

	// Term grows with each leadership of the zone, on whichever node.
	Term() Term

	// Propose is as node.Zone.ProposeOnce, but in this term or not at all: it is never forwarded, and
	// once the term is over it returns ErrNotLeader.
	Propose(ctx context.Context, id RequestID, command []byte) (Result, error)

	// Read is node.Zone.Read. Notes of commands that it shows may come after it.
	Read(ctx context.Context, fn func(Reader) error) error

	// NextNote waits for the next note of Tx.Note, in the order of the commands and of the notes of each:
	// none is left out since Lead was called. Waiting notes are bounded in number, 65,536 on a node and
	// half of that of one zone; beyond, Lead's context ends with ErrOverloaded.
	NextNote(ctx context.Context) (Note, error)
}

// Note is what a command has told by Tx.Note.
type Note struct {
	Index Index // of the command's entry
	Value any
}
