package apply

import (
	"errors"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// machinePart begins each key that a zone's state machine keeps in the zone's state tree; the other
// part of that, replicated like everything in it, is the system state (system.Prefix).
const machinePart = 0x01

// machineReader is the state machine's part of a state tree.
type machineReader struct {
	base nexusraft.Reader
}

// MachineReader returns the state machine's part of a zone's state.
func MachineReader(state nexusraft.Reader) nexusraft.Reader { return machineReader{state} }

func machineKey(key []byte) []byte { return append([]byte{machinePart}, key...) }

func machineEnd(end []byte) []byte {
	if end == nil {
		return []byte{machinePart + 1}
	}
	return machineKey(end)
}

func (r machineReader) Get(key []byte) ([]byte, bool, error) { return r.base.Get(machineKey(key)) }

func (r machineReader) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return stripped(r.base.Scan(machineKey(start), machineEnd(end)))
}

func (r machineReader) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return stripped(r.base.ScanReverse(machineKey(start), machineEnd(end)))
}

func stripped(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range pairs {
			if err == nil {
				p.Key = p.Key[1:]
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// machineTx is machineReader with writes. It remembers the first error of the tree, which
// is the disk's and not the command's answer.
type machineTx struct {
	machineReader
	overlay *storage.Overlay
	err     error

	now    int64
	events system.Events // published so far
	heard  bool          // somebody hears notes
	notes  []any         // so far
}

func (t *machineTx) Get(key []byte) ([]byte, bool, error) {
	v, ok, err := t.machineReader.Get(key)
	t.failed(err)
	return v, ok, err
}

func (t *machineTx) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.noting(t.machineReader.Scan(start, end))
}

func (t *machineTx) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.noting(t.machineReader.ScanReverse(start, end))
}

func (t *machineTx) noting(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range pairs {
			t.failed(err)
			if !yield(p, err) {
				return
			}
		}
	}
}

// A key or value over its limit is the command's fault, the same on every replica.
func (t *machineTx) Set(key, value []byte) error {
	err := t.overlay.Set(machineKey(key), value)
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.failed(err)
	}
	return err
}

func (t *machineTx) Delete(key []byte) error {
	err := t.overlay.Delete(machineKey(key))
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.failed(err)
	}
	return err
}

// DeleteRange implements nexusraft.Tx.
func (t *machineTx) DeleteRange(start, end []byte) error {
	err := t.overlay.DeleteRange(machineKey(start), machineEnd(end))
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.failed(err)
	}
	return err
}

// Publish implements nexusraft.Tx.
func (t *machineTx) Publish(topic, kind string, payload []byte) error {
	return t.events.Add(t.now, topic, kind, payload)
}

// Note implements nexusraft.Tx.
func (t *machineTx) Note(v any) {
	if t.heard {
		t.notes = append(t.notes, v)
	}
}

func (t *machineTx) failed(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Effects is what applying one command has come to: its answer, and what it changes for others.
type Effects struct {
	Data      []byte
	Err       error              // the command's answer: the state machine's own error, or why it was refused
	First     nexusraft.Index    // the entry with which the command ran before, of which this is the answer; otherwise 0
	Published bool               // there are new events
	Access    bool               // the rights of some client have changed
	Zones     bool               // a zone was made, changed or deleted, or the cluster's version raised
	Zone      *system.ZoneChange // of the zone that was; nil if none was

	MachineVersion uint32          // to which the zone's was raised; 0 if it was not
	Notes          []any           // of the command, if somebody hears them
	Checkpoint     system.Digest   // the zone's, to be compared; the zero value: not after this command
	Verified       nexusraft.Index // the digests after this entry were compared; 0: none were

	Change, By string // for the log: that change, and the client that has asked for it
}

// Machine is a zone's state machine, and what the replica knows besides of how to apply commands.
type Machine struct {
	nexusraft.StateMachine

	Version uint32 // the zone's: nexusraft.Command.Version
	Heard   bool   // somebody hears notes; otherwise they are dropped

	Loads *system.Loads // of the root zone's replica; nil: what they say is read anew
}

// VersionOf returns the highest version that a state machine knows; see nexusraft.Versioned.
func VersionOf(m nexusraft.StateMachine) uint32 {
	if v, ok := m.(nexusraft.Versioned); ok {
		return v.Version()
	}
	return 0
}

// Alone reports whether a command's entry is to carry no other one; see nexusraft.Batched. It may be asked
// of a machine that is nil.
func Alone(m nexusraft.StateMachine, command []byte) (alone bool) {
	a, ok := m.(nexusraft.Batched)
	if !ok {
		return true
	}
	defer func() {
		if recover() != nil {
			alone = true
		}
	}()
	return a.Alone(command)
}

// Command applies one command over base and merges its writes into base only if it
// succeeds. The error is not the command's: ErrMachine and a system.DivergedError stop the zone, and
// any other one is the disk's and ends the node (I9).
func Command(
	m Machine, base *storage.Overlay, index nexusraft.Index, e *zone.Envelope,
) (o Effects, err error) {
	effects := storage.NewOverlay(base)
	var now int64
	if e.Request.IsZero() {
		now, o, err = unnumbered(m, base, effects, index, e)
	} else {
		now, o, err = numbered(m, base, effects, index, e)
	}
	if err != nil {
		return Effects{}, fmt.Errorf("apply command at %d: %w", index, err)
	}
	if o.Err == nil {
		effects.MergeInto(base)
	} else {
		effects = nil
	}
	o.Checkpoint, err = digest(base, position{index, e.Place, e.More}, now, effects)
	return o, err
}

// unnumbered runs a command over effects, at the zone's time now.
func unnumbered(
	m Machine, base, effects *storage.Overlay, index nexusraft.Index, e *zone.Envelope,
) (now int64, o Effects, err error) {
	if now, err = system.AdvanceTime(base, e.Time); err != nil {
		return 0, Effects{}, err
	}
	if e.Own {
		o, err = applySystem(effects, m.Loads, index, now, e.Command)
	} else {
		o, err = applyMachine(m, effects, m.command(index, now, e))
	}
	return now, o, err
}

// command is what the state machine is given.
func (m *Machine) command(index nexusraft.Index, now int64, e *zone.Envelope) nexusraft.Command {
	return nexusraft.Command{Index: index, Place: e.Place, Time: now, Data: e.Command, Version: m.Version}
}

// numbered is unnumbered for a command that a session has given a number: it runs once (I17). What the
// session remembers is written to base, whatever the command comes to.
func numbered(
	m Machine, base, effects *storage.Overlay, index nexusraft.Index, e *zone.Envelope,
) (now int64, o Effects, err error) {
	if e.Own { // sessions are for the state machine's commands
		return 0, Effects{Err: nexusraft.ErrUnknownSession}, nil
	}
	a, err := system.BeginAttempt(base, e.Time, e.Request, e.Command)
	switch {
	case errors.Is(err, nexusraft.ErrUnknownSession), errors.Is(err, nexusraft.ErrRefused):
		return 0, Effects{Err: err}, nil
	case err != nil:
		return 0, Effects{}, err
	case a.Ran:
		return a.Now, Effects{Data: a.Data, Err: a.Err, First: a.Index}, nil
	}
	o, err = applyMachine(m, effects, m.command(index, a.Now, e))
	if err != nil {
		return 0, Effects{}, err
	}
	return a.Now, o, a.End(index, o.Data, o.Err)
}

func applyMachine(m Machine, effects *storage.Overlay, cmd nexusraft.Command) (o Effects, err error) {
	tx := &machineTx{machineReader: machineReader{effects}, overlay: effects, now: cmd.Time, heard: m.Heard}
	o.Data, o.Err, err = runApply(m.StateMachine, tx, cmd)
	if tx.err != nil {
		err = tx.err // whatever the state machine has made of it
	}
	if err != nil || o.Err != nil {
		return o, err
	}
	if o.Notes = tx.notes; tx.events.Len() == 0 {
		return o, nil
	}
	o.Published = true
	return o, tx.events.Publish(effects, cmd.Time)
}

// applySystem runs one system command over base, at its index and the zone's time now. A refusal is the proposer's
// answer; an error is not the command's and stops the zone.
func applySystem(
	base *storage.Overlay, loads *system.Loads, index nexusraft.Index, now int64, command []byte,
) (Effects, error) {
	r, err := system.Apply(base, loads, index, now, command)
	if _, unknown := errors.AsType[*system.UnknownCommandError](err); unknown {
		err = fmt.Errorf("%w: %w", ErrMachine, err)
	}
	return Effects{
		Data: r.Answer, Err: r.Refused, Published: r.Events, Access: r.Access, Zones: r.Zones,
		Zone: r.Zone, MachineVersion: r.MachineVersion,
		Verified: r.Verified, Change: r.Change, By: r.By,
	}, err
}

// ErrMachine is why a zone stops on this node: it can't apply a command, and the same would happen to it
// again.
var ErrMachine = errors.New("a command can't be applied, the zone stops on this node")

// runApply turns a panic of the state machine into an error that stops the zone: what it
// left half-done must not become state, and running it elsewhere would end the same way.
func runApply(sm nexusraft.StateMachine, tx nexusraft.Tx, cmd nexusraft.Command) (data []byte, answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the state machine panicked: %v", ErrMachine, p)
		}
	}()
	data, answer = sm.Apply(tx, cmd)
	return data, answer, nil
}
