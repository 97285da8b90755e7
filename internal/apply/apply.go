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
}

func (t *machineTx) Get(key []byte) ([]byte, bool, error) {
	v, ok, err := t.machineReader.Get(key)
	t.note(err)
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
			t.note(err)
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
		t.note(err)
	}
	return err
}

func (t *machineTx) Delete(key []byte) error {
	err := t.overlay.Delete(machineKey(key))
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.note(err)
	}
	return err
}

// DeleteRange implements nexusraft.Tx.
func (t *machineTx) DeleteRange(start, end []byte) error {
	err := t.overlay.DeleteRange(machineKey(start), machineEnd(end))
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.note(err)
	}
	return err
}

// Publish implements nexusraft.Tx.
func (t *machineTx) Publish(topic, kind string, payload []byte) error {
	return t.events.Add(t.now, topic, kind, payload)
}

func (t *machineTx) note(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Effects is what applying one command has come to: its answer, and what it changes for others.
type Effects struct {
	Data      []byte
	Err       error            // the command's answer: the state machine's own error, or why it was refused
	Published bool             // there are new events
	Access    bool             // the rights of some client have changed
	Zones     bool             // a zone was made or deleted, or the cluster's version raised
	Deleted   nexusraft.ZoneID // the zone that was; 0 if none was

	Checkpoint system.Digest   // the zone's, to be compared; the zero value: not after this entry
	Verified   nexusraft.Index // the digests after this entry were compared; 0: none were

	Change, By string // for the log: that change, and the client that has asked for it
}

// Command applies one command over base and merges its writes into base only if it
// succeeds. The error is not the command's: ErrMachine and a system.DivergedError stop the zone, and
// any other one is the disk's and ends the node (I9).
func Command(
	sm nexusraft.StateMachine, base *storage.Overlay, index nexusraft.Index, e *zone.Envelope,
) (o Effects, err error) {
	if !e.Request.IsZero() {
		o.Err = nexusraft.ErrUnknownSession
		o.Checkpoint, err = digest(base, index, 0, nil)
		return o, err
	}
	now, err := system.AdvanceTime(base, e.Time)
	if err != nil {
		return Effects{}, err
	}
	effects := storage.NewOverlay(base)
	if e.Own {
		o, err = applySystem(effects, now, e.Command)
	} else {
		o, err = applyMachine(sm, effects, nexusraft.Command{Index: index, Time: now, Data: e.Command})
	}
	if err != nil {
		return Effects{}, fmt.Errorf("apply command at %d: %w", index, err)
	}
	if o.Err == nil {
		effects.MergeInto(base)
	} else {
		effects = nil
	}
	o.Checkpoint, err = digest(base, index, now, effects)
	return o, err
}

func applyMachine(sm nexusraft.StateMachine, effects *storage.Overlay, cmd nexusraft.Command) (o Effects, err error) {
	tx := &machineTx{machineReader: machineReader{effects}, overlay: effects, now: cmd.Time}
	o.Data, o.Err, err = runApply(sm, tx, cmd)
	if tx.err != nil {
		err = tx.err // whatever the state machine has made of it
	}
	if err != nil || o.Err != nil || tx.events.Len() == 0 {
		return o, err
	}
	o.Published = true
	return o, tx.events.Publish(effects, cmd.Time)
}

// applySystem runs one system command over base, at the zone's time now. A refusal is the proposer's
// answer; an error is not the command's and stops the zone.
func applySystem(base *storage.Overlay, now int64, command []byte) (Effects, error) {
	r, err := system.Apply(base, now, command)
	if _, unknown := errors.AsType[*system.UnknownCommandError](err); unknown {
		err = fmt.Errorf("%w: %w", ErrMachine, err)
	}
	return Effects{
		Data: r.Answer, Err: r.Refused, Published: r.Events, Access: r.Access, Zones: r.Zones,
		Deleted: r.Deleted, Verified: r.Verified, Change: r.Change, By: r.By,
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
