package etcd

import (
	"bytes"
	"slices"

	"github.com/nexi-lab/nexus-raft/internal/feed"
)

// watch is one watch of a stream.
type watch struct {
	id       int64
	want     feed.Want
	from     int64 // no change of an earlier revision is sent
	fragment bool
	counted  int64 // bytes, in Watches.bytes
	gone     bool  // it was cancelled

	progress bool  // it is told now and then how far it is
	due      int64 // when, if nothing else is sent to it before: nanoseconds since the stream began
}

// open reports whether a watch has all keys from its first one on.
func (w *watch) open() bool { return len(w.want.RangeEnd) == 1 && w.want.RangeEnd[0] == 0 }

// last returns a bound that no key of the watch is above; nil: there is none.
func (w *watch) last() []byte {
	switch {
	case w.open():
		return nil
	case len(w.want.RangeEnd) == 0:
		return w.want.Key
	}
	return w.want.RangeEnd
}

// unsorted is up to how many watches are looked at one by one for each change.
const unsorted = 64

// watchIndex finds the watches of a key among many: those in sorted by their first keys, as a balanced tree whose
// root is in the middle, and so on; a few more one by one. Cancelled ones go when it is sorted anew.
type watchIndex struct {
	sorted []*watch
	last   [][]byte // of the watches below and at each place of sorted, the highest last; nil: there is none
	rest   []*watch
	gone   int   // cancelled ones in sorted and rest
	dead   int64 // bytes of those, which do not count any more: never more than live
	live   int64 // bytes of the others
}

// add adds a watch.
func (x *watchIndex) add(w *watch) {
	x.live += w.counted
	if x.rest = append(x.rest, w); len(x.rest) > max(unsorted, len(x.sorted)/16) {
		x.sort()
	}
}

// cancelled notes that one of its watches was.
func (x *watchIndex) cancelled(w *watch) {
	x.gone, x.dead, x.live = x.gone+1, x.dead+w.counted, x.live-w.counted
	if x.gone > max(unsorted, len(x.sorted)/2) || x.dead > x.live {
		x.sort()
	}
}

func (x *watchIndex) sort() {
	x.sorted, x.rest, x.gone = append(x.sorted, x.rest...), nil, 0
	x.dead = 0
	x.sorted = slices.DeleteFunc(x.sorted, func(w *watch) bool { return w.gone })
	slices.SortFunc(x.sorted, func(a, b *watch) int { return bytes.Compare(a.want.Key, b.want.Key) })
	x.last = make([][]byte, len(x.sorted))
	x.bound(0, len(x.sorted))
}

// bound sets last for sorted[from:to], and returns its root's; false: there is none.
func (x *watchIndex) bound(from, to int) (last []byte, bounded bool) {
	if from == to {
		return nil, true
	}
	root := (from + to) / 2
	last = x.sorted[root].last()
	bounded = last != nil
	for _, part := range [...][2]int{{from, root}, {root + 1, to}} {
		below, ok := x.bound(part[0], part[1])
		if bounded = bounded && ok; bytes.Compare(below, last) > 0 {
			last = below
		}
	}
	if !bounded {
		last = nil
	}
	x.last[root] = last
	return last, bounded
}

// each calls fn for each watch of a key, until it returns false, which it returns then.
func (x *watchIndex) each(key []byte, fn func(*watch) bool) bool {
	for _, w := range x.rest {
		if !w.gone && w.want.Has(key) && !fn(w) {
			return false
		}
	}
	return x.find(key, 0, len(x.sorted), fn)
}

func (x *watchIndex) find(key []byte, from, to int, fn func(*watch) bool) bool {
	for from < to {
		root := (from + to) / 2
		if last := x.last[root]; last != nil && bytes.Compare(last, key) < 0 {
			return true
		}
		if !x.find(key, from, root, fn) {
			return false
		}
		w := x.sorted[root]
		if bytes.Compare(w.want.Key, key) > 0 {
			return true
		}
		if !w.gone && w.want.Has(key) && !fn(w) {
			return false
		}
		from = root + 1
	}
	return true
}

// has reports whether any watch has a key.
func (x *watchIndex) has(key []byte) bool { return !x.each(key, func(*watch) bool { return false }) }
