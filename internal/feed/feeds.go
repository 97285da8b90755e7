package feed

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"sort"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Zone is a replica whose changes are followed. Its methods may be called from many goroutines.
type Zone interface {
	// Applied returns a channel that is closed when the replica may have applied more, and when it stops.
	Applied() (<-chan struct{}, error)

	// Permits returns nexusraft.ErrDenied if ctx is that of a call whose caller may not make it any more.
	Permits(ctx context.Context) error

	// ReadLocal calls fn with the replica's state, if Permits does, and returns its error as it is.
	ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error
}

// Want says which changes a follower wants. Key and RangeEnd are as in etcd: with no end it is that key, with one zero
// byte all keys from Key on, and all keys if Key is empty or one zero byte then.
type Want struct {
	Key, RangeEnd   []byte
	Match           func(key []byte) bool // if it is set, it says which keys, and not Key and RangeEnd
	PrevKV          bool                  // with what was there before the revision, unless that was compacted
	NoPut, NoDelete bool
}

// Has reports whether the changes of a key are wanted.
func (w *Want) Has(key []byte) bool {
	switch {
	case w.Match != nil:
		return w.Match(key)
	case len(w.RangeEnd) == 0:
		return bytes.Equal(key, w.Key)
	case len(w.RangeEnd) == 1 && w.RangeEnd[0] == 0:
		return bytes.Compare(key, w.Key) >= 0
	}
	return bytes.Compare(key, w.Key) >= 0 && bytes.Compare(key, w.RangeEnd) < 0
}

// Batch are the changes of whole revisions. It may be shared with others, and is not to be changed.
type Batch struct {
	Events  []*mvccpb.Event
	Through int64 // the last revision whose changes were looked at
}

// At once so many followers who are behind read from the states of a node, and so much each, or one revision.
const (
	readersBehind = 8
	batchBytes    = 64 << 10
)

// Feeds are the changes of all key spaces of a node. Its methods may be called from many goroutines.
type Feeds struct {
	// MaxRevisionBytes is up to how much one revision may have for a follower: kv.MaxRangeBytes, unless it is set
	// before anything is followed.
	MaxRevisionBytes int

	zones  func(nexusraft.ZoneID) (Zone, error)
	behind chan struct{} // holds one for each follower who reads from a state

	mu     sync.RWMutex // guards what follows, and what the rings hold
	rings  map[nexusraft.ZoneID]*ring
	recent list.List // the rings that hold anything, the one that was read for last in front
	bytes  int       // that all rings hold
	events int
}

// New returns the feeds of a node, whose zones it is given: an error says why a zone can't be followed.
func New(zones func(nexusraft.ZoneID) (Zone, error)) *Feeds {
	return &Feeds{
		MaxRevisionBytes: kv.MaxRangeBytes,

		zones: zones, behind: make(chan struct{}, readersBehind), rings: make(map[nexusraft.ZoneID]*ring),
	}
}

// Next waits until the zone's replica here has a revision above after, and returns the changes of the revisions in
// (after, Through] that are wanted: whole revisions, about 64 KiB at most, or one. There may be none; then the
// follower goes on at Through. A follower of what comes from now on asks with the newest revision that it has read.
//
// Where ctx is that of a client's call, its right is looked at before anything is returned, and a revision with more
// than that counts for the call's answer (budget.Reserve). Errors: kv.CompactedError, which is kv.ErrCompacted, if
// after+1 is below the compaction revision, unless the changes are still in memory; kv.ErrNoHistory;
// nexusraft.ErrDenied; those of the zone if it ends or is not here; a budget.Exceeded; a kv.LargeRevisionError if one
// revision has over 1 GiB for the follower; the context's.
func (f *Feeds) Next(ctx context.Context, zone nexusraft.ZoneID, after int64, w Want) (Batch, error) {
	d, err := f.Open(zone)
	if err != nil {
		return Batch{}, err
	}
	defer d.Close()
	for {
		b, more, err := d.Take(ctx, after, w)
		if large, ok := errors.AsType[*kv.LargeRevisionError](err); ok {
			b, err = d.TakeRevision(ctx, large.Revision, w)
		}
		if err != nil || b.Through > after {
			return b, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Batch{}, fmt.Errorf("wait for changes: %w", context.Cause(ctx))
		}
	}
}

// Feed is the feed of a zone for one follower, or for several in turn. Its methods are for one goroutine.
type Feed struct {
	feeds *Feeds
	ring  *ring
}

// Open returns the feed of a zone; Close must follow. While a zone has any, its last changes stay in memory.
func (f *Feeds) Open(id nexusraft.ZoneID) (*Feed, error) {
	zone, err := f.zones(id)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rings[id]
	if r == nil {
		r = &ring{id: id, zone: zone}
		f.rings[id] = r
	}
	r.users++
	return &Feed{f, r}, nil
}

// Close gives the feed up.
func (d *Feed) Close() {
	f := d.feeds
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.ring.users--; d.ring.users == 0 {
		delete(f.rings, d.ring.id)
		f.empty(d.ring)
	}
}

// empty has a ring hold nothing; mu is held.
func (f *Feeds) empty(r *ring) {
	f.bytes, f.events = f.bytes-r.bytes, f.events-len(r.events)
	r.begin(r.through)
	if r.place != nil {
		f.recent.Remove(r.place)
		r.place = nil
	}
}

// Standing returns the newest revision of the replica's state, and its compaction revision, or kv.ErrNoHistory.
func (d *Feed) Standing(ctx context.Context) (newest, compacted int64, err error) {
	err = d.ring.zone.ReadLocal(ctx, func(r nexusraft.Reader) error {
		c, err := kv.ReadChanges(r, kv.ChangesRequest{After: math.MaxInt64 - 1})
		newest, compacted = c.Newest, c.Compacted
		return err
	})
	return newest, compacted, err
}

// Take is Feeds.Next, but does not wait: without anything new it returns a batch through after, and a channel that is
// closed when there may be more. If the first revision has more than it may, it returns a kv.LargeRevisionError,
// and TakeRevision gives that revision.
func (d *Feed) Take(ctx context.Context, after int64, w Want) (b Batch, more <-chan struct{}, err error) {
	if err := d.fill(); err != nil {
		return Batch{}, nil, err
	}
	b, more, ok := d.fromRing(after, &w)
	if !ok {
		b, err = d.fromState(ctx, after, w, batchBytes)
		return b, closed, err
	}
	if err := d.ring.zone.Permits(ctx); err != nil {
		return Batch{}, nil, err
	}
	return b, more, nil
}

// TakeRevision returns the changes of one revision that are wanted. If they take more than a batch may, ctx's answer
// counts for it: twice what they take, as they are and encoded. Over 1 GiB they are a kv.LargeRevisionError: the
// follower can only go on without them.
func (d *Feed) TakeRevision(ctx context.Context, rev int64, w Want) (Batch, error) {
	b, err := d.fromState(ctx, rev-1, w, batchBytes)
	if large, ok := errors.AsType[*kv.LargeRevisionError](err); ok && large.Revision == rev {
		if large.Bytes > d.feeds.MaxRevisionBytes {
			return Batch{}, large
		}
		if err := budget.Reserve(ctx, 2*int64(large.Bytes)); err != nil {
			return Batch{}, err
		}
		return d.fromState(ctx, rev-1, w, 0)
	}
	if err != nil {
		return Batch{}, err
	}
	b.Events = b.Events[:sort.Search(len(b.Events), func(i int) bool { return b.Events[i].Kv.ModRevision > rev })]
	return Batch{b.Events, rev}, nil
}

// closed is a channel on which nobody waits.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// fromState reads what a follower wants from the zone's state.
func (d *Feed) fromState(ctx context.Context, after int64, w Want, most int) (Batch, error) {
	select {
	case d.feeds.behind <- struct{}{}:
		defer func() { <-d.feeds.behind }()
	case <-ctx.Done():
		return Batch{}, fmt.Errorf("wait to read changes: %w", context.Cause(ctx))
	}
	var c kv.Changes
	err := d.ring.zone.ReadLocal(ctx, func(r nexusraft.Reader) (err error) {
		c, err = kv.ReadChanges(r, kv.ChangesRequest{
			After: after, Want: w.Has, PrevKV: w.PrevKV, NoPut: w.NoPut, NoDelete: w.NoDelete, Bytes: most,
		})
		return err
	})
	return Batch{c.Events, c.Through}, err
}

// fromRing returns what the ring has after a revision; false: the follower is behind it.
func (d *Feed) fromRing(after int64, w *Want) (b Batch, more <-chan struct{}, ok bool) {
	f, r := d.feeds, d.ring
	f.mu.RLock()
	defer f.mu.RUnlock()
	if after < r.base {
		return Batch{}, nil, false
	}
	b.Through = max(after, r.through)
	if more = r.applied; more == nil || b.Through > after {
		more = closed
	}
	size := 0
	for _, e := range r.after(after) {
		if size >= batchBytes && e.Kv.ModRevision > b.Events[len(b.Events)-1].Kv.ModRevision {
			b.Through = b.Events[len(b.Events)-1].Kv.ModRevision
			break
		}
		deleted := e.Type == mvccpb.DELETE
		if deleted && w.NoDelete || !deleted && w.NoPut || !w.Has(e.Kv.Key) {
			continue
		}
		if e.PrevKv != nil && (!w.PrevKV || e.Kv.ModRevision <= r.compacted) { // as from the state
			e = &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		}
		b.Events, size = append(b.Events, e), size+sizeOf(e)
	}
	return b, more, true
}

// fill reads what the ring does not have yet, unless somebody else has by the time that it is its turn.
func (d *Feed) fill() error {
	f, r := d.feeds, d.ring
	if f.isCurrent(r) {
		return nil
	}
	r.filling.Lock()
	defer r.filling.Unlock()
	if f.isCurrent(r) {
		return nil
	}
	applied, err := r.zone.Applied() // before the state is read, so that nothing falls in between
	if err != nil {
		return err
	}
	f.mu.RLock()
	begun, after := r.begun, r.through
	f.mu.RUnlock()
	c, again, err := readForRing(r.zone, begun, after)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.applied = applied; c.Through < c.Newest {
		r.applied = nil
	}
	r.compacted = c.Compacted
	if again {
		f.empty(r)
		r.begin(c.Through)
		return nil
	}
	f.add(r, c)
	return nil
}

func (f *Feeds) isCurrent(r *ring) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return r.isCurrent()
}

// readForRing reads on for a ring. Again says that it has to begin again after Through: it begins, or there is more in
// between than it can have.
func readForRing(z Zone, begun bool, after int64) (c kv.Changes, again bool, err error) {
	err = z.ReadLocal(context.Background(), func(r nexusraft.Reader) error {
		if begun {
			c, err = kv.ReadChanges(r, kv.ChangesRequest{After: after, PrevKV: true, Bytes: fillBytes})
			large, isLarge := errors.AsType[*kv.LargeRevisionError](err)
			if isLarge {
				after = large.Revision
			} else if !errors.Is(err, kv.ErrCompacted) {
				return err
			}
		}
		s, err := kv.StandingOf(r)
		if !begun || after < s.Compacted {
			after = s.Newest
		}
		c, again = kv.Changes{Through: after, Newest: s.Newest, Compacted: s.Compacted}, true
		return err
	})
	return c, again, err
}

// add adds changes to a ring. If there is too much then, the rings that were read for longest ago are emptied, and
// last of all this one loses its oldest revisions; mu is held.
func (f *Feeds) add(r *ring, c kv.Changes) {
	bytes, events := r.bytes, len(r.events)
	r.add(c.Events, c.Through)
	f.bytes, f.events = f.bytes+r.bytes-bytes, f.events+len(r.events)-events
	if len(r.events) == 0 {
		return
	}
	if r.place == nil {
		r.place = f.recent.PushFront(r)
	} else {
		f.recent.MoveToFront(r.place)
	}
	for f.full() && f.recent.Back() != r.place {
		f.empty(f.recent.Back().Value.(*ring))
	}
	for f.full() && len(r.events) > 0 {
		bytes, events := r.bytes, len(r.events)
		r.dropRevision()
		f.bytes, f.events = f.bytes+r.bytes-bytes, f.events+len(r.events)-events
	}
}

func (f *Feeds) full() bool { return f.bytes > ringBytes || f.events > ringEvents }
