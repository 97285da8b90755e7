package feed

import (
	"container/list"
	"sort"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What all rings of a node hold together, and how much one read adds to one.
const (
	ringBytes  = 8 << 20
	ringEvents = 16_000
	fillBytes  = 1 << 20 // a revision with more is in no ring
)

// ring has the last changes of a zone, all of its keys, with what was there before.
//
// base <= through; events are those of the revisions in (base, through], in order.
type ring struct {
	id    nexusraft.ZoneID
	zone  Zone
	users int           // guarded by Feeds.mu
	place *list.Element // in Feeds.recent; nil: it holds nothing

	filling sync.Mutex // held by who reads more into it

	// What follows is guarded by Feeds.mu, and changed by who holds filling; another ring may drop events.
	begun         bool // base and through are a place in the zone's history
	base, through int64
	events        []*mvccpb.Event
	sizes         []int
	bytes         int             // the sum of sizes
	applied       <-chan struct{} // closed: there may be more than through; nil: there is
}

// isCurrent reports whether all was read that there was to read.
func (r *ring) isCurrent() bool {
	select {
	case <-r.applied:
		return false
	default:
		return r.applied != nil
	}
}

// after returns the events of the revisions after one, which is at least base.
func (r *ring) after(rev int64) []*mvccpb.Event {
	return r.events[sort.Search(len(r.events), func(i int) bool { return r.events[i].Kv.ModRevision > rev }):]
}

// begin empties it; what comes next are the changes after a revision.
func (r *ring) begin(rev int64) {
	r.drop(len(r.events))
	r.begun, r.base, r.through = true, rev, rev
}

// add adds the events of the revisions up to one.
func (r *ring) add(events []*mvccpb.Event, through int64) {
	for _, e := range events {
		size := sizeOf(e)
		r.events, r.sizes, r.bytes = append(r.events, e), append(r.sizes, size), r.bytes+size
	}
	r.through = through
}

// dropRevision drops the oldest revision that has events here.
func (r *ring) dropRevision() {
	rev, n := r.events[0].Kv.ModRevision, 1
	for n < len(r.events) && r.events[n].Kv.ModRevision == rev {
		n++
	}
	r.drop(n)
	r.base = rev
}

// drop drops the first events; base is to follow. What was handed out keeps its own slice's array.
func (r *ring) drop(n int) {
	for i, size := range r.sizes[:n] {
		r.bytes -= size
		r.events[i] = nil
	}
	r.events, r.sizes = r.events[n:], r.sizes[n:]
}

// eventBytes is about what an event takes besides keys and values.
const eventBytes = 256

func sizeOf(e *mvccpb.Event) int {
	size := eventBytes + len(e.Kv.Key) + len(e.Kv.Value)
	if e.PrevKv != nil {
		size += eventBytes + len(e.PrevKv.Value)
	}
	return size
}
