package machinetest

import (
	"bytes"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// counted is a replica's state machine, whose calls are counted, and which gets borrowed memory that is spoilt
// when it is not borrowed any more.
type counted struct{ r *replica }

// Apply implements nexusraft.StateMachine.
func (c counted) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	lender := &lender{Tx: tx, r: c.r}
	result, err := c.r.machine.Apply(lender, cmd)
	result = bytes.Clone(result) // it may be what was read last
	lender.takeBack()
	return result, err
}

// lender is a nexusraft.Tx that takes back what it has lent with the next call.
type lender struct {
	nexusraft.Tx
	r    *replica
	lent [][]byte
}

func (l *lender) call() {
	l.r.calls++
	l.takeBack()
}

func (l *lender) takeBack() {
	for _, b := range l.lent {
		spoil(b)
	}
	l.lent = l.lent[:0]
}

func (l *lender) lend(b []byte) []byte {
	b = bytes.Clone(b)
	l.lent = append(l.lent, b)
	return b
}

// spoil overwrites what somebody might have kept.
func spoil(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}

func (l *lender) Get(key []byte) ([]byte, bool, error) {
	key = bytes.Clone(key) // it may be lent
	l.call()
	v, ok, err := l.Tx.Get(key)
	return l.lend(v), ok, err
}

func (l *lender) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return l.steps(l.Tx.Scan(bytes.Clone(start), bytes.Clone(end)))
}

func (l *lender) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return l.steps(l.Tx.ScanReverse(bytes.Clone(start), bytes.Clone(end)))
}

func (l *lender) steps(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range pairs {
			l.call()
			if !yield(nexusraft.Pair{Key: l.lend(p.Key), Value: l.lend(p.Value)}, err) {
				return
			}
		}
	}
}

func (l *lender) Set(key, value []byte) error {
	l.r.calls++
	return l.Tx.Set(key, value)
}

func (l *lender) Delete(key []byte) error {
	l.r.calls++
	return l.Tx.Delete(key)
}

func (l *lender) DeleteRange(start, end []byte) error {
	l.r.calls++
	return l.Tx.DeleteRange(start, end)
}

func (l *lender) Publish(topic, kind string, payload []byte) error {
	l.r.calls++
	return l.Tx.Publish(topic, kind, payload)
}
