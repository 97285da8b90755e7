package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A zone's state tree has two parts, told apart by the first byte of a key: what the node
// keeps for the zone, replicated like everything in the tree, and what its state machine
// keeps.
const (
	partNode    = 0x00
	partMachine = 0x01
)

// timeKey holds the time of the last command, 8 bytes big-endian: time never goes
// backwards, whoever leads and whatever its clock says (I4).
var timeKey = []byte{partNode, 't'}

// machineReader is the state machine's part of a state tree.
type machineReader struct {
	base nexusraft.Reader
}

func machineKey(key []byte) []byte { return append([]byte{partMachine}, key...) }

func machineEnd(end []byte) []byte {
	if end == nil {
		return []byte{partMachine + 1}
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

	now        int64
	events     [][]byte // published so far, as they are stored
	eventBytes int
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

func (t *machineTx) note(err error) {
	if t.err == nil {
		t.err = err
	}
}

// applied is the answer to one command.
type applied struct {
	data      []byte
	err       error // the state machine's own
	published bool  // there are new events
	access    bool  // who may do what has changed
}

// applyCommand runs one command over base and merges its writes into base only if it
// succeeds. The error is not the command's: errMachine stops the zone, and any other one is
// the disk's and ends the node (I9).
func applyCommand(sm nexusraft.StateMachine, base *storage.Overlay, index nexusraft.Index, e *zone.Envelope) (a applied, err error) {
	if !e.Request.IsZero() {
		return applied{err: nexusraft.ErrUnknownSession}, nil
	}
	now, err := advanceTime(base, e.Time)
	if err != nil {
		return applied{}, err
	}
	effects := storage.NewOverlay(base)
	if e.Own {
		a, err = applyOwn(effects, now, e.Command)
	} else {
		a, err = applyMachine(sm, effects, nexusraft.Command{Index: index, Time: now, Data: e.Command})
	}
	if err != nil {
		return applied{}, fmt.Errorf("apply command at %d: %w", index, err)
	}
	if a.err == nil {
		effects.MergeInto(base)
	}
	return a, nil
}

func applyMachine(sm nexusraft.StateMachine, effects *storage.Overlay, cmd nexusraft.Command) (a applied, err error) {
	tx := &machineTx{machineReader: machineReader{effects}, overlay: effects, now: cmd.Time}
	a.data, a.err, err = runApply(sm, tx, cmd)
	if tx.err != nil {
		err = tx.err // whatever the state machine has made of it
	}
	if err != nil || a.err != nil || len(tx.events) == 0 {
		return a, err
	}
	a.published = true
	_, err = publishEvents(effects, cmd.Time, tx.events...)
	return a, err
}

var errMachine = errors.New("a command can't be applied, the zone stops on this node")

// runApply turns a panic of the state machine into an error that stops the zone: what it
// left half-done must not become state, and running it elsewhere would end the same way.
func runApply(sm nexusraft.StateMachine, tx nexusraft.Tx, cmd nexusraft.Command) (data []byte, answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the state machine panicked: %v", errMachine, p)
		}
	}()
	data, answer = sm.Apply(tx, cmd)
	return data, answer, nil
}

// advanceTime stores and returns the time of a command: the leader's, unless that went back.
func advanceTime(base *storage.Overlay, leaders int64) (int64, error) {
	b, ok, err := base.Get(timeKey)
	if err != nil {
		return 0, fmt.Errorf("read the zone's time: %w", err)
	}
	if ok && len(b) != 8 {
		return 0, fmt.Errorf("%w: the zone's time has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	if ok {
		leaders = max(leaders, int64(binary.BigEndian.Uint64(b)))
	}
	return leaders, base.Set(timeKey, binary.BigEndian.AppendUint64(nil, uint64(leaders)))
}
