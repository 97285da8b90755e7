package kv

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ChangesRequest says which changes are read.
type ChangesRequest struct {
	After  int64 // the revision after which they begin
	PrevKV bool  // events have the pair that was there before the revision, unless that is compacted

	// Want says whether the changes of a key are to be among the events; nil: of all keys. The key is borrowed. A
	// change that is not wanted costs its row, and reads neither pair nor value.
	Want            func(key []byte) bool
	NoPut, NoDelete bool // no change of that kind is

	// Bytes is about how many bytes the events may take in memory; 0: those of the first revision, whatever they take.
	Bytes int
}

// Changes are what has changed in some revisions, in the order in which it was changed.
type Changes struct {
	Events    []*mvccpb.Event
	Through   int64 // the last revision whose changes were looked at; all that are wanted are in Events
	Newest    int64 // revision
	Compacted int64 // revision; -1: never
	Bytes     int   // that Events take in memory, about
}

// CompactedError is ErrCompacted with the compaction revision.
type CompactedError struct{ Revision int64 }

// Error implements error.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: the oldest revision with its changes is %d", ErrCompacted, e.Revision)
}

// Unwrap returns ErrCompacted.
func (*CompactedError) Unwrap() error { return ErrCompacted }

// LargeRevisionError is why nothing was read: the events of the first revision take more than they may.
type LargeRevisionError struct {
	Revision int64
	Bytes    int
}

// Error implements error.
func (e *LargeRevisionError) Error() string {
	return fmt.Sprintf("kv: the changes of revision %d take %d bytes", e.Revision, e.Bytes)
}

// changesScanned is up to how many changes one read looks at, but for a revision that has more.
const changesScanned = 4096

// eventOverhead is about what an event takes in memory besides keys and values, and once more with a previous pair.
const eventOverhead = 192

// ReadChanges returns the changes of whole revisions after one, up to the newest revision or as many as a read looks
// at. Where the newest is not after it, there are none. The events share nothing with r, but may share
// pairs with each other, and are not to be changed. They are those that etcd's watch has: a put has the whole
// pair, a delete the key and its own revision as mod revision.
//
// The changes of the compaction revision are there; those of earlier ones are a CompactedError. A put that its own
// revision has superseded is missing from the compaction revision, as in etcd. Other errors: a LargeRevisionError,
// ErrNoHistory in a zone below VersionHistory that has any revision, errors of r, nexusraft.ErrCorrupt.
func ReadChanges(r nexusraft.Reader, q ChangesRequest) (Changes, error) {
	m, err := loadMeta(r)
	if err != nil {
		return Changes{}, err
	}
	switch {
	case m.layout == layoutNewest && m.revision > firstRevision:
		return Changes{}, ErrNoHistory
	case q.After+1 < m.compacted:
		return Changes{}, &CompactedError{m.compacted}
	}
	if q.After = max(q.After, firstRevision); q.After >= m.revision { // which has no changes
		return Changes{Through: q.After, Newest: m.revision, Compacted: m.compacted}, nil
	}
	if err := checkBegin(r, m, q.After); err != nil {
		return Changes{}, err
	}
	c := changesReader{r: r, q: q, meta: m, answer: Changes{
		Through: q.After, Newest: m.revision, Compacted: m.compacted,
	}}
	if err := c.scan(); err != nil {
		return Changes{}, err
	}
	return c.answer, nil
}

// checkBegin refuses to begin at a compaction revision whose changes are not known: there the zone went over from
// layoutNewest.
func checkBegin(r nexusraft.Reader, m meta, after int64) error {
	if after+1 != m.compacted || m.compacted <= firstRevision {
		return nil
	}
	_, known, err := r.Get(changeKey(position{m.compacted, 0}))
	if err == nil && !known {
		err = &CompactedError{m.compacted + 1}
	}
	return err
}

// changesReader reads changes in order. What it has of the revision that it is at becomes a part of the answer once
// that is whole.
type changesReader struct {
	r      nexusraft.Reader
	q      ChangesRequest
	meta   meta
	answer Changes

	at        int64 // the revision
	scanned   int
	events    []*mvccpb.Event  // of that revision
	bytes     int              // that they take
	measuring bool             // they take too much: only bytes is counted
	before    map[string]int64 // what its keys were before it: mod revisions, 0: nothing
}

func (c *changesReader) scan() error {
	c.at = c.q.After
	for p, err := range c.r.Scan(changeKey(position{c.at + 1, 0}), []byte{prefixChange + 1}) {
		if err != nil {
			return err
		}
		at, ch, err := decodeChange(p.Key, p.Value)
		if err != nil {
			return err
		}
		if at.rev > c.at {
			if err := c.whole(); err != nil || c.full() {
				return err
			}
			c.at = at.rev
			clear(c.before)
		}
		if c.scanned++; c.q.Want != nil && !c.q.Want(ch.key) {
			continue
		}
		if fits, err := c.add(at, ch); err != nil || !fits {
			return err
		}
	}
	if err := c.whole(); err != nil {
		return err
	}
	c.answer.Through = c.meta.revision
	return nil
}

// whole makes the events of the revision that has ended a part of the answer.
func (c *changesReader) whole() error {
	if c.measuring {
		return &LargeRevisionError{c.at, c.bytes}
	}
	c.answer.Events, c.events = append(c.answer.Events, c.events...), c.events[:0]
	c.answer.Bytes, c.bytes = c.answer.Bytes+c.bytes, 0
	c.answer.Through = max(c.answer.Through, c.at)
	return nil
}

// full reports whether the answer ends at the revision that it has.
func (c *changesReader) full() bool {
	switch {
	case c.scanned == 0:
		return false
	case c.q.Bytes == 0:
		return true
	}
	return c.scanned >= changesScanned || c.answer.Bytes >= c.q.Bytes
}

// add adds an event to the revision. It returns false if the answer has to end before that.
func (c *changesReader) add(at position, ch change) (fits bool, err error) {
	e, size, err := c.event(at, ch)
	if err != nil || size == 0 {
		return true, err
	}
	c.bytes += size
	if c.measuring {
		return true, nil
	}
	if e != nil {
		c.events = append(c.events, e)
	}
	switch {
	case c.q.Bytes == 0 || c.answer.Bytes+c.bytes <= c.q.Bytes:
	case c.answer.Through > c.q.After:
		return false, nil
	default:
		c.measuring, c.events = true, nil
	}
	return true, nil
}

// event returns a change as an event, and what it takes; 0: it is none. It is nil for a kind that is not wanted,
// and void while the reader only measures.
func (c *changesReader) event(at position, ch change) (e *mvccpb.Event, size int, err error) {
	key := bytes.Clone(ch.key)
	size = eventOverhead + len(key)
	if ch.deleted && c.q.NoDelete || !ch.deleted && c.q.NoPut {
		if !c.q.PrevKV {
			return nil, 0, nil
		}
		c.modBefore(key, ch.prev) // a later change of the revision may ask
		return nil, size, nil
	}
	e = &mvccpb.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: key, ModRevision: at.rev}}
	if !ch.deleted {
		rec, kept, err := c.made(key, at)
		if err != nil || !kept {
			return nil, 0, err
		}
		size += rec.length
		if e.Type = mvccpb.PUT; !c.measuring {
			if e.Kv, err = c.pair(key, rec); err != nil {
				return nil, 0, err
			}
		}
	}
	if !c.q.PrevKV || at.rev <= c.meta.compacted {
		return e, size, nil
	}
	mod := c.modBefore(key, ch.prev)
	if mod == 0 || mod == at.rev {
		return e, size, nil
	}
	prev, err := superseded(c.r, key, mod)
	if err != nil {
		return nil, 0, err
	}
	if !c.measuring {
		if e.PrevKv, err = c.pair(key, prev); err != nil {
			return nil, 0, err
		}
	}
	return e, size + eventOverhead + prev.length, nil
}

// made returns the version that a put has made; its value is borrowed.
func (c *changesReader) made(key []byte, at position) (rec record, kept bool, err error) {
	rec, kept, err = get(c.r, key)
	if err == nil && (!kept || rec.mod != at.rev) {
		rec, kept, err = findSuperseded(c.r, key, at.rev)
	}
	switch {
	case err != nil:
		return record{}, false, err
	case at.rev <= c.meta.compacted && (!kept || rec.end == at.rev): // swept, or to be
		return record{}, false, nil
	case !kept || rec.sub != int64(at.sub):
		return record{}, false, errCorrupt("change %d.%d of key %q, which has made no version", at.rev, at.sub, key)
	}
	return rec, true, nil
}

func (c *changesReader) pair(key []byte, rec record) (*mvccpb.KeyValue, error) {
	value, err := rec.load(c.r, key)
	return rec.keyValue(key, value), err
}

// modBefore returns which version of a key was there before the revision, of which this may not be the first change
// of that key. While it measures it keeps nothing.
func (c *changesReader) modBefore(key []byte, prev int64) int64 {
	if mod, changed := c.before[string(key)]; changed {
		return mod
	}
	if c.measuring {
		return prev
	}
	if c.before == nil {
		c.before = make(map[string]int64)
	}
	c.before[string(key)] = prev
	return prev
}
