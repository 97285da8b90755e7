package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ErrConflict: what a transaction has read was changed by others before it could commit.
// Nothing was written; run it again.
var ErrConflict = errors.New("storage: transaction conflicts with other writes, nothing was written")

// maxAttempts is how often Transact runs a transaction.
const maxAttempts = 100

// Tx is a transaction over any trees of one store. It reads a snapshot and keeps its writes to
// itself. It commits only if all that it has read, absent keys included, is still as it was read:
// it is as if it had run at that moment. It holds up nobody while it runs, and others only shortly
// while it commits. It is for one goroutine. Close it when it is no longer needed.
type Tx struct {
	s        *Store
	snap     *Snapshot
	overlays map[*Tree]*Overlay
	reads    []txRead
	latches  latchSet // of reads
	scanned  int      // pairs that scans have read
	loops    int      // scans that are running
	ended    bool
}

// Begin returns a new transaction. Of a store that is closed or dead, it is one that
// returns errors.
func (s *Store) Begin() *Tx {
	return &Tx{s: s, snap: s.NewSnapshot(), overlays: make(map[*Tree]*Overlay)}
}

// Tree returns the transaction's view of a tree, where it reads and writes. It may be used
// until the transaction ends.
func (tx *Tx) Tree(t *Tree) nexusraft.ReadWriter {
	o := tx.overlays[t]
	if o == nil {
		o = NewOverlay(&recorder{tx: tx, tree: t, view: tx.snap.Reader(t)})
		tx.overlays[t] = o
	}
	return txTree{tx, o}
}

// txTree is what is seen of a tree until the transaction ends.
type txTree struct {
	tx *Tx
	o  *Overlay
}

func (t txTree) usable() error {
	if t.tx.ended {
		return errors.New("use transaction: it has ended")
	}
	return nil
}

// Get implements nexusraft.Reader.
func (t txTree) Get(key []byte) ([]byte, bool, error) {
	if err := t.usable(); err != nil {
		return nil, false, err
	}
	return t.o.Get(key)
}

// Scan implements nexusraft.Reader.
func (t txTree) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.whileUsable(t.o.Scan(start, end))
}

// ScanReverse implements nexusraft.Reader.
func (t txTree) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.whileUsable(t.o.ScanReverse(start, end))
}

// whileUsable yields pairs, or an error if the transaction has ended before the first one.
func (t txTree) whileUsable(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		if err := t.usable(); err != nil {
			yield(nexusraft.Pair{}, err)
			return
		}
		pairs(yield)
	}
}

// Set implements nexusraft.ReadWriter.
func (t txTree) Set(key, value []byte) error {
	if err := t.usable(); err != nil {
		return err
	}
	return t.o.Set(key, value)
}

// Delete implements nexusraft.ReadWriter.
func (t txTree) Delete(key []byte) error {
	if err := t.usable(); err != nil {
		return err
	}
	return t.o.Delete(key)
}

// Commit ends the transaction and does its writes. It returns ErrConflict if others have
// changed what it has read; one that has written nothing always succeeds. Other errors are
// those of Batch.
func (tx *Tx) Commit(d ...Durability) error {
	wait, err := tx.commit(tx.s.syncs(d))
	if err != nil {
		return err
	}
	return wait()
}

// Close ends the transaction. Without a Commit before, nothing of it is left. A second
// Close does nothing.
func (tx *Tx) Close() {
	tx.ended = true
	tx.snap.Close()
}

// Transact runs fn in a transaction and commits it. An error of fn is returned as it is, and
// nothing is written. If others have changed what fn has read, fn runs again in a new transaction,
// up to 100 times, after which ErrConflict is returned; so fn must change nothing but tx, and must
// not keep it. Transactions that run again take turns: fn must not call Transact. ctx bounds the
// waiting for a turn, and ends the attempts: then nothing was written.
func (s *Store) Transact(ctx context.Context, fn func(tx *Tx) error, d ...Durability) error {
	wait, err := s.transact(ctx, fn, s.syncs(d))
	if err != nil {
		return err
	}
	return wait()
}

// transact is Transact up to the moment when the writes are visible.
func (s *Store) transact(ctx context.Context, fn func(tx *Tx) error, sync bool) (wait func() error, err error) {
	for attempt := range maxAttempts {
		if attempt == 1 {
			select {
			case s.turn <- struct{}{}:
				defer func() { <-s.turn }()
			case <-ctx.Done():
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("run transaction, nothing was written: %w", err)
		}
		wait, conflict, err := s.attempt(fn, sync)
		if !conflict {
			return wait, err
		}
	}
	return nil, fmt.Errorf("run transaction %d times: %w", maxAttempts, ErrConflict)
}

func (s *Store) attempt(fn func(tx *Tx) error, sync bool) (wait func() error, conflict bool, err error) {
	tx := s.Begin()
	defer tx.Close()
	if err := fn(tx); err != nil {
		return nil, false, err
	}
	wait, err = tx.commit(sync)
	return wait, errors.Is(err, ErrConflict), err
}

// commit is Commit up to the moment when the writes are visible.
func (tx *Tx) commit(sync bool) (wait func() error, err error) {
	switch {
	case tx.ended:
		return nil, errors.New("commit transaction: it has ended")
	case tx.loops > 0:
		return nil, errors.New("commit transaction: a loop over one of its scans is still running")
	}
	defer tx.Close()
	written, set := tx.written()
	if len(written) == 0 {
		return tx.s.dead, tx.s.alive()
	}
	wire, err := tx.settle()
	if err != nil {
		return nil, err
	}
	if wire.laid() {
		defer tx.s.watches.lift(wire)
	}
	b, err := tx.s.publish(tx.latches|set, sync, func(b *Batch) error {
		if err := tx.check(wire); err != nil {
			return err
		}
		for _, t := range written {
			if err := tx.overlays[t].WriteTo(b, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.finish, nil
}

// settleScanned is how many pairs a transaction scans before its commit checks them beforehand.
const settleScanned = 1000

// settle checks what the transaction has read, if that is much, while others go on to write, and
// returns what tells whether it has to be checked once more.
//
// The problem: what was read must be the same at the moment of the commit, in which nobody may
// write, and reading a million pairs again takes a good part of a second.
//
// The way: with a tripwire laid around what was read all of it is read again, from a snapshot that
// was taken as the wire was laid. If the wire is still untouched at the moment of the commit,
// nothing has changed since; if it is not, what was read is checked at that moment, as if it were
// little.
//
// Rejected: locks that a transaction holds while it runs (a caller's function would hold up all
// writers, and wait for itself where it writes besides); versions of stripes in the place of what
// was read (on a busy store a scan would never find them unchanged).
func (tx *Tx) settle() (*tripwire, error) {
	wire := &tripwire{met: true}
	if tx.scanned < settleScanned {
		return wire, nil
	}
	snap := tx.lay(wire)
	defer snap.Close()
	for i := range tx.reads {
		r := &tx.reads[i]
		if err := r.check(snap.Reader(r.tree)); err != nil {
			tx.s.watches.lift(wire)
			return nil, err
		}
	}
	return wire, nil
}

// lay puts the tripwire around what was read, and returns a snapshot as of that moment.
func (tx *Tx) lay(wire *tripwire) *Snapshot {
	wire.met, wire.spans = false, newSpans()
	for i := range tx.reads {
		if s := tx.reads[i].span(); !s.empty() {
			wire.spans.add(s)
		}
	}
	tx.s.latches.lock(allLatches)
	defer tx.s.latches.unlock(allLatches)
	tx.s.watches.lay(wire)
	return tx.s.NewSnapshot()
}

// check returns ErrConflict unless all reads would be the same now. The caller holds their latches.
func (tx *Tx) check(wire *tripwire) error {
	if !wire.met {
		return nil
	}
	for i := range tx.reads {
		if err := tx.reads[i].check(tx.reads[i].tree); err != nil {
			return err
		}
	}
	return nil
}

// written returns the trees that the transaction writes, in a fixed order, and the
// latches of their keys.
func (tx *Tx) written() (trees []*Tree, set latchSet) {
	var stored []byte
	for t, o := range tx.overlays {
		if o.Len() == 0 {
			continue
		}
		trees = append(trees, t)
		o.writes.Scan(func(w write) bool {
			stored = appendKey(stored[:0], t.id, w.key)
			set |= tx.s.latches.of(stored)
			return true
		})
	}
	slices.SortFunc(trees, func(a, b *Tree) int { return cmp.Compare(a.id, b.id) })
	return trees, set
}

// txRead is something that a transaction has read from the store, not from its own writes.
type txRead struct {
	tree       *Tree
	key        []byte // if not nil, this key alone
	start, end []byte // the part of a range that was read
	reverse    bool
	sum        Checksum
}

// rereader is a tree as it is now, or as a snapshot has it.
type rereader interface {
	Get(key []byte) ([]byte, bool, error)
	scan(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error]
}

// check returns ErrConflict unless a reader would see the same there.
func (r *txRead) check(there rereader) error {
	sum := newSummer()
	if r.key != nil {
		value, ok, err := there.Get(r.key)
		if err != nil {
			return err
		}
		if ok {
			sum.add(r.key, value)
		}
	} else {
		for p, err := range there.scan(r.start, r.end, r.reverse) {
			if err != nil {
				return err
			}
			sum.add(p.Key, p.Value)
		}
	}
	if sum.checksum() != r.sum {
		return ErrConflict
	}
	return nil
}

// span returns the stored keys that were read.
func (r *txRead) span() span {
	start, end := r.start, r.end
	if r.key != nil {
		start, end = r.key, after(r.key)
	}
	lower, upper := bounds(r.tree.id, start, end)
	return span{lower, upper}
}

// recorder reads a tree for a transaction, which it tells what was read.
type recorder struct {
	tx   *Tx
	tree *Tree
	view *TreeView
}

// usable returns why nothing can be read.
func (r *recorder) usable() error {
	if r.tree.s != r.tx.s {
		return fmt.Errorf("read in transaction: tree %q is of store %s, the transaction of %s", r.tree.name, r.tree.s.dir,
			r.tx.s.dir)
	}
	return nil
}

// Get implements nexusraft.Reader.
func (r *recorder) Get(key []byte) ([]byte, bool, error) {
	if err := r.usable(); err != nil {
		return nil, false, err
	}
	value, ok, err := r.view.Get(key)
	if err != nil {
		return nil, false, err
	}
	sum := newSummer()
	if ok {
		sum.add(key, value)
	}
	r.tx.reads = append(r.tx.reads, txRead{tree: r.tree, key: append([]byte{}, key...), sum: sum.checksum()})
	r.tx.latches |= r.tx.s.latches.of(appendKey(nil, r.tree.id, key))
	return value, ok, nil
}

// Scan implements nexusraft.Reader.
func (r *recorder) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.scan(start, end, false)
}

// ScanReverse implements nexusraft.Reader.
func (r *recorder) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.scan(start, end, true)
}

// scan records the part of the range that was read, when the loop ends.
func (r *recorder) scan(start, end []byte, reverse bool) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		if err := r.usable(); err != nil {
			yield(nexusraft.Pair{}, err)
			return
		}
		read := txRead{tree: r.tree, start: slices.Clone(start), end: slices.Clone(end), reverse: reverse}
		sum := newSummer()
		r.tx.loops++
		for p, err := range r.view.scan(start, end, reverse) {
			sum.add(p.Key, p.Value)
			r.tx.scanned++
			if !yield(p, err) {
				read.stopAt(slices.Clone(p.Key))
				break
			}
		}
		r.tx.loops--
		read.sum = sum.checksum()
		r.tx.reads = append(r.tx.reads, read)
		r.tx.latches = allLatches
	}
}

// stopAt notes that the loop has ended with key.
func (r *txRead) stopAt(key []byte) {
	if r.reverse {
		r.start = key
	} else {
		r.end = after(key)
	}
}
