package raftlog

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Log is one replica's log and what belongs to it. It implements raft.Storage.
//
// The package comment says how its changes are staged. A Log belongs to the worker of its
// zone: no two of its methods may run at the same time.
type Log struct {
	tree *storage.Tree
	zone nexusraft.ZoneID

	// Compacted <= applied <= commit <= last index (invariant I2), and the last entry's
	// term <= the current one: see valid.
	meta      Meta
	hardState *raftpb.HardState // every field set; replaced, never changed
	applied   nexusraft.Index

	outline outline // all entries, without their payload
	tail    tail    // the newest entries
}

func newLog(t *storage.Tree, zone nexusraft.ZoneID, m Meta, hs *raftpb.HardState, applied nexusraft.Index) *Log {
	return &Log{
		tree:      t,
		zone:      zone,
		meta:      m.clone(),
		hardState: fullHardState(hs),
		applied:   applied,
		outline:   newOutline(m.Compacted, m.CompactedTerm),
		tail:      tail{maxEntries: maxTailEntries, maxBytes: maxTailBytes},
	}
}

// valid returns an error that names the first invariant that does not hold (I2).
func (l *Log) valid() error {
	commit, last := nexusraft.Index(l.hardState.GetCommit()), l.outline.last()
	switch {
	case commit < l.meta.Compacted || commit > last:
		return fmt.Errorf("commit index %d is outside the log, %d to %d", commit, l.meta.Compacted, last)
	case l.applied < l.meta.Compacted || l.applied > commit:
		return fmt.Errorf("applied index %d is outside %d (compacted) to %d (commit)", l.applied, l.meta.Compacted, commit)
	case uint64(l.outline.lastTerm()) > l.hardState.GetTerm():
		return fmt.Errorf("entry %d is of term %d, later than the current term %d", last, l.outline.lastTerm(),
			l.hardState.GetTerm())
	}
	return nil
}

// Meta returns what the replica is, as staged. Its slices must not be changed.
func (l *Log) Meta() Meta { return l.meta.clone() }

// HardState returns a copy of the hard state, as staged, with every field set.
func (l *Log) HardState() *raftpb.HardState { return proto.CloneOf(l.hardState) }

// Applied returns the index up to which the zone's state has been applied, as staged.
// raft.Config.Applied must be given it: the conf state is as of this index.
func (l *Log) Applied() nexusraft.Index { return l.applied }

// Len returns the number of entries.
func (l *Log) Len() int { return len(l.outline.sizes) }

// Bytes returns the size of all entries in their stored form, keys not counted.
func (l *Log) Bytes() int64 { return l.outline.bytes }

// Share has the log's newest entries share memory with those of other logs. It is called once, before Append.
func (l *Log) Share(m *Memory) { l.tail.memory = m }

// Forget drops the newest entries from memory: nobody is about to ask for them. All of them must be on the disk: none
// may be staged and not committed. A Log that shares memory and is used no more forgets, too.
func (l *Log) Forget() { l.tail.clear() }

// Append stages entries after the log's last, or in place of a conflicting suffix, of which
// nothing is left behind (invariant I7).
//
// Entries are contiguous and begin above the commit index and at most at the last index
// plus one; their terms never go down. The Log keeps them for later reads, so neither they
// nor their data may be changed from here on. Between two calls the first one's batch is
// committed. It returns an error of the storage package, or one that says what is wrong
// with the entries; see the package comment.
func (l *Log) Append(b *storage.Batch, entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := l.allowAppend(entries); err != nil {
		return err
	}
	sizes, err := l.putEntries(b, entries)
	if err != nil {
		return err
	}
	first := nexusraft.Index(entries[0].GetIndex())
	newLast := nexusraft.Index(entries[len(entries)-1].GetIndex())
	if last := l.outline.last(); newLast < last {
		if err := b.DeleteRange(l.tree, entryKey(l.zone, newLast+1), entryKey(l.zone, last+1)); err != nil {
			return l.wrap("delete conflicting entries", err)
		}
	}
	l.tail.truncate(first)
	l.tail.trim()
	l.outline.truncate(first)
	for i, e := range entries {
		l.outline.append(nexusraft.Term(e.GetTerm()), sizes[i])
		l.tail.append(e)
	}
	return nil
}

func (l *Log) allowAppend(entries []*raftpb.Entry) error {
	first := nexusraft.Index(entries[0].GetIndex())
	if commit := nexusraft.Index(l.hardState.GetCommit()); first <= commit {
		return l.errorf("append at %d would replace entries that are committed up to %d", first, commit)
	}
	if last := l.outline.last(); first > last+1 {
		return l.errorf("append at %d leaves a gap after %d", first, last)
	}
	term := l.outline.term(first - 1)
	for i, e := range entries {
		if want := first + nexusraft.Index(i); e.GetIndex() != uint64(want) {
			return l.errorf("append of index %d where %d follows", e.GetIndex(), want)
		}
		if e.GetTerm() == 0 || e.GetTerm() < uint64(term) {
			return l.errorf("append of entry %d of term %d after one of term %d", e.GetIndex(), e.GetTerm(), term)
		}
		term = nexusraft.Term(e.GetTerm())
	}
	return nil
}

// putEntries stages the entries alone and returns their sizes.
func (l *Log) putEntries(b *storage.Batch, entries []*raftpb.Entry) ([]int, error) {
	var buf []byte
	sizes := make([]int, len(entries))
	for i, e := range entries {
		var err error
		if buf, err = (proto.MarshalOptions{}).MarshalAppend(buf[:0], e); err != nil {
			return nil, l.wrap("encode an entry", err)
		}
		if err := b.Set(l.tree, entryKey(l.zone, nexusraft.Index(e.GetIndex())), buf); err != nil {
			return nil, l.wrap("write an entry", err)
		}
		sizes[i] = len(buf)
	}
	return sizes, nil
}

// SetHardState stages a new hard state; an empty one means no change, as in raft.Ready.
//
// Term and commit never go down, a vote never changes within its term, and the commit index
// is within the log, what Append has staged included. Otherwise an error says which.
func (l *Log) SetHardState(b *storage.Batch, hs *raftpb.HardState) error {
	if raft.IsEmptyHardState(hs) {
		return nil
	}
	if err := l.allowVote(hs, l.outline.lastTerm()); err != nil {
		return err
	}
	if old, last := l.hardState.GetCommit(), l.outline.last(); hs.GetCommit() < old || hs.GetCommit() > uint64(last) {
		return l.errorf("commit moves from %d to %d, with entries up to %d", old, hs.GetCommit(), last)
	}
	return l.putHardState(b, hs)
}

// allowVote checks term and vote of a new hard state, for a log whose last term is given.
func (l *Log) allowVote(hs *raftpb.HardState, lastTerm nexusraft.Term) error {
	old := l.hardState
	switch {
	case hs.GetTerm() < old.GetTerm():
		return l.errorf("hard state goes back from term %d to %d", old.GetTerm(), hs.GetTerm())
	case hs.GetTerm() == old.GetTerm() && old.GetVote() != 0 && hs.GetVote() != old.GetVote():
		return l.errorf("vote in term %d changes from %x to %x", hs.GetTerm(), old.GetVote(), hs.GetVote())
	case hs.GetTerm() < uint64(lastTerm):
		return l.errorf("hard state of term %d, with a log up to term %d", hs.GetTerm(), lastTerm)
	}
	return nil
}

// SetApplied stages the index up to which the zone's state is applied; the same batch holds
// the effects up to it (invariant I2). It never goes down and is at most the commit index.
func (l *Log) SetApplied(b *storage.Batch, index nexusraft.Index) error {
	if commit := nexusraft.Index(l.hardState.GetCommit()); index < l.applied || index > commit {
		return l.errorf("applied index moves from %d to %d, with commit index %d", l.applied, index, commit)
	}
	return l.putApplied(b, index)
}

// SetMembership stages the outcome of a conf change, in the batch in which SetApplied
// reaches its entry. cs is copied; the Log keeps m, so its slices must not be changed from
// here on. ErrTooLarge means that the membership has outgrown its limit.
func (l *Log) SetMembership(b *storage.Batch, cs *raftpb.ConfState, m nexusraft.Membership) error {
	next := l.meta
	next.ConfState, next.Membership = cs, m
	return l.putMeta(b, next)
}

// InstallSnapshot stages the switch to the state of a snapshot, which lies in stateTree: the
// whole log is removed, entries above the index too, and begins after it; applied and
// commit are the index.
//
// The index is above the commit index so far and at most that of hs. cs is copied; the Log keeps m,
// so its slices must not be changed from here on. Of hs, term and vote are taken: a commit index
// beyond the snapshot's needs entries, which Append and then SetHardState stage after this.
func (l *Log) InstallSnapshot(b *storage.Batch, index nexusraft.Index, term nexusraft.Term, cs *raftpb.ConfState,
	m nexusraft.Membership, stateTree string, hs *raftpb.HardState,
) error {
	if commit := l.hardState.GetCommit(); uint64(index) <= commit || uint64(index) > hs.GetCommit() {
		return l.errorf("snapshot at %d, where commit moves from %d to %d", index, commit, hs.GetCommit())
	}
	if err := l.allowVote(hs, term); err != nil {
		return err
	}
	if err := b.DeleteRange(l.tree, entryKey(l.zone, 0), recordKey(l.zone, kindEntry+1)); err != nil {
		return l.wrap("delete the log below a snapshot", err)
	}
	next := Meta{
		Replica: l.meta.Replica, StateTree: stateTree, Compacted: index, CompactedTerm: term,
		ConfState: cs, Membership: m,
	}
	if err := l.putMeta(b, next); err != nil {
		return err
	}
	hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(uint64(index))}
	if err := l.putHardState(b, hs); err != nil {
		return err
	}
	l.outline = newOutline(index, term)
	l.tail.drop(0, len(l.tail.entries))
	return l.putApplied(b, index)
}

func (l *Log) putMeta(b *storage.Batch, m Meta) error {
	value, err := encodeMeta(m)
	if err != nil {
		return l.wrap("change meta", err)
	}
	if err := b.Set(l.tree, recordKey(l.zone, kindMeta), value); err != nil {
		return l.wrap("write meta", err)
	}
	l.meta = m.clone()
	return nil
}

func (l *Log) putHardState(b *storage.Batch, hs *raftpb.HardState) error {
	value, err := encodeHardState(hs)
	if err != nil {
		return l.wrap("encode the hard state", err)
	}
	if err := b.Set(l.tree, recordKey(l.zone, kindHardState), value); err != nil {
		return l.wrap("write the hard state", err)
	}
	l.hardState = fullHardState(hs)
	return nil
}

func (l *Log) putApplied(b *storage.Batch, index nexusraft.Index) error {
	if err := b.Set(l.tree, recordKey(l.zone, kindApplied), encodeApplied(index)); err != nil {
		return l.wrap("write the applied index", err)
	}
	l.applied = index
	return nil
}

func (l *Log) errorf(format string, args ...any) error {
	return fmt.Errorf("zone %v: "+format, append([]any{l.zone}, args...)...)
}

func (l *Log) wrap(doing string, err error) error {
	return fmt.Errorf("zone %v: %s: %w", l.zone, doing, err)
}
