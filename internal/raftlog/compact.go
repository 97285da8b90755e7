package raftlog

import (
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// Compact stages the removal of the entries up to and including upTo, which is at most the
// applied index. It does nothing when they are gone already.
func (l *Log) Compact(b *storage.Batch, upTo nexusraft.Index) error {
	if upTo > l.applied {
		return l.errorf("compact up to %d, applied only up to %d", upTo, l.applied)
	}
	if upTo <= l.meta.Compacted {
		return nil
	}
	if err := b.DeleteRange(l.tree, entryKey(l.zone, l.outline.first()), entryKey(l.zone, upTo+1)); err != nil {
		return l.wrap("delete compacted entries", err)
	}
	next := l.meta
	next.Compacted, next.CompactedTerm = upTo, l.outline.term(upTo)
	if err := l.putMeta(b, next); err != nil {
		return err
	}
	l.outline.compact(upTo)
	l.tail.compact(upTo)
	return nil
}

// CompactOver stages the removal of the older half of a log that has more than so many entries or bytes.
// What follows an index of needed, that of a snapshot which is on its way, stays, or its receiver would
// never catch up; with more than four times as many it does not.
func (l *Log) CompactOver(b *storage.Batch, entries int, bytes int64, needed iter.Seq[nexusraft.Index]) error {
	if l.Len() <= entries && l.Bytes() <= bytes {
		return nil
	}
	upTo := min(l.applied, l.outline.first()+nexusraft.Index(l.Len()/2))
	if l.Len() <= 4*entries && l.Bytes() <= 4*bytes {
		for index := range needed {
			upTo = min(upTo, index)
		}
	}
	return l.Compact(b, upTo)
}
