package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ErrLagged: the reader of a Watch was too slow, or a batch was too large for its buffer,
// and changes were left out. Watch again, and then read the tree.
var ErrLagged = errors.New("storage: watch fell behind, changes were left out")

// watchBuffer is how many bytes of changes a Watch holds for its reader.
const watchBuffer = 4 << 20

// ChangeKind says what a Change does.
type ChangeKind int

// The kinds of changes.
const (
	ChangeSet         ChangeKind = iota // Key has Value now
	ChangeDelete                        // Key was removed; it may have been absent
	ChangeDeleteRange                   // all keys from Key up to End were removed
)

// Change is one write to a tree. Its slices belong to whoever has got it.
type Change struct {
	Kind  ChangeKind
	Key   []byte
	Value []byte
	End   []byte // nil is the tree's end

	// Commit ascends in the order of the commits; what was written together has the same.
	Commit uint64
}

// bytes is what the change takes in a buffer.
func (c Change) bytes() int { return 128 + len(c.Key) + len(c.Value) + len(c.End) }

// Watch is a subscription to a part of a tree: see Tree.Watch. Next and All are for one goroutine at a time,
// Close is for any. Close it when it is no longer needed.
type Watch struct {
	tree         *Tree
	lower, upper []byte // stored form of what is watched: lower <= key < upper
	limit        int
	wake         chan struct{} // full if there may be something new

	mu    sync.Mutex // guards what follows
	queue []Change
	bytes int   // of queue
	ended error // why nothing is added to queue any more
}

// Watch subscribes to all changes of the keys that begin with prefix, which may be empty:
// each that becomes visible after Watch has returned, once, in the order of the commits. Changes
// need not be on the disk yet when they are delivered, see Durability. Who wants what was
// there before, too, watches first and takes a Snapshot then; what is in both can
// be told by nothing, and does no harm if changes are applied to what was read.
//
// A watch waits for nobody and holds up nobody: it buffers 4 MiB of changes, and if its
// reader falls behind by more than that, it ends with ErrLagged after what it has buffered.
// It ends with an error, too, when the tree is dropped, and with nexusraft.ErrClosed when it or the store
// is closed, or the store dies. While anybody watches, the commits of the store become visible one
// after the other.
func (t *Tree) Watch(prefix []byte) (*Watch, error) {
	if err := t.enter(); err != nil {
		return nil, err
	}
	defer t.s.gate.exit()
	w := &Watch{tree: t, limit: watchBuffer, wake: make(chan struct{}, 1)}
	w.lower, w.upper = bounds(t.id, prefix, prefixEnd(prefix))
	t.s.latches.lock(allLatches) // nobody is in the middle of a commit now
	defer t.s.latches.unlock(allLatches)
	if err := t.gone(); err != nil {
		return nil, err
	}
	t.s.watches.add(w)
	return w, nil
}

// Next returns the next change. It waits for one until ctx ends, which leaves the
// watch as it is, or the watch has ended.
func (w *Watch) Next(ctx context.Context) (Change, error) {
	for {
		if err := w.tree.s.enter(); err != nil {
			return Change{}, fmt.Errorf("watch tree %q: %w", w.tree.name, err)
		}
		c, ok, err := w.take()
		w.tree.s.gate.exit()
		if ok || err != nil {
			return c, err
		}
		select {
		case <-w.wake:
		case <-w.tree.s.fence.gone:
		case <-ctx.Done():
			return Change{}, fmt.Errorf("watch tree %q: %w", w.tree.name, context.Cause(ctx))
		}
	}
}

// All yields what Next returns, until it returns an error, which comes last.
func (w *Watch) All(ctx context.Context) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for {
			c, err := w.Next(ctx)
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the watch. A second Close does nothing.
func (w *Watch) Close() {
	w.end(fmt.Errorf("%w: watch of tree %q", nexusraft.ErrClosed, w.tree.name), true)
	w.tree.s.watches.tidy()
}

// take returns the oldest change of the queue, if there is one; if there will be none, why.
func (w *Watch) take() (Change, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return Change{}, false, w.ended
	}
	c := w.queue[0]
	w.queue[0] = Change{}
	w.queue = w.queue[1:]
	w.bytes -= c.bytes()
	return c, true, nil
}

// put adds the changes of one commit, all of them or, if there is no room, none.
func (w *Watch) put(n news) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return
	}
	if w.bytes+n.bytes > w.limit {
		w.ended = fmt.Errorf("watch tree %q: %w: %d bytes of changes wait for their reader, of at most %d", w.tree.name, ErrLagged, w.bytes, w.limit)
	} else {
		w.bytes += n.bytes
		w.queue = append(w.queue, n.changes...)
	}
	w.signal()
}

// end ends the watch for the reason that is given; the first one counts. It forgets what is
// not read yet if drop is set.
func (w *Watch) end(why error, drop bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if drop {
		w.queue, w.bytes = nil, 0
	}
	if w.ended == nil || drop {
		w.ended = why
	}
	w.signal()
}

func (w *Watch) hasEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended != nil
}

func (w *Watch) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// clip returns the part of a stored change that is watched, and whether there is one.
func (w *Watch) clip(kind pebble.InternalKeyKind, key, value []byte) (c Change, ok bool) {
	if kind == pebble.InternalKeyKindRangeDelete {
		return w.clipRange(key, value)
	}
	if bytes.Compare(key, w.lower) < 0 || bytes.Compare(key, w.upper) >= 0 {
		return Change{}, false
	}
	c = Change{Kind: ChangeDelete, Key: bytes.Clone(key[prefixBytes:])}
	if kind == pebble.InternalKeyKindSet {
		c.Kind, c.Value = ChangeSet, append([]byte{}, value...)
	}
	return c, true
}

func (w *Watch) clipRange(lower, upper []byte) (c Change, ok bool) {
	if bytes.Compare(lower, w.lower) < 0 {
		lower = w.lower
	}
	if bytes.Compare(upper, w.upper) > 0 {
		upper = w.upper
	}
	if bytes.Compare(lower, upper) >= 0 {
		return Change{}, false
	}
	c = Change{Kind: ChangeDeleteRange, Key: bytes.Clone(lower[prefixBytes:])}
	if binary.BigEndian.Uint32(upper) == w.tree.id {
		c.End = bytes.Clone(upper[prefixBytes:])
	}
	return c, true
}

// watches are those of a store that are open.
//
// Who commits holds order while its batch becomes visible and is handed to the watches, so
// that these see commits in their order. It costs nothing while nobody watches: used becomes
// true with all latches held, so it doesn't for who holds some, as everyone does who commits.
type watches struct {
	used atomic.Bool

	order   sync.Mutex // guards what follows
	open    []*Watch
	commits uint64
}

func (ws *watches) add(w *Watch) {
	ws.order.Lock()
	defer ws.order.Unlock()
	ws.open = append(ws.open, w)
	ws.used.Store(true)
}

// tidy forgets the watches that have ended, unless somebody commits: it may have to wait for
// the disk, and does it itself the next time.
func (ws *watches) tidy() {
	if ws.order.TryLock() {
		ws.forget()
		ws.order.Unlock()
	}
}

// forget is tidy for who holds order.
func (ws *watches) forget() {
	ws.open = slices.DeleteFunc(ws.open, (*Watch).hasEnded)
	ws.used.Store(len(ws.open) > 0)
}

// close ends all watches.
func (ws *watches) close() {
	ws.order.Lock()
	defer ws.order.Unlock()
	for _, w := range ws.open {
		w.end(fmt.Errorf("%w: watch of tree %q", nexusraft.ErrClosed, w.tree.name), true)
	}
	ws.open = nil
	ws.used.Store(false)
}

// news are the changes of one batch that a watch is to have.
type news struct {
	watch   *Watch
	changes []Change
	bytes   int
}

// collect returns what a batch that is about to become visible is to those who watch.
func (ws *watches) collect(b *pebble.Batch) []news {
	ws.forget()
	var all []news
	for _, w := range ws.open {
		if n := w.collect(b); n.bytes > 0 {
			all = append(all, n)
		}
	}
	return all
}

func (w *Watch) collect(b *pebble.Batch) news {
	n := news{watch: w}
	for r := b.Reader(); n.bytes <= w.limit; { // more would not fit anyway
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil { // Pebble finds the same error
			break
		}
		if c, ok := w.clip(kind, key, value); ok {
			n.changes = append(n.changes, c)
			n.bytes += c.bytes()
		}
	}
	return n
}

// deliver hands over what has become visible.
func (ws *watches) deliver(all []news) {
	ws.commits++
	for _, n := range all {
		for i := range n.changes {
			n.changes[i].Commit = ws.commits
		}
		n.watch.put(n)
	}
}

// drop ends the watches of a tree that was dropped. The caller holds order.
func (ws *watches) drop(t *Tree) {
	for _, w := range ws.open {
		if w.tree == t {
			w.end(fmt.Errorf("watch tree %q: %w", t.name, t.gone()), false)
		}
	}
	ws.forget()
}
