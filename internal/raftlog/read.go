package raftlog

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var _ raft.Storage = (*Log)(nil)

// InitialState implements raft.Storage. The conf state is as of Applied; neither is nil.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.HardState(), proto.CloneOf(l.meta.ConfState), nil
}

// FirstIndex implements raft.Storage: the entry after the compacted ones, there or not.
func (l *Log) FirstIndex() (uint64, error) { return uint64(l.outline.first()), nil }

// LastIndex implements raft.Storage: the compacted index if the log is empty.
func (l *Log) LastIndex() (uint64, error) { return uint64(l.outline.last()), nil }

// Term implements raft.Storage. It never touches the disk.
func (l *Log) Term(i uint64) (uint64, error) {
	index := nexusraft.Index(i)
	switch {
	case index < l.meta.Compacted:
		return 0, raft.ErrCompacted
	case index > l.outline.last():
		return 0, raft.ErrUnavailable
	}
	return uint64(l.outline.term(index)), nil
}

// Snapshot implements raft.Storage. It says what a snapshot taken now would be, and holds
// the encoded membership in place of data: index, term, conf state and membership are as of
// Applied. While that is 0 there is none.
//
// Between a commit and the next staged change, a storage snapshot is of the same moment.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	if l.applied == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{
		Data: l.meta.Membership.Encode(),
		Metadata: &raftpb.SnapshotMetadata{
			ConfState: proto.CloneOf(l.meta.ConfState),
			Index:     new(uint64(l.applied)),
			Term:      new(uint64(l.outline.term(l.applied))),
		},
	}, nil
}

// Entries implements raft.Storage. The slice is the caller's; the entries must not be
// changed. Besides raft's two errors there is ErrCorrupt, for a stored entry that is not
// the one that was written, and the store's own.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	from, to := nexusraft.Index(lo), nexusraft.Index(hi)
	switch {
	case from < l.outline.first():
		return nil, raft.ErrCompacted
	case to > l.outline.last()+1:
		return nil, raft.ErrUnavailable
	case from >= to:
		return nil, nil
	}
	to = l.outline.fit(from, to, maxSize)
	entries := make([]*raftpb.Entry, 0, to-from)
	cached := l.tail.first(l.outline.last())
	if from < cached {
		var err error
		if entries, err = l.readEntries(entries, from, min(to, cached)); err != nil {
			return nil, err
		}
		from = min(to, cached)
	}
	return append(entries, l.tail.entries[l.tail.position(from):l.tail.position(to)]...), nil
}

// readEntries appends the entries from <= index < to, read from disk, to dst.
func (l *Log) readEntries(dst []*raftpb.Entry, from, to nexusraft.Index) ([]*raftpb.Entry, error) {
	next := from
	for pair, err := range l.tree.Scan(entryKey(l.zone, from), entryKey(l.zone, to)) {
		if err != nil {
			return nil, l.wrap(fmt.Sprintf("read entries %d to %d", from, to-1), err)
		}
		_, _, index, err := parseKey(pair.Key)
		if err != nil {
			return nil, l.wrap("read entries", err)
		}
		if index != next {
			break
		}
		e, err := decodeEntry(pair.Value, index)
		if err != nil {
			return nil, l.wrap("read entries", err)
		}
		if want := l.outline.term(index); e.GetTerm() != uint64(want) {
			return nil, l.errorf("%w: entry %d is of term %d, not %d", nexusraft.ErrCorrupt, index, e.GetTerm(), want)
		}
		dst = append(dst, e)
		next++
	}
	if next != to {
		return nil, l.errorf("%w: entry %d is missing, the log is %d to %d",
			nexusraft.ErrCorrupt, next, l.outline.first(), l.outline.last())
	}
	return dst, nil
}
