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
	"github.com/tidwall/btree"

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

// Change is one write to a tree. Its slices are the caller's.
type Change struct {
	Kind  ChangeKind
	Key   []byte
	Value []byte
	End   []byte // nil is the tree's end

	// Existed says, of a set or a delete that a WatchExisted delivers, that there was a value before:
	// so a set without it has created the key. Of other changes it is false.
	Existed bool

	// Commit ascends in the order of the commits; what was written together has the same.
	Commit uint64
}

// bytes is what the change takes in a buffer.
func (c Change) bytes() int { return 128 + len(c.Key) + len(c.Value) + len(c.End) }

// Watch is a subscription to a part of a tree: see Tree.Watch. Next and All are for one goroutine
// at a time, Close is for any. Close it when it is no longer needed.
type Watch struct {
	tree         *Tree
	lower, upper []byte // stored form of what is watched: lower <= key < upper
	limit        int
	existed      bool          // Change.Existed is wanted
	wake         chan struct{} // full if there may be something new

	mu    sync.Mutex // guards what follows
	queue []Change
	bytes int   // of queue
	ended error // why nothing is added to queue any more
}

// Watch subscribes to the changes of the keys that begin with prefix, which may be empty: each that
// becomes visible after Watch has returned, once, in the order of the commits. A change may be
// delivered before it is on the disk (see Durability). To have what was there before, too, watch
// first and take a Snapshot then; changes that are in both may be applied again.
//
// A watch buffers 4 MiB of changes and holds up nobody: if its reader falls further behind, it ends
// with ErrLagged after what is buffered. It also ends when its tree is dropped, and with
// nexusraft.ErrClosed when it or the store is closed, or the store dies. While there are watches,
// commits become visible one after the other.
func (t *Tree) Watch(prefix []byte) (*Watch, error) { return t.watch(prefix, false) }

// WatchExisted is Watch with Change.Existed, which tells keys that are created from those that are
// updated. Commits that set or delete what it watches read each such key first.
func (t *Tree) WatchExisted(prefix []byte) (*Watch, error) { return t.watch(prefix, true) }

func (t *Tree) watch(prefix []byte, existed bool) (*Watch, error) {
	if err := t.enter(); err != nil {
		return nil, err
	}
	defer t.s.calls.exit()
	w := &Watch{tree: t, limit: watchBuffer, existed: existed, wake: make(chan struct{}, 1)}
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
		w.tree.s.calls.exit()
		if ok || err != nil {
			return c, err
		}
		select {
		case <-w.wake:
		case <-w.tree.s.failstop.gone:
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
		w.tree.s.watches.left(w)
		w.ended = fmt.Errorf("watch tree %q: %w: %d bytes of changes wait for their reader, of at most %d", w.tree.name,
			ErrLagged, w.bytes, w.limit)
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
	if w.ended == nil {
		w.tree.s.watches.left(w)
	}
	if w.ended == nil || drop {
		w.ended = why
	}
	w.signal()
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

// watches are those of a store that are open, and the tripwires of transactions that commit.
//
// A commit holds order while its batch becomes visible and is handed to the watches, so
// that these see commits in their order. It costs nothing while nobody watches: used becomes
// true with all latches held, so it doesn't while a commit holds some, as each does.
//
// A commit costs what it touches, however many watch: what is watched are prefixes, so that the
// watches of a key are found by looking up those of its beginnings that are as long as some prefix,
// and those of a range, besides, by walking over the prefixes that lie in it.
type watches struct {
	used atomic.Bool

	order   sync.Mutex                  // guards what follows
	open    btree.Map[string, []*Watch] // by lower; none is empty
	lengths map[int]int                 // how many prefixes of open have a length
	wires   []*tripwire
	commits uint64

	leaving sync.Mutex // guards what follows; it is taken after any other lock
	ended   []*Watch   // those of open that have ended
}

func (ws *watches) add(w *Watch) {
	ws.order.Lock()
	defer ws.order.Unlock()
	same, there := ws.open.Get(string(w.lower))
	ws.open.Set(string(w.lower), append(same, w))
	if ws.lengths == nil {
		ws.lengths = make(map[int]int)
	}
	if !there {
		ws.lengths[len(w.lower)]++
	}
	ws.used.Store(true)
}

// left notes that a watch has ended.
func (ws *watches) left(w *Watch) {
	ws.leaving.Lock()
	defer ws.leaving.Unlock()
	ws.ended = append(ws.ended, w)
}

// tidy forgets the watches that have ended, unless somebody commits: it may have to wait for
// the disk, and does it itself the next time.
func (ws *watches) tidy() {
	if ws.order.TryLock() {
		ws.forget()
		ws.order.Unlock()
	}
}

// forget is tidy for a caller that holds order.
func (ws *watches) forget() {
	ws.leaving.Lock()
	ended := ws.ended
	ws.ended = nil
	ws.leaving.Unlock()
	for _, w := range ended {
		ws.remove(w)
	}
	ws.used.Store(ws.open.Len() > 0 || len(ws.wires) > 0)
}

func (ws *watches) remove(w *Watch) {
	same, _ := ws.open.Get(string(w.lower))
	if same = slices.DeleteFunc(same, func(x *Watch) bool { return x == w }); len(same) > 0 {
		ws.open.Set(string(w.lower), same)
		return
	}
	if _, there := ws.open.Delete(string(w.lower)); !there {
		return
	}
	if ws.lengths[len(w.lower)]--; ws.lengths[len(w.lower)] == 0 {
		delete(ws.lengths, len(w.lower))
	}
}

// each calls fn for the open watches that a stored change is for.
func (ws *watches) each(kind pebble.InternalKeyKind, key, end []byte, fn func(*Watch)) {
	for n := range ws.lengths {
		if n > len(key) {
			continue
		}
		same, _ := ws.open.Get(string(key[:n]))
		for _, w := range same {
			fn(w)
		}
	}
	if kind != pebble.InternalKeyKindRangeDelete {
		return
	}
	ws.open.Ascend(string(key), func(lower string, same []*Watch) bool {
		if lower >= string(end) {
			return false
		}
		for _, w := range same {
			if lower != string(key) { // those were found above
				fn(w)
			}
		}
		return true
	})
}

// close ends all watches.
func (ws *watches) close() {
	ws.order.Lock()
	defer ws.order.Unlock()
	ws.open.Scan(func(_ string, same []*Watch) bool {
		for _, w := range same {
			w.end(fmt.Errorf("%w: watch of tree %q", nexusraft.ErrClosed, w.tree.name), true)
		}
		return true
	})
	ws.forget()
}

// news are the changes of one batch that a watch is to have.
type news struct {
	watch   *Watch
	changes []Change
	bytes   int
}

// collect returns what a batch that is about to become visible is to the watches. What is in db
// is what the batch finds there.
func (ws *watches) collect(b *pebble.Batch, db *pebble.DB) []*news {
	ws.forget()
	var all []*news
	before := precedents{db: db}
	found := make(map[*Watch]*news)
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil { // Pebble finds the same error
			return all
		}
		for _, x := range ws.wires {
			x.meets(kind, key, value)
		}
		matters := false
		ws.each(kind, key, value, func(w *Watch) {
			matters = matters || w.existed
			n := found[w]
			if n == nil {
				n = &news{watch: w}
				found[w], all = n, append(all, n)
			}
			n.add(kind, key, value, &before)
		})
		if matters {
			before.note(kind, key, value)
		}
	}
}

// add takes in a change, unless there is more already than the watch has room for.
func (n *news) add(kind pebble.InternalKeyKind, key, value []byte, before *precedents) {
	if n.bytes > n.watch.limit {
		return
	}
	if c, ok := n.watch.clip(kind, key, value); ok {
		if n.watch.existed && c.Kind != ChangeDeleteRange {
			c.Existed = before.exists(key, n.watch)
		}
		n.changes = append(n.changes, c)
		n.bytes += c.bytes()
	}
}

// precedents knows of each key whether it has a value where a batch, which is not visible yet,
// comes to it.
type precedents struct {
	db      *pebble.DB
	keys    btree.Map[string, bool] // stored keys that the batch has set, or has removed
	cleared spans                   // what it has removed as ranges, but for keys
}

// note takes in a change of the batch.
func (x *precedents) note(kind pebble.InternalKeyKind, key, end []byte) {
	if kind != pebble.InternalKeyKindRangeDelete {
		x.keys.Set(string(key), kind == pebble.InternalKeyKindSet)
		return
	}
	var within []string
	x.keys.Ascend(string(key), func(k string, _ bool) bool {
		if k >= string(end) {
			return false
		}
		within = append(within, k)
		return true
	})
	for _, k := range within {
		x.keys.Delete(k)
	}
	if x.cleared.byStart == nil {
		x.cleared = newSpans()
	}
	if s := newSpan(key, end); !s.empty() {
		x.cleared.add(s)
	}
}

// exists reports whether a stored key has a value. If that can't be read, it ends the watch that
// asks.
func (x *precedents) exists(key []byte, w *Watch) bool {
	if set, ok := x.keys.Get(string(key)); ok {
		return set
	}
	if x.cleared.byStart != nil && x.cleared.cover(key) {
		return false
	}
	_, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false
	}
	if err == nil {
		err = closer.Close()
	}
	if err != nil {
		w.end(fmt.Errorf("watch tree %q: %w", w.tree.name, damaged("", err)), false)
	}
	return true
}

// deliver hands over what has become visible.
func (ws *watches) deliver(all []*news) {
	ws.commits++
	for _, n := range all {
		for i := range n.changes {
			n.changes[i].Commit = ws.commits
		}
		if n.bytes > 0 {
			n.watch.put(*n)
		}
	}
}

// drop ends the watches of a tree that was dropped. The caller holds order.
func (ws *watches) drop(t *Tree) {
	ws.ofTree(t, func(w *Watch) { w.end(fmt.Errorf("watch tree %q: %w", t.name, t.gone()), false) })
	ws.forget()
}

// lag ends the watches of a tree that was filled with more than they could hold. The caller holds
// all latches.
func (ws *watches) lag(t *Tree) {
	ws.order.Lock()
	defer ws.order.Unlock()
	for _, x := range ws.wires {
		x.met = true
	}
	ws.ofTree(t, func(w *Watch) {
		w.end(fmt.Errorf("watch tree %q: %w: the whole tree was imported", t.name, ErrLagged), false)
	})
}

// ofTree calls fn for the open watches of a tree. The caller holds order.
func (ws *watches) ofTree(t *Tree, fn func(*Watch)) {
	lower, upper := bounds(t.id, nil, nil)
	ws.open.Ascend(string(lower), func(prefix string, same []*Watch) bool {
		if prefix >= string(upper) {
			return false
		}
		for _, w := range same {
			fn(w)
		}
		return true
	})
}

// tripwire notes whether anything in some ranges changes while it is laid: see Tx.settle.
type tripwire struct {
	spans spans // stored keys
	met   bool  // guarded by order, or by all latches
}

func (x *tripwire) laid() bool { return x.spans.byStart != nil }

// lay puts a tripwire. The caller holds all latches: nobody is in the middle of a commit.
func (ws *watches) lay(x *tripwire) {
	ws.order.Lock()
	defer ws.order.Unlock()
	ws.wires = append(ws.wires, x)
	ws.used.Store(true)
}

// lift takes a tripwire away.
func (ws *watches) lift(x *tripwire) {
	ws.order.Lock()
	defer ws.order.Unlock()
	ws.wires = slices.DeleteFunc(ws.wires, func(y *tripwire) bool { return x == y })
}

// meets looks at a stored change.
func (x *tripwire) meets(kind pebble.InternalKeyKind, key, end []byte) {
	switch {
	case x.met:
	case kind == pebble.InternalKeyKindRangeDelete:
		x.met = x.spans.overlaps(span{key, end})
	default:
		x.met = x.spans.cover(key)
	}
}
