package lessor

import (
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/nexi-lab/nexus-raft/kv"
)

// mostASecond is how many of the leases that a new leader finds run out in any second, at most.
const mostASecond = 750

// lease is one that is there, as far as is known. It has some 90 B with its places in the map and the heap.
type lease struct {
	id, ttl    int64 // seconds
	generation int64 // the newest one that is known
	deadline   time.Duration
	renewed    time.Duration // when the deadline was set
	place      int32         // in the heap; -1: its expiry is under way
	busy       uint8         // commands about it that are under way, of an expiry or a checkpoint: it can't be renewed
	anew       bool          // granted anew since its expiry began
}

// deadlines are the leases of a zone that this node leads in a term: memory of what the state has.
type deadlines struct {
	generation int64 // up to which the state's leases are known
	byID       map[int64]*lease
	order      order
}

func newDeadlines() deadlines { return deadlines{byID: make(map[int64]*lease)} }

// after returns the time so many seconds after another.
func after(at time.Duration, seconds int64) time.Duration {
	if seconds > int64((math.MaxInt64-at)/time.Second) {
		return math.MaxInt64
	}
	return at + time.Duration(seconds)*time.Second
}

// left returns how many seconds a lease of the state has.
func left(l kv.Lease) int64 {
	switch {
	case l.Revoking:
		return 0
	case l.Remaining > 0:
		return l.Remaining
	}
	return l.TTL
}

// load adds a lease that a new leader has found, in any order; spread follows.
func (d *deadlines) load(l kv.Lease, now, more time.Duration) {
	x := &lease{id: l.ID, ttl: l.TTL, generation: l.Generation, renewed: now, place: int32(len(d.order))}
	x.deadline = after(now, left(l))
	if !l.Revoking && x.deadline < math.MaxInt64-more {
		x.deadline += more
	}
	d.byID[l.ID] = x
	d.order = append(d.order, x)
}

// spread ends a load: leases that would run out at once do so one after the other.
func (d *deadlines) spread() {
	slices.SortFunc(d.order, func(a, b *lease) int { // a sorted list is a heap
		if a.deadline != b.deadline {
			return int(max(-1, min(1, a.deadline-b.deadline)))
		}
		return int(max(-1, min(1, a.id-b.id)))
	})
	for i, x := range d.order {
		x.place = int32(i)
		if i >= mostASecond {
			x.deadline = max(x.deadline, after(d.order[i-mostASecond].deadline, 1))
		}
	}
}

// hear takes a lease as the state has it since the last look.
func (d *deadlines) hear(l kv.Lease, now time.Duration) {
	x := d.byID[l.ID]
	switch {
	case x == nil:
		d.add(l, after(now, left(l)), now)
		return
	case l.Generation <= x.generation:
		return
	}
	other := l.TTL != x.ttl
	x.generation, x.ttl = l.Generation, l.TTL
	switch {
	case l.Revoking:
		d.set(x, now, now)
	case other: // granted anew, and of the one before nothing counts
		x.anew = x.place < 0
		d.set(x, after(now, left(l)), now)
	case l.Remaining == 0: // granted anew, or renewed after a checkpoint
		x.anew = x.place < 0
		d.set(x, max(x.deadline, after(now, l.TTL)), now)
	default: // a checkpoint, which this lessor has made from the deadline that it has
	}
}

// renew gives a lease of the state all of its time from when it was asked for; one that is not known as it is, from now
// on: it may have been granted since.
func (d *deadlines) renew(l kv.Lease, asked, now time.Duration) {
	x := d.byID[l.ID]
	switch {
	case x == nil:
		d.add(l, after(now, l.TTL), now)
	case x.generation < l.Generation:
		d.hear(l, now)
	default:
		d.set(x, max(x.deadline, after(asked, l.TTL)), now)
	}
}

// add adds a lease.
func (d *deadlines) add(l kv.Lease, deadline, now time.Duration) {
	x := &lease{id: l.ID, ttl: l.TTL, generation: l.Generation, deadline: deadline, renewed: now}
	d.byID[l.ID] = x
	heap.Push(&d.order, x)
}

// set sets a lease's deadline.
func (d *deadlines) set(x *lease, deadline, now time.Duration) {
	x.deadline, x.renewed = deadline, now
	if x.place >= 0 {
		heap.Fix(&d.order, int(x.place))
	}
}

// back takes a lease whose expiry has come to nothing back.
func (d *deadlines) back(x *lease) {
	x.anew = false
	heap.Push(&d.order, x)
}

// drop forgets a lease.
func (d *deadlines) drop(x *lease) {
	delete(d.byID, x.id)
	if x.place >= 0 {
		heap.Remove(&d.order, int(x.place))
	}
}

// due takes out up to so many leases that have run out: their expiry is under way from then on.
func (d *deadlines) due(now time.Duration, most int) (all []*lease) {
	for len(d.order) > 0 && d.order[0].deadline <= now && len(all) < most {
		x := heap.Pop(&d.order).(*lease)
		x.busy++
		all = append(all, x)
	}
	return all
}

// unrenewed returns the leases that were not renewed for some time, and what is left of them; none of those that are
// about to run out, or that have all of their time. A command about each is under way from then on.
func (d *deadlines) unrenewed(now, since time.Duration) (leases []*lease, all []kv.Remaining) {
	for _, x := range d.order {
		if x.busy > 0 || now-x.renewed < since || x.deadline-now < time.Second {
			continue
		}
		seconds := int64((x.deadline - now + time.Second - 1) / time.Second)
		if seconds < x.ttl {
			x.busy++
			leases = append(leases, x)
			all = append(all, kv.Remaining{ID: x.id, Generation: x.generation, Seconds: seconds})
		}
	}
	return leases, all
}

// tooMany reports whether far more is known than the state has.
func (d *deadlines) tooMany(counts kv.LeaseCounts) bool {
	return int64(len(d.byID)) > 2*counts.Count+16
}

// keep forgets leases that the state did not have when it had given a generation. A lease of a higher one may be
// younger.
func (d *deadlines) keep(has map[int64]struct{}, generation int64) {
	for id, x := range d.byID {
		if _, ok := has[id]; !ok && x.generation <= generation && x.place >= 0 {
			d.drop(x)
		}
	}
}

// order is a heap of leases by deadline.
type order []*lease

func (h order) Len() int           { return len(h) }
func (h order) Less(i, j int) bool { return h[i].deadline < h[j].deadline }

func (h order) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = int32(i), int32(j)
}

func (h *order) Push(x any) {
	l := x.(*lease)
	l.place = int32(len(*h))
	*h = append(*h, l)
}

func (h *order) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	l.place = -1
	return l
}
