package kv

import (
	"bytes"
	"iter"
	"maps"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// memTx is a state tree in a map. What it lends is zeroed as soon as the contract
// allows, so that code which keeps a borrowed slice fails. After failAfter calls each one
// fails with failure, if that is set.
type memTx struct {
	m         map[string]string
	lent      [][]byte
	calls     int
	failAfter int
	failure   error
	events    []published
	version   uint32 // the zone's

	undo map[string]*string // what the command that runs has changed: as it was, nil if it was not there
}

type published struct{ topic, kind, payload string }

// newTx returns an empty key space that keeps old revisions.
func newTx() *memTx { return &memTx{m: make(map[string]string), version: VersionLeases} }

// newNewestTx returns one of a zone whose nodes are not all of this release.
func newNewestTx() *memTx { return &memTx{m: make(map[string]string)} }

func (t *memTx) next() error {
	for _, b := range t.lent {
		clear(b)
	}
	t.lent = t.lent[:0]
	t.calls++
	if t.failure != nil && t.calls > t.failAfter {
		return t.failure
	}
	return nil
}

func (t *memTx) DeleteRange(start, end []byte) error {
	if err := t.next(); err != nil {
		return err
	}
	if len(start) >= storage.MaxKeyBytes || len(end) >= storage.MaxKeyBytes { // one byte is the node's
		return nexusraft.ErrTooLarge
	}
	maps.DeleteFunc(t.m, func(k, _ string) bool {
		in := k >= string(start) && (end == nil || k < string(end))
		if in {
			t.changes(k)
		}
		return in
	})
	return nil
}

// changes notes what a key was before the command.
func (t *memTx) changes(k string) {
	if _, noted := t.undo[k]; noted || t.undo == nil {
		return
	}
	t.undo[k] = nil
	if v, ok := t.m[k]; ok {
		t.undo[k] = &v
	}
}

func (t *memTx) lend(s string) []byte {
	b := []byte(s)
	t.lent = append(t.lent, b)
	return b
}

func (t *memTx) Get(key []byte) ([]byte, bool, error) {
	v, ok := t.m[string(key)]
	if err := t.next(); err != nil || !ok {
		return nil, false, err
	}
	return t.lend(v), true, nil
}

func (t *memTx) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.walk(start, end, false)
}

func (t *memTx) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.walk(start, end, true)
}

func (t *memTx) walk(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error] {
	keys := slices.Sorted(maps.Keys(t.m))
	if reverse {
		slices.Reverse(keys)
	}
	return func(yield func(nexusraft.Pair, error) bool) {
		for _, k := range keys {
			if k < string(start) || end != nil && k >= string(end) {
				continue
			}
			if err := t.next(); err != nil {
				yield(nexusraft.Pair{}, err)
				return
			}
			if !yield(nexusraft.Pair{Key: t.lend(k), Value: t.lend(t.m[k])}, nil) {
				return
			}
		}
	}
}

func (t *memTx) Set(key, value []byte) error {
	k, v := string(key), string(value)
	if err := t.next(); err != nil {
		return err
	}
	t.changes(k)
	t.m[k] = v
	return nil
}

func (t *memTx) Delete(key []byte) error {
	k := string(key)
	if err := t.next(); err != nil {
		return err
	}
	t.changes(k)
	delete(t.m, k)
	return nil
}

func (t *memTx) Publish(topic, kind string, payload []byte) error {
	e := published{topic, kind, string(payload)}
	if err := t.next(); err != nil {
		return err
	}
	t.events = append(t.events, e)
	return nil
}

func (*memTx) Note(any) {}

// apply runs a command as a node does: its data is void afterwards.
func apply(t testing.TB, tx *memTx, command []byte) []byte {
	t.Helper()
	result, err := tryApply(tx, command)
	if err != nil {
		t.Fatalf("Apply(%.100x): %v", command, err)
	}
	return result
}

// tryApply is apply for a command that may fail: then nothing that it has done is kept.
func tryApply(tx *memTx, command []byte) ([]byte, error) {
	data := bytes.Clone(command)
	events := len(tx.events)
	tx.undo = make(map[string]*string)
	result, err := StateMachine{}.Apply(tx, nexusraft.Command{Data: data, Version: tx.version})
	if err != nil {
		tx.events = tx.events[:events]
		for k, v := range tx.undo {
			if delete(tx.m, k); v != nil {
				tx.m[k] = *v
			}
		}
	}
	clear(data)
	return result, err
}
